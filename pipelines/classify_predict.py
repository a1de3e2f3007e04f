"""Calls of a fitted classifier for the records of a FASTA, or for their windows."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.data.records import Record, read_records
from dnamamba.data.sheet import UNSURE
from dnamamba.errors import DnamambaError, UsageError
from dnamamba.evaluation.calls import combine
from dnamamba.inference.classify import BATCH_BASES, classify_windows, cut
from dnamamba.log import logger, progress
from dnamamba.models.classifier import (
    Classifier,
    ClassifierConfig,
    is_classifier_folder,
    load_classifier,
)
from dnamamba.models.precision import autocast_to
from dnamamba.pipelines.table import Cell

COLUMNS: Final = ("record", "start", "end", "bases", "windows", "species", "confidence")
Per = Literal["record", "window"]
"""What gets a row."""

Row = tuple[Cell, ...]


def predict(
    run: Path,
    fasta: Path,
    *,
    length: int | None = None,
    per: Per = "record",
    device: torch.device,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Call the species of records, or of their windows.

    N are cut out of a record, what is left is read in windows side by side, and their evidence is
    combined: the mean of their log-probabilities, weighted by their bases. A record and its reverse
    complement get the same call.

    A call is one of the species that the model was fitted on, or `unsure`. It shares out its
    probabilities among those alone, so that a species that it never saw can at best be `unsure`: a
    close relative of one of them looks like it, and may be called so with confidence.

    Parameters
    ----------
    run
        A classifier's folder.
    fasta
        Plain text, gzip or BGZF; `-` is stdin.
    length
        Bases of a window; None takes as many as the model was fitted on.
    per
        Whether a record gets a row, or each of its windows.
    device
        Where the model runs.
    precision
        Of the forward pass; auto is bf16 on a CUDA device, else fp32.

    Returns
    -------
    Names of the columns, and the rows, each made when it is asked for, in the order of the file.
    start and end are 0-based and half-open, as in BED; bases are those that were read, N not among
    them. A record with fewer bases than the shortest windows that the model was tested on gets one
    row, `unsure`, its probabilities empty.

    Raises
    ------
    CheckpointError
        Where `run` holds no classifier.
    UsageError
        For windows longer than those that the model was fitted on, or shorter than it was tested
        on.
    InputError
        As the rows are read: where the file is missing, or is no FASTA of nucleotides.
    DnamambaError
        As the rows are read: where the device is out of memory.
    """
    if not is_classifier_folder(run) and is_classifier_folder(run / "fold-1"):
        raise UsageError(f"{run}: is a cross-validation; call with one of its models: {run}/fold-1")
    classifier = load_classifier(run, device)
    config = classifier.config
    length = config.length if length is None else length
    _require_known_length(run, length, config)
    logger.info(
        "%s: %s, by windows of %s bases; a species that is none of these can at best be %s",
        *(run, ", ".join(config.classes), f"{length:,}", UNSURE),
    )
    if config.threshold is None:
        logger.warning(
            "%s: no confidence made its calls right often enough when it was fitted: all are %s",
            *(run, UNSURE),
        )
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    rows = _rows(classifier, read_records(fasta), length, per, device, precision)
    return (*COLUMNS, *(f"p_{name}" for name in config.classes)), rows


def _require_known_length(run: Path, length: int, config: ClassifierConfig) -> None:
    if length > config.length:
        raise UsageError(
            f"--length {length}: {run} was fitted on windows of up to {config.length:,} bases; "
            "longer records are cut into windows and their evidence combined"
        )
    if length < config.shortest:
        raise UsageError(
            f"--length {length}: {run} was tested on windows of {config.shortest:,} bases or more; "
            f"give --length {config.shortest} or more"
        )


class _Place(NamedTuple):
    start: int
    end: int
    bases: int


@dataclass
class _Reading:
    """A record on its way: the windows that were cut, and the probabilities of those read."""

    record: str
    length: int
    places: list[_Place] = field(default_factory=list)
    probabilities: list[NDArray[np.float64]] = field(default_factory=list)
    is_cut: bool = False

    @property
    def is_read(self) -> bool:
        return self.is_cut and len(self.probabilities) == len(self.places)

    def rows(self, per: Per, config: ClassifierConfig) -> Iterator[Row]:
        whole = 0, self.length
        if not self.places:
            yield (self.record, *whole, 0, 0, UNSURE, "", *("" for _ in config.classes))
        elif per == "window":
            for place, probabilities in sorted(
                zip(self.places, self.probabilities, strict=True), key=lambda pair: pair[0]
            ):
                yield (self.record, *place, 1, *_call(probabilities, config))
        else:
            bases = [place.bases for place in self.places]
            call = _call(combine(self.probabilities, bases), config)
            yield (self.record, *whole, sum(bases), len(bases), *call)


def _call(probabilities: NDArray[np.float64], config: ClassifierConfig) -> Row:
    best = int(probabilities.argmax())
    confidence = float(probabilities[best])
    sure = config.threshold is not None and confidence >= config.threshold
    species = config.classes[best] if sure else UNSURE
    return species, confidence, *map(float, probabilities)


def _rows(
    classifier: Classifier,
    records: Iterable[Record],
    length: int,
    per: Per,
    device: torch.device,
    precision: str,
) -> Iterator[Row]:
    config = classifier.config
    readings: deque[_Reading] = deque()
    too_short: list[str] = []

    def finished() -> Iterator[Row]:
        while readings and readings[0].is_read:
            reading = readings.popleft()
            if not reading.places:
                too_short.append(reading.record)
            yield from reading.rows(per, config)

    probabilities = classify_windows(
        classifier,
        _windows(records, readings, length, config.shortest),
        device=device,
        batch_bases=BATCH_BASES.get(device.type, BATCH_BASES["cpu"]),
        autocast=autocast_to(precision, device),
    )
    try:
        with progress(None, "classify", "b") as bar:
            for found in probabilities:
                reading = next(reading for reading in readings if not reading.is_read)
                bar.update(reading.places[len(reading.probabilities)].bases)
                reading.probabilities.append(found)
                yield from finished()
            yield from finished()
    except torch.OutOfMemoryError as error:
        raise DnamambaError(
            f"{device} is out of memory: free some of it, or give --device cpu"
        ) from error
    if too_short:
        logger.warning(
            "%s %s too short to call, with fewer than %s bases that are not N: %s%s",
            f"{len(too_short):,}",
            "records are" if len(too_short) > 1 else "record is",
            f"{config.shortest:,}",
            too_short[0],
            " and others" if len(too_short) > 1 else "",
        )


def _windows(
    records: Iterable[Record], readings: deque[_Reading], length: int, shortest: int
) -> Iterator[Codes]:
    """Cut records into windows, and note of each record in `readings` where they lie."""
    for record in records:
        reading = _Reading(record.name, len(record.codes))
        readings.append(reading)
        for window in cut(record.codes, length, shortest):
            reading.places.append(_Place(window.start, window.end, len(window.codes)))
            yield window.codes
        reading.is_cut = True
        del record  # or it would be held while the next one is read
