"""Tokenising a genome: one pass over a FASTA, into the files of a store.

Memory stays within some tens of megabytes, whatever the genome and its line lengths. A second
thread reads, sums and decompresses the next block while this one is mapped to codes and written.
"""

import errno
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, SOFT_MASK, Codes, N
from dnamamba.data.fasta import Header, decompress, parse_fasta, read_ahead
from dnamamba.errors import DnamambaError, InputError
from dnamamba.files import atomic_folder
from dnamamba.log import logger, progress

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
"""Format, source, its size, time and checksum, and each contig's name, length and offset."""
CODES: Final = "codes"
"""The store codes of all contigs, one after another, a byte a base."""
GAPS: Final = "gaps.npy"
"""(runs, 2) int64, half-open runs of N, counted from the first base of `CODES`."""
_N_BYTES: Final = (bytes([N]), bytes([N | SOFT_MASK]))


def build_store(source: Path, folder: Path) -> None:
    """Tokenise `source` into the store `folder` in one pass, atomically.

    Parameters
    ----------
    source
        The FASTA, by its resolved path.
    folder
        The store; one that exists is replaced.

    Raises
    ------
    InputError
        Where the file is not FASTA of nucleotides, or changes while it is read.
    DnamambaError
        Where the store cannot be written.
    """
    before = source.stat()
    logger.info("tokenising %s into %s", source.name, folder)
    try:
        with atomic_folder(folder) as temporary:
            with (
                source.open("rb", buffering=0) as raw,
                progress(before.st_size, source.name, "B") as bar,
                (temporary / CODES).open("wb") as out,
            ):
                reader = _Reader(raw)
                genome = _Writer(out)
                blocks = read_ahead(decompress(reader, source.name))
                for item in parse_fasta(blocks, source.name):
                    genome.add(item)
                    bar.update(reader.consumed - bar.n)
            after = source.stat()
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise InputError(f"{source}: changed while it was read; try again")
            np.save(temporary / GAPS, genome.gaps(), allow_pickle=False)
            beside = folder.parent == source.parent
            manifest = {
                "format": FORMAT,
                "source": f"../{source.name}" if beside else str(source),
                "size": before.st_size,
                "mtime_ns": before.st_mtime_ns,
                "sha256": reader.digest.hexdigest(),
                "soft_masked": genome.soft_masked,
                "contigs": genome.contigs(source.name),
            }
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    except DnamambaError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
            raise DnamambaError(f"disk full while writing {folder}: free some space") from error
        raise


class _Reader:
    """Reads a file, and sums and counts what it has read."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()
        self.consumed = 0

    def read(self, size: int, /) -> bytes:
        data: bytes = self._raw.read(size)
        self.digest.update(data)
        self.consumed += len(data)
        return data


class _Writer:
    """Writes the codes of one contig after another, and notes where contigs and N runs lie."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._contigs: list[dict[str, Any]] = []
        self._runs = [np.empty((0, 2), dtype=np.int64)]
        self._bases = 0
        self.soft_masked = 0

    def add(self, item: Header | bytes) -> None:
        if isinstance(item, Header):
            about = {"name": item.name, "length": 0, "offset": self._bases}
            self._contigs.append({**about, "description": item.description})
            return
        self._out.write(item)
        codes = np.frombuffer(item, dtype=np.uint8)
        self.soft_masked += int(np.count_nonzero(codes & SOFT_MASK))
        if any(code in item for code in _N_BYTES):
            self._runs.append(_runs_of_n(codes) + self._bases)
        self._contigs[-1]["length"] += len(item)
        self._bases += len(item)

    def contigs(self, source: str) -> list[dict[str, Any]]:
        """Return what the manifest says of the contigs."""
        empty = [contig["name"] for contig in self._contigs if not contig["length"]]
        if not self._bases:
            raise InputError(f"{source}: its {len(empty):,} records hold no bases")
        if empty:
            more = f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
            logger.warning("%s: no bases in %s%s", source, ", ".join(empty[:5]), more)
        return self._contigs

    def gaps(self) -> NDArray[np.int64]:
        """Return the runs of N, (runs, 2), joined over pieces but never over contigs."""
        runs = np.concatenate(self._runs)
        begins = [contig["offset"] for contig in self._contigs]
        joined = (runs[1:, 0] == runs[:-1, 1]) & ~np.isin(runs[1:, 0], begins)
        first = np.concatenate(([True], ~joined))[: len(runs)]
        last = np.concatenate((~joined, [True]))[: len(runs)]
        return np.stack((runs[first, 0], runs[last, 1]), axis=1)


def _runs_of_n(codes: Codes) -> NDArray[np.int64]:
    is_n = np.zeros(codes.size + 2, dtype=bool)
    is_n[1:-1] = (codes & BASE) == N
    return np.flatnonzero(is_n[1:] != is_n[:-1]).reshape(-1, 2)
