"""Known assemblies: how they are recognised, their primary chromosomes, where they are fetched.

Human assemblies are recognised by the lengths of their chromosomes, whether these bear UCSC's,
Ensembl's, RefSeq's or GenBank's names. In other large genomes, great apes among them, the naming
patterns of the same archives tell chromosomes from the rest.

Great apes are pinned at version 2 of their accessions, which published alignments of the apes and
UCSC's chains between them speak of; version 3 is another sequence. With them goes the human
T2T-CHM13v2.0, as complete as they are: gaps would tell GRCh38 from the rest.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from dnamamba.data.region import suggest_contig
from dnamamba.errors import InputError, UsageError

_LABELS: Final = (*map(str, range(1, 23)), "X", "Y")


@dataclass(frozen=True)
class Assembly:
    """A reference genome: its name, GenBank accession, and chromosome to length in bases."""

    name: str
    accession: str
    lengths: Mapping[str, int]


def _assembly(name: str, accession: str, lengths: str) -> Assembly:
    numbers = (int(number) for number in lengths.split())
    return Assembly(name, accession, dict(zip(_LABELS, numbers, strict=True)))


ASSEMBLIES: Final = (
    _assembly(
        "GRCh38",
        "GCA_000001405.15",
        "248956422 242193529 198295559 190214555 181538259 170805979 159345973 145138636 "
        "138394717 133797422 135086622 133275309 114364328 107043718 101991189 90338345 "
        "83257441 80373285 58617616 64444167 46709983 50818468 156040895 57227415",
    ),
    _assembly(
        "GRCh37",
        "GCA_000001405.1",
        "249250621 243199373 198022430 191154276 180915260 171115067 159138663 146364022 "
        "141213431 135534747 135006516 133851895 115169878 107349540 102531392 90354753 "
        "81195210 78077248 59128983 63025520 48129895 51304566 155270560 59373566",
    ),
    _assembly(
        "T2T-CHM13v2.0",
        "GCA_009914755.4",
        "248387328 242696752 201105948 193574945 182045439 172126628 160567428 146259331 "
        "150617247 134758134 135127769 133324548 113566686 101161492 99753195 96330374 "
        "84276897 80542538 61707364 66210255 45090682 51324926 154259566 62460029",
    ),
)

_ACCESSIONS: Final = {
    # Accessions of chromosomes 1-22, X, Y; versions differ between assemblies.
    **{f"NC_{1 + i:06d}": label for i, label in enumerate(_LABELS)},
    **{f"CM{663 + i:06d}": label for i, label in enumerate(_LABELS)},
    **{f"NC_{60925 + i:06d}": label for i, label in enumerate(_LABELS)},
    **{f"CP{68277 - i:06d}": label for i, label in enumerate(_LABELS[:23])},
    "CP086569": "Y",
}


@dataclass(frozen=True)
class Source:
    """The file that an assembly is fetched from.

    Attributes
    ----------
    name
        What the assembly and its file are called.
    species
        Genus and species.
    accession
        GenBank accession and version.
    url
        The FASTA.
    size
        Bytes of that file; None where they are not known beforehand.
    md5
        Hex MD5 of that file; None where only the archive's own md5checksums.txt tells it.
    """

    name: str
    species: str
    accession: str
    url: str
    size: int | None = None
    md5: str | None = None


_ARCHIVE: Final = "https://ftp.ncbi.nlm.nih.gov/genomes/all/GCA"


def _ape(name: str, species: str, accession: str) -> Source:
    digits = accession.removeprefix("GCA_")
    folder = f"{accession}_NHGRI_{name}_pri"
    path = f"{digits[:3]}/{digits[3:6]}/{digits[6:9]}/{folder}/{folder}_genomic.fna.gz"
    return Source(name, species, accession, f"{_ARCHIVE}/{path}")


SOURCES: Final = (
    Source(
        "GRCh38",
        "Homo sapiens",
        "GCA_000001405.15",
        f"{_ARCHIVE}/000/001/405/GCA_000001405.15_GRCh38/seqs_for_alignment_pipelines.ucsc_ids/"
        "GCA_000001405.15_GRCh38_no_alt_analysis_set.fna.gz",
        size=872_949_833,
        md5="a08035b6a6e31780e96a34008ff21bd6",
    ),
    Source(
        "T2T-CHM13v2.0",
        "Homo sapiens",
        "GCA_009914755.4",
        "https://s3-us-west-2.amazonaws.com/human-pangenomics/T2T/CHM13/assemblies/analysis_set/"
        "chm13v2.0.fa.gz",
        md5="06caded0055ec647a69acb708e13beff",
    ),
    _ape("mPanTro3-v2.0", "Pan troglodytes", "GCA_028858775.2"),
    _ape("mPanPan1-v2.0", "Pan paniscus", "GCA_029289425.2"),
    _ape("mGorGor1-v2.0", "Gorilla gorilla", "GCA_029281585.2"),
    _ape("mPonAbe1-v2.0", "Pongo abelii", "GCA_028885655.2"),
    _ape("mPonPyg2-v2.0", "Pongo pygmaeus", "GCA_028885625.2"),
)
SETS: Final = {"great-apes": SOURCES[1:], "human": SOURCES[:2]}
"""Names that stand for several assemblies."""

_NAMED: Final = re.compile(r"(?:chr)?([0-9]{1,2}|X|Y)", re.IGNORECASE)
_CHROMOSOME: Final = re.compile(
    r"(?:chr)?(?:[0-9]{1,2}[AB]?|[XYZW])(?:_(?:mat|pat|hap[12])_hsa\w+)?|(?:NC_|CM)[0-9]+\.[0-9]+",
    re.IGNORECASE,
)
_FEWEST_CHROMOSOMES: Final = 20
_SHORTEST_CHROMOSOME: Final = 1_000_000


def _label(contig: str) -> str | None:
    """Name the human chromosome that a contig's name stands for, if any."""
    if match := _NAMED.fullmatch(contig):
        label = match[1].upper()
        return label if label in _LABELS else None
    return _ACCESSIONS.get(contig.partition(".")[0])


def recognise(lengths: Mapping[str, int]) -> Assembly | None:
    """Find the assembly that a genome is, or is a part of.

    Every contig named as a human chromosome must have the length that it has in the assembly.
    """
    found = {label: length for name, length in lengths.items() if (label := _label(name))}
    for assembly in ASSEMBLIES:
        if found and found.items() <= assembly.lengths.items():
            return assembly
    return None


def find_sources(names: Sequence[str]) -> list[Source]:
    """Find what to fetch for names of assemblies, their accessions, and names of sets.

    Parameters
    ----------
    names
        In any case; apes and accessions with their version or without.

    Returns
    -------
    Each source once, in the order asked for.

    Raises
    ------
    UsageError
        For a name that is none of these.
    """
    known: dict[str, tuple[Source, ...]] = dict(SETS)
    for source in SOURCES:
        short, bare = source.name.partition("-v")[0], source.accession.partition(".")[0]
        aliases = (source.name, short, source.accession, bare)
        known |= {alias.lower(): (source,) for alias in aliases}
    wanted: dict[Source, None] = {}
    for name in names:
        if name.lower() not in known:
            raise UsageError(f"{name}: not in the catalogue; {_suggest_source(name, known)}")
        wanted |= dict.fromkeys(known[name.lower()])
    return list(wanted)


def _suggest_source(name: str, known: Iterable[str]) -> str:
    for source in SOURCES:
        if source.accession.partition(".")[0] == name.upper().partition(".")[0]:
            return f"it pins {source.accession}"
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else "`dnamamba fetch` lists it"


def check_chromosomes(source: Source, lengths: Mapping[str, int]) -> bool:
    """Hold a genome's chromosomes (contig to bases) against those of what it was fetched as.

    Returns
    -------
    Whether the assembly's chromosomes are known, and so were compared.

    Raises
    ------
    InputError
        For a chromosome that is missing or has another length.
    """
    assembly = next((known for known in ASSEMBLIES if known.name == source.name), None)
    if assembly is None:
        return False
    found = {label: length for name, length in lengths.items() if (label := _label(name))}
    for label, length in assembly.lengths.items():
        if found.get(label) != length:
            has = f"{found[label]:,} bases" if label in found else "missing"
            raise InputError(
                f"chromosome {label} of {source.name} has {length:,} bases, and here it is {has}"
            )
    return True


def choose_contigs(
    lengths: Mapping[str, int], patterns: Sequence[str] | None, source: str
) -> tuple[list[str], str]:
    """Choose the contigs to work on.

    Parameters
    ----------
    lengths
        Contig to its length in bases.
    patterns
        Names and globs (`chr2*`). None takes the primary chromosomes where they can be told from
        the rest (no chrM, alt, random, unplaced, decoy), and every contig elsewhere.
    source
        The genome's file name, for the note and for errors.

    Returns
    -------
    The contigs in the genome's order, and one line on what was left out ("" if nothing was).

    Raises
    ------
    UsageError
        For a pattern that matches no contig.
    """
    if patterns is not None:
        return _match(lengths, patterns, source), ""
    assembly = recognise(lengths)
    if assembly:
        primary = [name for name in lengths if _label(name)]
        why = f"the primary chromosomes of {assembly.name}"
    else:
        primary = [
            name
            for name, length in lengths.items()
            if length >= _SHORTEST_CHROMOSOME and _CHROMOSOME.fullmatch(name)
        ]
        why = "what is a chromosome by its name"
        if len(primary) < _FEWEST_CHROMOSOMES:
            return list(lengths), ""
    taken = set(primary)
    rest = [name for name in lengths if name not in taken]
    if not rest:
        return primary, ""
    bases = sum(lengths[name] for name in rest)
    shown = ", ".join(rest[:2]) + (", ..." if len(rest) > 2 else "")
    return primary, (
        f"{source}: taking {why} ({len(primary):,} contigs); left out {len(rest):,} others of "
        f"{bases:,} bases ({shown}); --contigs '*' takes all"
    )


def _match(lengths: Mapping[str, int], patterns: Sequence[str], source: str) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        matches = {pattern} & lengths.keys() or {
            name for name in lengths if fnmatchcase(name, pattern)
        }
        if not matches:
            raise UsageError(
                f"--contigs: `{pattern}` is not in {source}; {suggest_contig(pattern, lengths)}"
            )
        chosen |= matches
    if not chosen:
        raise UsageError("--contigs: no name given; leave it out for the default")
    return [name for name in lengths if name in chosen]
