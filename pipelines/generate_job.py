"""Making sequences batch by batch: on disk while they grow, on stdout when they are whole."""

import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.known import Known
from dnamamba.data.records import Record
from dnamamba.evaluation.language import Score
from dnamamba.evaluation.spectrum import Spectrum
from dnamamba.inference.generate import Start, generate, random_stream, read_prompt
from dnamamba.log import logger, peak_resident, progress
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_name
from dnamamba.pipelines.generate_config import GenerateConfig
from dnamamba.pipelines.generate_output import Spool, write_record
from dnamamba.pipelines.numbers import show_bytes, show_count
from dnamamba.training.signals import StopRequest

BATCH: Final = {"cpu": 64, "cuda": 512}
"""Sequences that are made side by side, by the type of device."""


class _Item(NamedTuple):
    """A sequence to make: the number of its prompt, and its own among the prompt's."""

    prompt: int
    number: int


class Job:
    """Makes all sequences.

    Parameters
    ----------
    config
        Settings.
    model
        One of the next base.
    prompts
        What is continued, each with a base other than N; none where nothing is.
    spectrum
        Counts the k-mers of what is made; None for no counting.
    """

    def __init__(
        self,
        config: GenerateConfig,
        model: LanguageModel,
        prompts: Sequence[Record],
        spectrum: Spectrum | None = None,
    ) -> None:
        self.sequences = config.sequences * max(1, len(prompts))
        self._config, self._model, self._prompts = config, model, prompts
        self._spectrum = spectrum
        self._device = next(model.parameters()).device
        self._bits: list[float] = []
        # Neighbours continue the same prompt: it is read once.
        self._start = lru_cache(maxsize=1)(self._read)

    @property
    def written(self) -> int:
        """Sequences that have been written."""
        return len(self._bits)

    @property
    def score(self) -> Score:
        """What the model itself thinks of what was written: all but first bases of no prompt."""
        scored = self._config.length - (not self._prompts)
        return Score(np.array(self._bits), np.full(self.written, scored))

    def run(self, stop: StopRequest) -> None:
        """Make and write all sequences.

        Raises
        ------
        Interruption
            Where `stop` asks for it; what was written is whole.
        """
        total = self.sequences * self._config.length
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="dnamamba-generate-") as folder,
            progress(total, "generate", "b") as bar,
        ):
            for items in self._batches():
                with Spool(Path(folder) / "bases", len(items), self._config.length) as spool:
                    with stop.breaks_off():
                        bits = self._grow(items, spool, bar)
                    for row, item in enumerate(items):
                        self._write(item, spool, row)
                        self._bits.append(bits[row])
        self._tell(total, time.monotonic() - started)

    def _batches(self) -> Iterator[list[_Item]]:
        size = self._config.batch or BATCH.get(self._device.type, BATCH["cpu"])
        prompts, numbers = range(max(1, len(self._prompts))), range(self._config.sequences)
        items = itertools.starmap(_Item, itertools.product(prompts, numbers))
        while batch := list(itertools.islice(items, size)):
            yield batch

    def _grow(self, items: Sequence[_Item], spool: Spool, bar: Any) -> NDArray[np.float64]:
        """Make a batch, and return the bits of each sequence."""
        config = self._config
        starts = [self._start(item.prompt) for item in items] if self._prompts else None
        randoms = [random_stream(config.seed, item.number, item.prompt) for item in items]
        parts = generate(self._model, config.length, randoms, starts, sampler=config.sampler)
        nats = np.zeros(len(items))
        is_scored = starts is not None
        for part in parts:
            spool.add(part.codes)
            if is_scored:
                nats += part.nats.sum(1, dtype=np.float64)
            is_scored = True  # the first base without a prompt is not the model's, and comes alone
            bar.update(part.codes.size)
        bits: NDArray[np.float64] = nats / math.log(2)
        return bits

    def _read(self, prompt: int) -> Start:
        return read_prompt(self._model, Known(self._prompts[prompt].codes))

    def _write(self, item: _Item, spool: Spool, row: int) -> None:
        if self._spectrum:
            for piece in spool.pieces(row):
                self._spectrum.add(piece)
        before = [self._prompts[item.prompt].codes] if self._config.with_prompt else []
        write_record(self._header(item), itertools.chain(before, spool.pieces(row)))

    def _header(self, item: _Item) -> str:
        config = self._config
        fields = {
            "prompt": self._prompts[item.prompt].name if self._prompts else "none",
            "length": config.length,
            "seed": config.seed,
            "temperature": f"{config.temperature:g}",
            "top_k": config.top_k,
            "top_p": f"{config.top_p:g}",
            "model": "_".join(model_name(config.model).split()),
        }
        if config.with_prompt:
            fields["prompt_length"] = self._prompts[item.prompt].codes.size
        number = item.prompt * config.sequences + item.number + 1
        return " ".join([f"generated_{number}", *(f"{key}={fields[key]}" for key in fields)])

    def _tell(self, total: int, seconds: float) -> None:
        on_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else peak_resident()
        logger.info(
            "%sb in %.1f s, %sb a second, peak %s",
            *(show_count(total), seconds, show_count(total / seconds), show_bytes(peak)),
        )
