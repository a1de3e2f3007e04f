"""Contexts longer than a classifier's windows: the evidence of windows side by side, combined."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from dnamamba.data.tracks import LabelledWindow, Tracks, group_by_locus, tile_tracks
from dnamamba.evaluation.calls import Calls, combine
from dnamamba.evaluation.contest import Contest

LONGEST: Final = 1 << 20
"""The longest context."""
FEWEST: Final = 2
"""Stretches of a longer context that every species must have for it to be reported."""


def longer_contests(
    contest: Contest, species: Tracks, windows: Sequence[LabelledWindow]
) -> list[Contest]:
    """Combine the evidence of windows that lie side by side: 4 of them, 16, and so on.

    Nothing is read for it: a stretch counts where all its windows were called.

    Parameters
    ----------
    contest
        What was called on the windows.
    species
        The tracks that they were cut from.
    windows
        As `tile_tracks` lays them.

    Returns
    -------
    A contest for each context up to `LONGEST` of which there is a stretch.
    """
    contests = []
    combined = 4
    while contest.length * combined <= LONGEST:
        longer = _combine(contest, species, windows, combined)
        if longer is None:
            break
        contests.append(longer)
        combined *= 4
    return contests


def with_enough(contests: Sequence[Contest]) -> list[Contest]:
    """Leave out longer contexts of which a species has fewer than `FEWEST` stretches.

    They are left out of reports alone: pooled, the folds of a cross-validation may have enough.
    """

    def fewest(contest: Contest) -> int:
        calls = contest.model
        return int(np.bincount(calls.labels, minlength=len(calls.classes)).min())

    return [each for each in contests if each.combined == 1 or fewest(each) >= FEWEST]


def _combine(
    contest: Contest, species: Tracks, windows: Sequence[LabelledWindow], combined: int
) -> Contest | None:
    numbers = {(each.species, each.track, each.start): at for at, each in enumerate(windows)}
    stretches, members = [], []
    for stretch in tile_tracks(species, contest.length * combined):
        starts = range(stretch.start, stretch.end, contest.length)
        found = [numbers.get((stretch.species, stretch.track, start)) for start in starts]
        inside = [number for number in found if number is not None]
        if len(inside) == combined:
            stretches.append(stretch)
            members.append(inside)
    if not stretches:
        return None
    labels = np.array([stretch.species for stretch in stretches], np.int64)
    loci = np.array(group_by_locus(species, stretches))

    def combine_all(calls: Calls) -> Calls:
        probabilities = np.stack([combine(calls.probabilities[rows]) for rows in members])
        return Calls(calls.classes, probabilities, labels, loci)

    return Contest(
        contest.length * combined,
        combine_all(contest.model),
        {name: combine_all(calls) for name, calls in contest.controls.items()},
        combined,
    )
