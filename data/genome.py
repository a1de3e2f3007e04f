"""A genome to look into: bases by region, from its store or straight from the FASTA."""

from collections.abc import Mapping
from pathlib import Path

from dnamamba.alphabet import Codes, decode
from dnamamba.data.indexed import open_indexed
from dnamamba.data.region import Region, parse_region
from dnamamba.data.store import open_store


class Genome:
    """The bases of a FASTA, by region.

    Parameters
    ----------
    path
        Plain text, BGZF or gzip.
    store
        Read from the memory-mapped store, which is built where there is none. Otherwise each read
        goes to the FASTA through its .fai index, which plain gzip does not allow.

    Raises
    ------
    InputError
        Where the file is missing, is not FASTA, or cannot be read at random.

    Examples
    --------
    >>> genome = Genome("data/samples/great_apes_mt.fa.gz")  # doctest: +SKIP
    >>> genome.sequence("human_mt:1-12")  # doctest: +SKIP
    'GATCACAGGTCT'
    """

    def __init__(self, path: str | Path, *, store: bool = True) -> None:
        self.path = Path(path)
        self._bases = open_store(self.path) if store else open_indexed(self.path)

    @property
    def lengths(self) -> Mapping[str, int]:
        """Contig to its length in bases, in the file's order."""
        return self._bases.lengths

    @property
    def contigs(self) -> list[str]:
        """The contigs' names, in the file's order."""
        return list(self.lengths)

    def fetch(self, region: str | Region) -> Codes:
        """Return the (length,) uint8 store codes of a region.

        Parameters
        ----------
        region
            A `Region` (0-based, half-open), or text as samtools writes it (1-based, both ends
            inside), such as `chr20`, `chr20:1,000-2,000` or `chr20:1,000-2,000(-)`.

        Raises
        ------
        InputError
            For an unknown contig, or a region that is not inside it.
        """
        if isinstance(region, str):
            region = parse_region(region, self.lengths, self.path.name)
        return self._bases.fetch(region)

    def __getitem__(self, region: str | Region) -> Codes:
        return self.fetch(region)

    def sequence(self, region: str | Region) -> str:
        """Return the letters of a region: A, C, G, T and N, soft-masked bases in lower case."""
        return decode(self.fetch(region))

    def __repr__(self) -> str:
        return f"Genome({str(self.path)!r})"
