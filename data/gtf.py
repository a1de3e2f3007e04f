"""GTF and GFF3: genes, exons and starts of transcription, as a table in BED's terms.

The lines of both formats are brought to the same five labels. What a line leaves open is its
parents': in RefSeq's GTF only genes have a type, in GFF3 an exon may name its transcript alone.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from sys import intern
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

from dnamamba.data.annotation import BedTable, TableBuilder
from dnamamba.data.lines import read_lines
from dnamamba.errors import InputError

Feature = Literal["gene", "exon", "tss"]
_Kind = Literal["gene", "transcript", "exon"]

_LABELS: Final = ("gene_id", "gene_name", "gene_type", "transcript_id", "exon_number")
_WIDTH: Final[dict[Feature, int]] = {"gene": 3, "exon": 5, "tss": 4}
"""How many of `_LABELS` a feature has."""
_MADE_OF: Final[dict[Feature, frozenset[_Kind]]] = {
    "gene": frozenset(("gene",)),
    "exon": frozenset(("exon",)),
    "tss": frozenset(("gene", "transcript")),
}
_PARENTS: Final[dict[Feature, frozenset[_Kind]]] = {
    "gene": frozenset(),
    "exon": frozenset(("gene", "transcript")),
    "tss": frozenset(),
}
_NAME: Final = ("gene_name", "gene", "gene_symbol")
_TYPE: Final = ("gene_type", "gene_biotype")
_SPELT: Final[dict[_Kind, tuple[tuple[str, ...], ...]]] = {
    "gene": (("gene_id", "ID"), (*_NAME, "Name"), (*_TYPE, "biotype"), (), ()),
    "transcript": (("gene_id",), _NAME, _TYPE, ("transcript_id", "ID"), ()),
    "exon": (("gene_id",), _NAME, _TYPE, ("transcript_id",), ("exon_number", "rank")),
}
"""Which attributes may hold each of `_LABELS`: GENCODE, Ensembl, RefSeq, FlyBase, plain GFF3."""
_GENE: Final = re.compile(r"(.+_)?gene|pseudogene")
_TRANSCRIPT: Final = re.compile(r"(.+_)?transcript(_variant)?|.*RNA|.+_gene_segment")
_GTF_PAIR: Final = re.compile(r'([^\s;"]+)\s+(?:"([^"]*)"|([^\s;"]+))\s*(?:;|$)')
_GFF3_PAIR: Final = re.compile(r'\s*[^\s;="]+=')
_ID_PREFIX: Final = re.compile(r"^(gene|transcript|m?rna)[:-]", re.IGNORECASE)
_ABOVE: Final = 3
"""Parents over a line at most: of a microRNA's exon the microRNA, its precursor and the gene."""


class _Line(NamedTuple):
    """One line that may matter; `id` is what others call it as their `parent`."""

    number: int
    contig: str
    start: int
    end: int
    strand: str
    kind: _Kind
    id: str
    parent: str
    labels: tuple[str, ...]


def read_gtf(
    path: Path,
    feature: Feature,
    lengths: Mapping[str, int] | None = None,
    genome: str = "",
    only: Collection[str] | None = None,
) -> BedTable:
    """Read one kind of feature from GTF or GFF3, plain or gzipped.

    Parameters
    ----------
    path
        The file; `-` is stdin.
    feature
        `gene`, `exon`, or `tss`: the first base of each transcript, or of a gene that has no
        transcript. Where several transcripts of a gene begin at one base, the first of them
        stands for all.
    lengths
        Contig to length: features must lie inside. None checks nothing.
    genome
        The genome's file name, for errors.
    only
        Contigs to take; what lies on others is passed over. None takes all.

    Returns
    -------
    A row for each feature in the order of the file, 0-based and half-open, named by its gene's
    name, else by the gene's or the transcript's id. Its columns are `name`, `gene_id`,
    `gene_name`, `gene_type`; for tss and exon `transcript_id`; for exon `exon_number`: "" where
    the file does not say.

    Raises
    ------
    InputError
        For faults of lines as `read_bed`; where the file has no such feature, with those it has.
    """
    builder = TableBuilder(path, lengths, genome, only)
    types: Counter[str] = Counter()
    needed = _MADE_OF[feature] | _PARENTS[feature]
    lines = list(_parse(read_lines(path), needed, types, builder))
    parents = {line.id: line for line in reversed(lines) if line.id}
    if feature == "tss":
        chosen = _starts(lines, parents, builder)
    else:
        chosen = (line for line in lines if line.kind == feature)
    width = _WIDTH[feature]
    for line in chosen:
        labels = _complete(line, parents)
        gene_id, gene_name, _, transcript_id, _ = labels
        cells = (gene_name or gene_id or transcript_id, *labels[:width])
        builder.add(line.number, line.contig, line.start, line.end, line.strand, cells)
    table = builder.table(("name", *_LABELS[:width]), name="name")
    if not len(table):
        where = f" on {', '.join(list(only)[:5])}" if only is not None else ""
        raise InputError(f"{builder.source}: no {feature}{where}: {_describe(types)}")
    return table


def _parse(
    lines: Iterable[tuple[int, str]],
    needed: frozenset[_Kind],
    types: Counter[str],
    builder: TableBuilder,
) -> Iterator[_Line]:
    """Yield the lines of the kinds that are needed, and count those of every type."""
    for number, text in lines:
        if text.startswith("##FASTA"):
            return
        if text.startswith("#"):
            continue
        cells = text.split("\t")
        if len(cells) < 9:
            builder.fault(number, "not GTF: nine columns parted by tabs are wanted")
            continue
        types[cells[2]] += 1
        kind = _kind(cells[2])
        if kind is None:
            continue
        is_gff3 = _GFF3_PAIR.match(cells[8]) is not None
        if cells[2] == "pseudogene" and not is_gff3:
            kind = "transcript"  # In FlyBase's GTF; in GFF3 it is a gene.
        if kind not in needed:
            continue
        place = builder.parse_place(number, cells[3], cells[4], origin=1)
        if place is None:
            continue
        strand = "." if cells[6] == "?" else cells[6]
        if strand not in ("+", "-", "."):
            builder.fault(number, "strand is none of + - . ?", repr(strand[:20]))
            continue
        attributes = _gff3_attributes(cells[8]) if is_gff3 else _gtf_attributes(cells[8])
        if is_gff3:
            own, parent = attributes.get("ID", ""), attributes.get("Parent", "").split(",")[0]
        else:
            gene = attributes.get("gene_id", "")
            own, parent = (gene, "") if kind == "gene" else ("", gene)
            if not gene:
                builder.fault(number, "no gene_id among the attributes", repr(cells[8][:30]))
                continue
        labels = tuple(intern(_first(attributes, keys)) for keys in _SPELT[kind])
        contig = intern(cells[0])
        yield _Line(number, contig, *place, intern(strand), kind, own, intern(parent), labels)


@cache
def _kind(type_: str) -> _Kind | None:
    """Sort a type of feature: the Sequence Ontology has many for genes and transcripts."""
    if type_ == "exon":
        return "exon"
    if _GENE.fullmatch(type_):
        return "gene"
    return "transcript" if _TRANSCRIPT.fullmatch(type_) else None


def _gtf_attributes(text: str) -> dict[str, str]:
    return {key: quoted or bare for key, quoted, bare in _GTF_PAIR.findall(text)}


def _gff3_attributes(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(";"))
    return {key.strip(): unquote(value.strip()) for key, _, value in pairs}


def _first(attributes: Mapping[str, str], keys: Iterable[str]) -> str:
    for key in keys:
        if value := attributes.get(key):
            return _ID_PREFIX.sub("", value) if key == "ID" else value
    return ""


def _complete(line: _Line, parents: Mapping[str, _Line]) -> tuple[str, ...]:
    """Fill the labels that a line leaves open from those above it."""
    labels = line.labels
    for _ in range(_ABOVE):
        above = parents.get(line.parent)
        if above is None:
            break
        labels = tuple(own or other for own, other in zip(labels, above.labels, strict=True))
        line = above
    return labels


def _starts(
    lines: Iterable[_Line], parents: Mapping[str, _Line], builder: TableBuilder
) -> Iterator[_Line]:
    """Yield where transcription starts, each base of a gene once."""
    transcribed = {line.parent for line in lines if line.kind == "transcript" and line.parent}
    seen = set()
    for line in lines:
        above = parents.get(line.parent)
        is_part = above is not None and above.kind == "transcript"
        if is_part or (line.kind == "gene" and line.id in transcribed):
            continue
        if line.strand == ".":
            builder.fault(line.number, "without a strand there is no start of transcription")
            continue
        at = line.start if line.strand == "+" else line.end - 1
        gene = line.parent or line.labels[0] or line.id
        if (line.contig, at, line.strand, gene) not in seen:
            seen.add((line.contig, at, line.strand, gene))
            yield line._replace(start=at, end=at + 1)


def _describe(types: Counter[str]) -> str:
    """List the types of feature that a file has, and what could be asked for instead."""
    if not types:
        return "the file has no features"
    has = ", ".join(f"{type_} ({count:,})" for type_, count in types.most_common(10))
    kinds = {_kind(type_) for type_ in types}
    others = [feature for feature, made_of in _MADE_OF.items() if kinds.intersection(made_of)]
    cure = f"; choose --feature {' or '.join(others)}" if others else ""
    return f"it has {has}{cure}"
