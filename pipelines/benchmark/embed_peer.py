"""Windows as transformers' MambaModel embeds them, as far as time and memory let it.

Where mamba_ssm and causal_conv1d are missing it makes a window's states of all positions at once,
(batch, d_inner, length, d_state), and scans position by position. So both are foreseen from the
beginning of a window: the memory of the whole, and how much can be read in time.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.errors import DnamambaError
from dnamamba.models.convert import to_transformers
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast
from dnamamba.training.monitor import peak_memory

PROBE: Final = 2**12
"""Bases of each window that are read to foresee the rest."""


@dataclass(frozen=True)
class Found:
    """What was read.

    Attributes
    ----------
    codes
        The windows, or as many bases of each as there was time for.
    embeddings
        (windows, d_model) fp32, their mean hidden states.
    seconds
        From store codes in memory to embeddings in memory.
    note
        What part of the windows it was.
    """

    codes: list[Codes]
    embeddings: NDArray[np.float32]
    seconds: float
    note: str

    @property
    def bases(self) -> int:
        """Bases that were read."""
        return sum(map(len, self.codes))


class Peer:
    """Transformers' model, with the weights of one of ours.

    Parameters
    ----------
    model
        Ours, on the device.
    autocast
        The context of the forward pass.

    Raises
    ------
    UsageError
        Where transformers is missing, or has no such model.
    """

    def __init__(self, model: LanguageModel, autocast: Autocast) -> None:
        self._device = next(model.parameters()).device
        self._tokens = model.tokens
        twin = to_transformers(model).get_submodule("backbone")
        logging.getLogger("transformers").setLevel(logging.ERROR)  # a note says what it would
        self._backbone = twin.to(self._device).eval()
        self._autocast = autocast

    def read(self, windows: Sequence[Codes], batch: int, *, limit: float, memory: float) -> Found:
        """Embed windows, `batch` at once or as many of these as fit.

        Parameters
        ----------
        windows
            (bases,) uint8 store codes without N, of about one length.
        batch
            Windows that are read at once; those of another length than the ones before are not.
        limit
            Seconds that reading may take, about: so many windows are read, or so many bases of a
            batch of them.
        memory
            Bytes that there are.

        Raises
        ------
        DnamambaError
            Where a window does not fit into memory.
        """
        longest = max(map(len, windows))
        one = max(1, self._bytes_of(windows[0]) * longest // min(PROBE, len(windows[0])))
        if one > memory:
            needed, there = (f"{size / 2**30:.3g} GiB" for size in (one, memory))
            raise DnamambaError(f"a window would take {needed} of memory, and there are {there}")
        batch = min(batch, len(windows), int(memory // one))
        probe = [window[:PROBE] for window in windows[:batch]]
        _, seconds = self._embed(probe, batch)
        affordable = int(limit / seconds * sum(map(len, probe)))
        length = max(PROBE, affordable // batch)
        codes = [window[:length] for window in windows[: max(batch, affordable // longest)]]
        notes = [] if find_spec("mamba_ssm") else ["without mamba_ssm"]
        if length < longest:
            notes.append(f"the first {length:,} bases of {batch:,} windows: time is up")
        elif len(codes) < len(windows):
            notes.append(f"{len(codes):,} of {len(windows):,} windows: time is up")
        return Found(codes, *self._embed(codes, batch), "; ".join(notes))

    def _bytes_of(self, window: Codes) -> int:
        """Return by how much the beginning of a window raises the peak of memory."""
        before = peak_memory(self._device)
        self._embed([window[:PROBE]], 1)
        return peak_memory(self._device) - before

    def _embed(self, windows: Sequence[Codes], batch: int) -> tuple[NDArray[np.float32], float]:
        begin = time.perf_counter()
        found = []
        for _, alike in itertools.groupby(windows, len):
            same = list(alike)
            found += [
                self._pass(np.stack(same[start : start + batch]))
                for start in range(0, len(same), batch)
            ]
        return np.concatenate(found), time.perf_counter() - begin

    @torch.no_grad()
    def _pass(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        ids = self._tokens(torch.from_numpy(codes).to(self._device))
        with self._autocast():
            states = self._backbone(ids).last_hidden_state
        pooled: NDArray[np.float32] = states.float().mean(1).cpu().numpy()
        return pooled
