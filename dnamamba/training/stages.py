"""Length warm-up: a run begins with short windows, and doubles them stage by stage.

Every stage has as many steps as the next, and every step as many bases, as in HyenaDNA (Nguyen et
al. 2023, arXiv 2306.15794, section 3.2) and in Mamba's pretraining on HG38.
"""

from dataclasses import dataclass

from dnamamba.errors import UsageError


@dataclass(frozen=True)
class Stage:
    """Steps of a run with windows of one length.

    Attributes
    ----------
    steps
        Counted from 0.
    length
        Bases of a window.
    batch
        Windows a step.
    """

    steps: range
    length: int
    batch: int


def lengths_up_to(length: int, first: int) -> list[int]:
    """Return `first`, twice that ... up to `length`.

    Raises
    ------
    UsageError
        Where doubling `first` does not lead to `length`.
    """
    doublings = (length // first).bit_length() - 1
    if first > length or first << doublings != length:
        raise UsageError(
            f"length_warmup {first}: doubling it does not lead to length {length}: "
            "give length divided by 2, 4, 8 ..."
        )
    return [first << power for power in range(doublings + 1)]


def plan_stages(steps: int, length: int, batch: int, first: int | None) -> list[Stage]:
    """Cut a run into stages.

    Parameters
    ----------
    steps
        Of the whole run; the last stage has the rest where they do not divide evenly.
    length, batch
        Bases of the last stage's windows, and windows of its steps.
    first
        Bases of the first stage's windows; None is one stage.

    Raises
    ------
    UsageError
        As `lengths_up_to`, or for fewer steps than stages.
    """
    lengths = [length] if first is None else lengths_up_to(length, first)
    share = steps // len(lengths)
    if not share:
        raise UsageError(
            f"length_warmup {first}: its {len(lengths)} lengths take as many steps at least, "
            f"and there are {steps}"
        )
    ends = [*(share * number for number in range(1, len(lengths))), steps]
    starts = [0, *ends[:-1]]
    return [
        Stage(range(start, end), here, batch * length // here)
        for start, end, here in zip(starts, ends, lengths, strict=True)
    ]
