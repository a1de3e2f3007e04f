"""A genome tokenised once: a memory-mapped file of store codes, its N runs, and a manifest.

The store of `genome.fa` is the folder `genome.fa.dnamamba/` beside it, or in the user's cache where
that place cannot be written. It is valid as long as the FASTA keeps its size and time of change.
A store appears by one rename, so that a reader finds a whole one or none.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnamamba.alphabet import Codes, reverse_complement
from dnamamba.data.place import lock, places, writable_place
from dnamamba.data.region import Region, require_contig
from dnamamba.data.tokenise import CODES, FORMAT, GAPS, MANIFEST, build_store
from dnamamba.errors import InputError
from dnamamba.files import require_file
from dnamamba.log import logger

SUFFIX: Final = ".dnamamba"


class Store:
    """One genome, tokenised; opened by its folder, and again by it in another process.

    The codes are a read-only memory map: no file offset is shared by forked workers.

    Parameters
    ----------
    folder
        What `open_store` made.

    Attributes
    ----------
    folder
        Where the store lies.
    source
        The FASTA that it was made from.
    lengths
        Contig to its length in bases, in the file's order.
    descriptions
        Contig to what follows its name in the FASTA.
    checksum
        Hex SHA-256 of the FASTA as it lies on disk.
    size
        Bytes of the FASTA as it lies on disk.
    soft_masked
        Bases that are lower case in the FASTA.

    Raises
    ------
    InputError
        Where the folder holds no store of this format.
    """

    def __init__(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no genome's store; dnamamba index builds one") from error
        try:
            version = manifest["format"]
            self.folder = folder
            self.source = Path(os.path.normpath(folder / manifest["source"]))
            self.checksum: str = manifest["sha256"]
            self.size: int = manifest["size"]
            self.mtime_ns: int = manifest["mtime_ns"]
            self.soft_masked: int = manifest["soft_masked"]
            contigs = {contig["name"]: contig for contig in manifest["contigs"]}
            self.lengths: dict[str, int] = {name: c["length"] for name, c in contigs.items()}
            self.descriptions: dict[str, str] = {n: c["description"] for n, c in contigs.items()}
            self._offsets: dict[str, int] = {name: c["offset"] for name, c in contigs.items()}
            mapped = np.memmap(folder / CODES, dtype=np.uint8, mode="r")
            self._gaps: NDArray[np.int64] = np.load(folder / GAPS, allow_pickle=False)
            self._gap_sums = np.append(0, np.cumsum(self._gaps[:, 1] - self._gaps[:, 0]))
            whole = version == FORMAT and mapped.size == sum(self.lengths.values())
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _damaged(folder) from error
        if not whole:
            raise _damaged(folder)
        self._codes: Codes = np.asarray(mapped)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder, self.checksum)

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def codes(self, contig: str) -> Codes:
        """Return a contig's (length,) uint8 store codes, + strand: a read-only view of the map."""
        require_contig(contig, self.lengths, self.source.name)
        offset = self._offsets[contig]
        return self._codes[offset : offset + self.lengths[contig]]

    def fetch(self, region: Region) -> Codes:
        """Return a region's (length,) uint8 store codes, a copy; strand - is read backwards.

        Raises
        ------
        InputError
            For an unknown contig, or a region that ends behind it.
        """
        codes = self.codes(region.contig)
        if region.end > codes.size:
            raise InputError(
                f"{region}: {region.contig} of {self.source.name} ends at {codes.size:,}"
            )
        window = codes[region.start : region.end]
        return reverse_complement(window) if region.strand == "-" else window.copy()

    @property
    def n_total(self) -> int:
        """The N of the whole genome, in bases."""
        return int(self._gap_sums[-1])

    def gaps(self, contig: str) -> NDArray[np.int64]:
        """Return a contig's runs of N, (runs, 2), half-open, in order."""
        require_contig(contig, self.lengths, self.source.name)
        start = self._offsets[contig]
        first, last = np.searchsorted(self._gaps[:, 0], (start, start + self.lengths[contig]))
        return self._gaps[first:last] - start

    def n_count(self, contig: str, starts: ArrayLike, ends: ArrayLike) -> NDArray[np.int64]:
        """Count the N in each [start, end) of a contig, in O(log runs) each.

        Parameters
        ----------
        contig
            Its name.
        starts, ends
            0-based positions of any one shape, inside the contig.

        Returns
        -------
        int64 counts, of that shape.
        """
        require_contig(contig, self.lengths, self.source.name)
        offset = self._offsets[contig]
        return self._n_before(offset + np.asarray(ends)) - self._n_before(
            offset + np.asarray(starts)
        )

    def _n_before(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the N before each position of the concatenated contigs."""
        if not len(self._gaps):
            return np.zeros(positions.shape, dtype=np.int64)
        run = np.searchsorted(self._gaps[:, 0], positions, side="right") - 1
        inside = np.minimum(positions, self._gaps[run, 1]) - self._gaps[run, 0]
        return np.where(run < 0, 0, self._gap_sums[run] + inside)


def _damaged(folder: Path) -> InputError:
    return InputError(
        f"{folder}: a damaged store, or another version's; dnamamba index --force builds it anew"
    )


def _reopen(folder: Path, checksum: str) -> Store:
    store = Store(folder)
    if store.checksum != checksum:
        raise InputError(f"{store.source}: changed since the run began; start again")
    return store


def open_store(fasta: Path, *, rebuild: bool = False) -> Store:
    """Open the store of a FASTA, building it where it is missing or the FASTA has changed.

    Parameters
    ----------
    fasta
        Plain text, gzip or BGZF.
    rebuild
        Build it even where a valid one exists.

    Raises
    ------
    InputError
        Where the file is missing, or is not FASTA of nucleotides.
    DnamambaError
        Where the store cannot be written: disk full, say.
    """
    if not rebuild and (store := find_store(fasta)):
        return store
    source = _require_source(fasta)
    folder = writable_place(source, SUFFIX)
    with lock(folder):
        if not rebuild and (store := _open_valid(folder, source)):
            return store
        if folder.exists() and not rebuild:
            logger.info("the store of %s is out of date: building it again", fasta)
        build_store(source, folder)
        return Store(folder)


def find_store(fasta: Path) -> Store | None:
    """Open the valid store of a FASTA if it has one, beside it or in the cache; build nothing.

    Raises
    ------
    InputError
        Where the FASTA is missing.
    """
    source = _require_source(fasta)
    beside, cached = places(source, SUFFIX)
    return _open_valid(beside, source) or _open_valid(cached, source)


def _require_source(fasta: Path) -> Path:
    if str(fasta) == "-":
        raise InputError("-: a genome is read from a file, not from stdin; save it first")
    return require_file(Path(fasta)).resolve()


def _open_valid(folder: Path, source: Path) -> Store | None:
    """Open a store if it is whole and the FASTA is still the one it was made from."""
    try:
        store = Store(folder)
    except InputError:
        return None
    stat = source.stat()
    valid = (store.size, store.mtime_ns, store.source) == (stat.st_size, stat.st_mtime_ns, source)
    return store if valid else None
