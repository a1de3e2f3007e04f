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
"""Stretches of a context that every species must have."""


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
    A contest for each context up to `LONGEST`, while every species has `FEWEST` stretches of it.
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
    labels = np.array([stretch.species for stretch in stretches], np.int64)
    if np.bincount(labels, minlength=len(species)).min() < FEWEST:
        return None
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
