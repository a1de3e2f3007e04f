"""A classifier against its controls on the same windows: rows of a table, a sentence, its calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.errors import UsageError
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.intervals import Interval
from dnamamba.files import write_text

FEW_LOCI: Final = 20
"""Below so many, resampling them gives a rough interval."""


@dataclass(frozen=True)
class Contest:
    """What a model and its controls called on the same windows.

    Attributes
    ----------
    length
        Bases that a call is made of: the context.
    model
        The model's calls.
    controls
        Name to a control's calls.
    combined
        Windows whose evidence a call combines, the model's and the controls' alike; 1 where the
        model reads the context as one.

    Raises
    ------
    UsageError
        Where there is no control; and from `gains`, where one was asked about other windows.
    """

    length: int
    model: Calls
    controls: Mapping[str, Calls]
    combined: int = 1

    def __post_init__(self) -> None:
        if not self.controls:
            raise UsageError("a model alone shows nothing: give it a control at least")

    @cached_property
    def gains(self) -> dict[str, Interval]:
        """By how much the model's accuracy exceeds each control's; intervals are over loci."""
        return {name: self.model.gain_over(calls) for name, calls in self.controls.items()}

    @property
    def best(self) -> str:
        """The control of the highest accuracy, the first of equals."""
        return max(self.controls, key=lambda name: self.controls[name].correct.mean())

    @property
    def gain(self) -> Interval:
        """By how much the model's accuracy exceeds the best control's."""
        return self.gains[self.best]

    @property
    def rival(self) -> str | None:
        """The most accurate of the controls that the model is not shown to exceed, if any."""
        equal = {
            name: calls for name, calls in self.controls.items() if not self.gains[name].low > 0
        }
        return max(equal, key=lambda name: equal[name].correct.mean(), default=None)

    @property
    def chance(self) -> float:
        """The accuracy of calling every window what most of them are."""
        return float(np.bincount(self.model.labels).max() / len(self.model.labels))

    @property
    def loci(self) -> int:
        """How many the windows are of."""
        return np.unique(self.model.loci).size


def own(contests: Sequence[Contest]) -> Contest:
    """Return the contest that counts: at the longest context that the model reads as one window."""
    return max(
        (contest for contest in contests if contest.combined == 1),
        key=lambda contest: contest.length,
    )


@dataclass(frozen=True)
class Row:
    """The model or a control at one context.

    Attributes
    ----------
    context
        Bases that a call is made of.
    combined
        Windows whose evidence a call combines.
    name
        The model's or the control's.
    windows, loci
        How many.
    accuracy, low, high
        The share called right, and its 95 % interval over loci.
    macro_f1, log_loss, calibration_error
        Those of `Calls`; the loss in nats.
    gain, gain_low, gain_high
        By how much the model's accuracy exceeds the control's, and the 95 % interval over loci; NaN
        in the model's own row.
    """

    context: int
    combined: int
    name: str
    windows: int
    loci: int
    accuracy: float
    low: float
    high: float
    macro_f1: float
    log_loss: float
    calibration_error: float
    gain: float
    gain_low: float
    gain_high: float


COLUMNS: Final = tuple(field.name for field in fields(Row))


def rows(contests: Sequence[Contest], model_name: str) -> list[Row]:
    """Make the table: at each context the model's row, then its controls'."""
    table = []
    for contest in contests:
        none = Interval(math.nan, math.nan, math.nan)
        entries = [(model_name, contest.model, none)]
        entries += [(name, calls, contest.gains[name]) for name, calls in contest.controls.items()]
        for name, calls, gain in entries:
            figures = calls.macro_f1, calls.log_loss, calls.calibration_error
            counts = len(calls.labels), contest.loci
            table.append(
                Row(
                    contest.length,
                    contest.combined,
                    name,
                    *counts,
                    *calls.accuracy,
                    *figures,
                    *gain,
                )
            )
    return table


def write_contests(path: Path, table: Sequence[Row]) -> None:
    """Write rows as TSV with a lower-case header, atomically; what is NaN stays empty."""
    lines = ["\t".join(map(_text, astuple(row))) for row in table]
    write_text(path, "\n".join(["\t".join(COLUMNS), *lines]) + "\n")


def verdict(contests: Sequence[Contest], name: str) -> str:
    """Say in a sentence whether the model exceeds its controls and chance.

    Parameters
    ----------
    contests
        One for each context; that of `own` counts.
    name
        The model's.

    Returns
    -------
    A control or chance that the model does not exceed comes first: gains count where their interval
    lies above zero.
    """
    contest = own(contests)
    opponent = contest.rival or contest.best
    gain, gain_low, gain_high = contest.gains[opponent]
    accuracy, low, high = contest.model.accuracy
    if contest.rival:
        degree = "not clearly better" if gain > 0 else "no better"
        says = f"is {degree} than {opponent}, so it has not shown that it reads more than that"
    elif not low > contest.chance:
        says = "is no better than chance, so it has not shown that it reads anything, "
        says += f"though it beats {opponent}"
    else:
        says = f"beats its best control, {opponent}"
    doubt = ""
    if contest.loci == 1:
        doubt = "; one locus alone does not say how sure these figures are"
    elif contest.loci < FEW_LOCI:
        doubt = f"; {contest.loci} loci are few, so the intervals are rough"
    return (
        f"{name} {says}: a gain of {percent(gain)} points at {contest.length:,} bases"
        f"{_between(gain_low, gain_high, '95 % interval ', f' over {contest.loci} loci')}, "
        f"{percent(accuracy)} % of {len(contest.model.labels):,} windows right"
        f"{_between(low, high)} against {percent(contest.controls[opponent].correct.mean())} %, "
        f"{percent(contest.chance)} % by chance{doubt}"
    )


def percent(share: float) -> str:
    """Write a share as percent, without the sign; `-` where it is NaN."""
    # Adding zero takes the sign from what rounds to minus nothing.
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f}"


def _between(low: float, high: float, what: str = "", over: str = "") -> str:
    return "" if math.isnan(low) else f" ({what}{percent(low)} to {percent(high)}{over})"


@dataclass(frozen=True)
class Place:
    """Where a window lies.

    Attributes
    ----------
    locus
        In the coordinates that genomes share.
    region
        In its own genome.
    """

    locus: str
    region: str


def write_calls(path: Path, contest: Contest, places: Sequence[Place]) -> None:
    """Write what the model called each window as TSV with a lower-case header, atomically.

    Parameters
    ----------
    path
        The file. Its columns: the locus's number and place, the region, the true species, the
        called one and its probability, whether they are the same (1 or 0), and the probability of
        each class, `p_` before its name.
    contest
        The model's calls.
    places
        Of each window.

    Raises
    ------
    UsageError
        Where there are not as many places as windows.
    """
    calls = contest.model
    if len(places) != len(calls.labels):
        raise UsageError(f"{len(places)} places for {len(calls.labels)} windows")
    header = ("locus", "place", "region", "species", "called", "confidence", "right")
    lines = ["\t".join((*header, *(f"p_{name}" for name in calls.classes)))]
    for locus, place, label, called, probabilities in zip(
        calls.loci.tolist(),
        places,
        calls.labels.tolist(),
        calls.called.tolist(),
        calls.probabilities.tolist(),
        strict=True,
    ):
        names = calls.classes[label], calls.classes[called]
        right = int(called == label)
        where = locus, place.locus, place.region
        cells = (*where, *names, probabilities[called], right, *probabilities)
        lines.append("\t".join(map(_text, cells)))
    write_text(path, "\n".join(lines) + "\n")


def pool_folds(parts: Sequence[Calls]) -> Calls:
    """Join the test calls of the folds of a cross-validation, in order.

    Parameters
    ----------
    parts
        Each fold's. Their loci are others, whatever their numbers are.

    Raises
    ------
    UsageError
        Where there is no fold, or their classes are not the same.
    """
    if len({part.classes for part in parts}) != 1:
        raise UsageError(
            "folds can be pooled where there is one at least, and all have one order "
            "of the same classes"
        )
    loci, before = [], 0
    for part in parts:
        distinct, numbers = np.unique(part.loci, return_inverse=True)
        loci.append(numbers.astype(np.int64) + before)
        before += distinct.size
    return Calls(
        parts[0].classes,
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(loci),
    )


def _text(value: float | int | str) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
