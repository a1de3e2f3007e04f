"""How a language model did beside its baselines: rows of a table, TSV in and out, a sentence."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from dnamamba.evaluation.language import Score
from dnamamba.files import write_text


@dataclass(frozen=True)
class Result:
    """One model on the held-out bases, a row of the table.

    Attributes
    ----------
    model
        Its name.
    bits_per_base, low, high
        Held-out bits per base, and the ends of its 95 % interval.
    perplexity
        2 to the power of the bits.
    accuracy
        Share of the bases that were the likeliest; NaN where it was not asked for.
    bases
        Bases seen in training.
    seconds
        Time taken to train.
    """

    model: str
    bits_per_base: float
    low: float
    high: float
    perplexity: float
    accuracy: float
    bases: int
    seconds: float


COLUMNS = tuple(field.name for field in fields(Result))


def summarise(model: str, score: Score, bases: int, seconds: float) -> Result:
    """Make a row of the table."""
    _, low, high = score.interval()
    return Result(
        model, score.bits_per_base, low, high, score.perplexity, score.accuracy, bases, seconds
    )


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write results as TSV with a lower-case header, atomically."""
    rows = ["\t".join(map(_text, astuple(result))) for result in results]
    write_text(path, "\n".join(["\t".join(COLUMNS), *rows]) + "\n")


def best_order(baselines: Sequence[Score]) -> int:
    """Return the Markov order with the fewest bits per base."""
    return min(range(len(baselines)), key=lambda order: baselines[order].bits_per_base)


def verdict(name: str, model: Score, baselines: Sequence[Score]) -> str:
    """Say in a sentence whether a model beats the best of its Markov baselines, order 0 first.

    The interval is that of the difference, window by window: most of what makes windows differ is
    the same for both.
    """
    order = best_order(baselines)
    gain, low, high = model.gain_over(baselines[order])
    figures = f"{model.bits_per_base:.4f} against {baselines[order].bits_per_base:.4f}"
    spread = "" if math.isnan(low) else f" (95 % interval {low:.4f} to {high:.4f})"
    if gain <= 0:
        return (
            f"{name} has not beaten order-{order} Markov ({figures} bits per base): "
            f"it has learned less than counts of {order + 1}-mers know"
        )
    doubt = "" if not low <= 0 else "; the interval does not exclude a tie"
    return (
        f"{name} beats order-{order} Markov by {gain:.4f} bits per base{spread}: {figures}{doubt}"
    )


def _text(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
