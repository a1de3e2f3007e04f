"""Variants that INFO labels as positive or negative, and what tells of them without a model."""

import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, C, G, N
from dnamamba.data.region import Region
from dnamamba.data.store import Store
from dnamamba.data.variants import Variant
from dnamamba.data.vcf import Record
from dnamamba.errors import InputError, UsageError
from dnamamba.log import logger

EXAMPLE: Final = "LABEL=pathogenic, AF<0.01"
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {"<": operator.lt, ">": operator.gt}
_CONDITION: Final = re.compile(r"(?P<key>[^=<>\s]+)\s*(?P<how>[=<>])\s*(?P<value>.+)")


@dataclass(frozen=True)
class Condition:
    """What INFO has to say: one of some texts, or a number above or below another."""

    key: str
    how: str
    value: str

    @classmethod
    def read(cls, text: str) -> "Condition":
        """Read `KEY=TEXT`, `KEY=ONE,OTHER`, `KEY<NUMBER` or `KEY>NUMBER`.

        Raises
        ------
        UsageError
            For another text.
        """
        match = _CONDITION.fullmatch(text.strip())
        if match is None or (match["how"] != "=" and _number(match["value"]) is None):
            raise UsageError(f"{text!r} is no condition on INFO: write {EXAMPLE}")
        return cls(match["key"], match["how"], match["value"].strip())

    def holds(self, said: str | None) -> bool:
        """Tell whether it holds of what INFO says; where it says nothing, it does not.

        Raises
        ------
        InputError
            Where a number is wanted, and INFO says something else.
        """
        if said is None:
            return False
        if self.how == "=":
            return said in self.value.split(",")
        number = _number(said)
        if number is None:
            raise InputError(f"{self.key}={said!r} is no number to compare with {self.value}")
        return _COMPARE[self.how](number, float(self.value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Labelled:
    """Alleles that are positive or negative.

    Attributes
    ----------
    variants
        Which they are.
    positive
        (variants,) bool.
    groups
        What each belongs to, such as its consequence.
    """

    variants: list[Variant]
    positive: NDArray[np.bool_]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.variants)


def label(
    records: Sequence[Record],
    reasons: Sequence[str | None],
    variants: Sequence[Variant],
    positive: Condition,
    negative: Condition,
    by: str | None,
) -> Labelled:
    """Label alleles by their INFO; those of neither label are left out, and counted in the log.

    Parameters
    ----------
    records
        Of a VCF.
    reasons, variants
        As in `Alleles`: why each allele cannot be scored, or None; and those that can.
    positive, negative
        Conditions.
    by
        The INFO key that groups alleles.

    Raises
    ------
    InputError
        For an allele that both conditions hold of, and where one holds of none.
    """
    remaining, why = iter(variants), iter(reasons)
    found: list[Variant] = []
    labels: list[bool] = []
    groups: list[str] = []
    left: Counter[str] = Counter()
    for record in records:
        for number in range(len(record.alts)):
            reason = next(why)
            variant = None if reason else next(remaining)
            holds = [each.holds(record.value(each.key, number)) for each in (positive, negative)]
            if all(holds):
                raise InputError(
                    f"line {record.line:,}: allele {number + 1} is positive and negative, too"
                )
            if variant is None or not any(holds):
                left[reason or "neither label"] += 1
                continue
            found.append(variant)
            labels.append(holds[0])
            groups.append((by and record.value(by, number)) or "none")
    reasons_left = ", ".join(f"{reason} {count:,}" for reason, count in sorted(left.items()))
    logger.info(
        "%s alleles: %s positive, %s negative%s",
        *(f"{len(found) + left.total():,}", f"{sum(labels):,}", f"{len(found) - sum(labels):,}"),
        f"; left out: {reasons_left}" if left else "",
    )
    if not any(labels) or all(labels):
        which = "positive" if not any(labels) else "negative"
        raise InputError(f"no allele that can be scored is {which}: see --{which}")
    return Labelled(found, np.array(labels), groups)


def kind_of(variant: Variant) -> str:
    """Return what a variant does to the sequence."""
    bases = variant.end - variant.start
    if bases == len(variant.alt):
        return "substitution" if bases == 1 else "other"
    if not bases:
        return "insertion"
    return "other" if variant.alt else "deletion"


def baseline(variant: Variant, store: Store) -> float:
    """Return how rarely mutation makes it; of kinds that are never compared, in units of their own.

    Of substitutions: 2 for a transversion, 1 for a transition, 0 for one of the C or the G of CpG,
    which methylation makes the likeliest. Of others, by how many bases the length changes.
    """
    bases = variant.end - variant.start
    if bases != 1 or len(variant.alt) != 1:
        return float(abs(len(variant.alt) - bases))
    start = max(0, variant.start - 1)
    end = min(store.lengths[variant.contig], variant.end + 1)
    around = (store.fetch(Region(variant.contig, start, end)) & BASE).tolist()
    place = variant.start - start
    ref, alt = around[place], variant.alt[0]
    if (ref - alt) % 2:  # A and G are even, C and T odd
        return 2.0
    before = around[place - 1] if place else N
    after = around[place + 1] if place + 1 < len(around) else N
    return 0.0 if (ref, after) == (C, G) or (before, ref) == (C, G) else 1.0
