"""Variants: which alleles of a VCF can be scored, as what, and in which window of the genome."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np

from dnamamba.alphabet import BASE, ENCODE, INVALID, Codes, N, decode
from dnamamba.data.region import Region, list_contigs, nearest_contig
from dnamamba.data.vcf import Record
from dnamamba.errors import InputError

Reason = Literal[
    "mismatch",
    "symbolic",
    "breakend",
    "star",
    "no_alt",
    "ambiguous",
    "n_in_ref",
    "identical",
]
"""Why an allele is not scored. `ambiguous` has other letters than A, C, G and T."""
_SHOWN: Final = 10
_SUGGESTED: Final = 20
"""Unknown contigs for which a near name is looked for, which takes milliseconds each."""
_LONGEST: Final = 20
"""Letters of an allele that errors show."""


class Variant(NamedTuple):
    """Bases of a contig, and what stands in their place; what both spellings share is cut off.

    Attributes
    ----------
    contig
        Its name.
    start, end
        0-based and half-open; empty for an insertion.
    alt
        Store codes, without soft mask; empty for a deletion.
    """

    contig: str
    start: int
    end: int
    alt: bytes


class Bases(Protocol):
    """A genome to fetch from: a `Genome`, or a `Store`."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Contig to its length in bases."""

    def fetch(self, region: Region) -> Codes:
        """Return a region's (length,) uint8 store codes."""


@dataclass
class Alleles:
    """The alternate alleles of a VCF, in its order.

    Attributes
    ----------
    variants
        Those to score.
    reasons
        One for each allele: why it is not scored, or None for those in `variants`.
    records
        How many records they come from.
    mismatched
        How many of these have another REF than the genome.
    mismatches
        The first of them, in words.
    """

    variants: list[Variant] = field(default_factory=list)
    reasons: list[Reason | None] = field(default_factory=list)
    records: int = 0
    mismatched: int = 0
    mismatches: list[str] = field(default_factory=list)

    def skipped(self) -> Counter[str]:
        """Count the alleles that are not scored, by reason."""
        return Counter(reason for reason in self.reasons if reason)

    def describe_mismatches(self, source: str, genome: str) -> str:
        """Say in one line which records have another REF than the genome."""
        more = self.mismatched - len(self.mismatches)
        return (
            f"{source}: REF of {self.mismatched:,} of {self.records:,} records is not what {genome}"
            f" has (is it another assembly?): {', '.join(self.mismatches)}"
            + (f" and {more:,} more" if more else "")
        )


def read_alleles(records: Iterable[Record], bases: Bases, source: str, genome: str) -> Alleles:
    """Find out which alleles can be scored, and hold each REF against the genome.

    Soft-masked bases and lower-case letters are the same as others, and N in REF is no mismatch.

    Parameters
    ----------
    records
        Of a VCF.
    bases
        The genome.
    source, genome
        What errors call the two.

    Raises
    ------
    InputError
        With all contigs that the genome lacks; and for REF or ALT that is no allele, naming the
        line.
    """
    found = Alleles()
    unknown: Counter[str] = Counter()
    for record in records:
        found.records += 1
        if record.contig not in bases.lengths:
            unknown[record.contig] += 1
            continue
        ref = _letters(record.ref, "REF", record, source)
        there = _genome_at(record, len(ref), bases)
        is_mismatch = any(a != b and N not in (a, b) for a, b in zip(ref, there, strict=True))
        if is_mismatch:
            found.mismatched += 1
            if len(found.mismatches) < _SHOWN:
                found.mismatches.append(_describe_mismatch(record, there))
        for text in record.alts:
            allele = "mismatch" if is_mismatch else _allele(record, text, ref, there, source)
            if isinstance(allele, Variant):
                found.variants.append(allele)
            found.reasons.append(None if isinstance(allele, Variant) else allele)
    if unknown:
        raise _unknown_contigs(unknown, bases.lengths, source, genome)
    return found


def _letters(text: str, column: str, record: Record, source: str) -> bytes:
    codes = ENCODE[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]
    if not codes.size or INVALID in codes:
        raise InputError(
            f"{source}: line {record.line:,}: {column} {text[:_LONGEST]!r} is no allele of letters"
        )
    return (codes & BASE).tobytes()


def _genome_at(record: Record, length: int, bases: Bases) -> bytes:
    """Return the genome's bases under a REF; outside the contig there are no bases: 255."""
    contig, start = record.contig, record.position - 1
    inside = min(max(start, 0), bases.lengths[contig])
    end = min(max(start + length, inside), bases.lengths[contig])
    codes = (bases.fetch(Region(contig, inside, end)) & BASE).tobytes()
    before = b"\xff" * (inside - start if start < 0 else 0)
    return (before + codes).ljust(length, b"\xff")[:length]


def _describe_mismatch(record: Record, there: bytes) -> str:
    inside = there.replace(b"\xff", b"")
    letters = _shorten(decode(np.frombuffer(inside, np.uint8))) if inside else "no base"
    where = f"{record.contig}:{record.position}"
    return f"line {record.line:,} ({where} {_shorten(record.ref)}, genome {letters})"


def _shorten(letters: str) -> str:
    return letters if len(letters) <= _LONGEST else f"{letters[:_LONGEST]}..."


def _allele(record: Record, text: str, ref: bytes, there: bytes, source: str) -> Variant | Reason:
    if reason := _no_sequence(text):
        return reason
    alt = _letters(text, "ALT", record, source)
    if N in ref or N in there:
        return "n_in_ref"
    if N in alt:
        return "ambiguous"
    return make_variant(record.contig, record.position - 1, ref, alt) or "identical"


def _no_sequence(text: str) -> Reason | None:
    """Tell the alleles that are no sequence, as sections 1.6.1 and 5 of the specification do."""
    if text == ".":
        return "no_alt"
    if text == "*":
        return "star"
    if text.startswith("<"):
        return "symbolic"
    if "[" in text or "]" in text or text.startswith(".") or text.endswith("."):
        return "breakend"
    return None


def make_variant(contig: str, start: int, ref: bytes, alt: bytes) -> Variant | None:
    """Cut off what two alleles end with alike, then what they begin with; None if all is alike.

    Parameters
    ----------
    contig, start
        Where `ref` begins, 0-based.
    ref, alt
        Store codes, without soft mask.
    """
    if ref == alt:
        return None
    tail = _shared(ref[::-1], alt[::-1])
    ref, alt = ref[: len(ref) - tail], alt[: len(alt) - tail]
    head = _shared(ref, alt)
    return Variant(contig, start + head, start + len(ref), alt[head:])


def _shared(one: bytes, other: bytes) -> int:
    """Count how many codes both begin with."""
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return number
    return min(len(one), len(other))


def window_of(variant: Variant, length: int, context: int) -> tuple[int, int]:
    """Return the window that a variant is read in, of a grid that no other variant changes.

    A contig is parted into cells of half a context. A window is the cell that a variant begins in,
    longer if need be to hold the end of a deletion, and a quarter of a context on either side as
    far as the contig reaches.

    Parameters
    ----------
    variant
        Inside its contig.
    length
        Bases of the contig.
    context
        Bases of a window.
    """
    cell, flank = context // 2, context // 4
    first = variant.start // cell * cell
    last = max(first + cell, variant.end)
    return max(0, first - flank), min(last + flank, length)


def _unknown_contigs(
    unknown: Mapping[str, int], lengths: Mapping[str, int], source: str, genome: str
) -> InputError:
    near = {name: nearest_contig(name, lengths) for name in list(unknown)[:_SUGGESTED]}
    named = []
    for name, count in unknown.items():
        hint = f"; did you mean `{near[name]}`?" if near.get(name) else ""
        named.append(f"`{name}` ({count:,} record{'s' * (count > 1)}{hint})")
    cure = "bcftools annotate --rename-chrs renames contigs"
    if not any(near.values()):
        cure = f"it holds {list_contigs(lengths)}"
    return InputError(f"{source}: not in {genome}: {', '.join(named)}; {cure}")
