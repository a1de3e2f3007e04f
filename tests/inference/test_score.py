from typing import Any

import numpy as np
import pytest
import torch

from dnamamba.alphabet import decode, encode, reverse_complement
from dnamamba.data.variants import Variant, make_variant, window_of
from dnamamba.errors import InputError, UsageError
from dnamamba.inference.score import Scoring, is_symmetric, score
from dnamamba.inference.score_window import Change, Window
from dnamamba.models.heads import LanguageModel
from tests.inference.scoring import Genome, random_codes, tiny, whole

CLOSE = {"rtol": 0, "atol": 1e-5}
CONTEXT = 64


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


@pytest.fixture(scope="module")
def genome() -> Genome:
    gapped = decode(random_codes(150, 1))
    gapped = gapped[:40] + "NNNNNN" + gapped[40:41] + "N" + gapped[41:100].lower() + gapped[100:]
    return Genome({"b": random_codes(300), "a": encode(gapped), "n": encode("N" * 50)})


def variants_of(genome: Genome) -> list[Variant]:
    """Variants of each kind at both ends, around cells of the grid, and beside N."""
    found = []
    for contig in ("a", "b"):
        codes = genome.contigs[contig] & 7
        length = len(codes)
        for start in (0, 1, 31, 32, 33, 38, 39, 46, 48, 63, 64, length - 2, length - 1):
            for size, alt in ((1, "G"), (2, "TA"), (1, "CATT"), (3, "C")):
                ref = codes[start : min(start + size, length)]
                made = make_variant(contig, start, ref.tobytes(), encode(alt).tobytes())
                if made and 4 not in ref:
                    found.append(made)
    return [*found, Variant("b", 300, 300, encode("A").tobytes())]


def by_hand(model: LanguageModel, genome: Genome, variant: Variant) -> tuple[float, float]:
    """Read the known bases of two windows, and their reverse complements."""
    codes = genome.contigs[variant.contig] & 7
    start, end = window_of(variant, len(codes), CONTEXT)
    before = codes[start : variant.start]
    place = int((before < 4).sum())
    size = variant.end - variant.start
    known = codes[start:end]
    window = Window(known[known < 4], [])
    change = Change(place, place + size, np.frombuffer(variant.alt, np.uint8))
    turned = Window(reverse_complement(window.codes), [Change(0, 0, encode(""))])
    length = len(window.codes)
    back = Change(length - place - size, length - place, reverse_complement(change.alt))
    return whole(model, window, change), whole(model, turned, back)


def test_both_strands_of_a_genome(model: LanguageModel, genome: Genome) -> None:
    variants = [*variants_of(genome)[::5], variants_of(genome)[-1]]
    wanted = [by_hand(model, genome, variant) for variant in variants]
    found = score(model, genome, variants, context=CONTEXT)
    np.testing.assert_allclose(found, wanted, **CLOSE)
    forward = score(model, genome, variants, context=CONTEXT, strands="forward")
    np.testing.assert_allclose(forward[:, 0], found[:, 0], **CLOSE)
    assert np.isnan(forward[:, 1]).all()


def test_a_score_does_not_hang_on_the_others(model: LanguageModel, genome: Genome) -> None:
    variants = variants_of(genome)
    together = score(model, genome, variants, context=CONTEXT, horizon=20)
    order = np.random.default_rng(0).permutation(len(variants))
    shuffled = score(model, genome, [variants[i] for i in order], context=CONTEXT, horizon=20)
    np.testing.assert_allclose(shuffled, together[order], **CLOSE)
    for number in order[:10]:
        alone = score(model, genome, [variants[number]], context=CONTEXT, horizon=20)
        np.testing.assert_allclose(alone[0], together[number], **CLOSE)


def turn(genome: Genome, variants: list[Variant]) -> tuple[Genome, list[Variant]]:
    """Read a genome from its other end, and the same variants there."""
    contigs = {name: reverse_complement(codes) for name, codes in genome.contigs.items()}
    turned = []
    for contig, start, end, alt in variants:
        length = genome.lengths[contig]
        codes = reverse_complement(np.frombuffer(alt, np.uint8))
        turned.append(Variant(contig, length - end, length - start, codes.tobytes()))
    return Genome(contigs), turned


def test_the_other_end_swaps_the_strands(model: LanguageModel) -> None:
    """Of a contig that fits one window: cells of the grid would lie elsewhere."""
    genome = Genome({"x": random_codes(30)})
    variants = [Variant("x", 4, 5, b"\2"), Variant("x", 12, 12, b"\0\1"), Variant("x", 9, 11, b"")]
    here = score(model, genome, variants, context=CONTEXT)
    there = score(model, *turn(genome, variants), context=CONTEXT)
    np.testing.assert_allclose(here, there[:, ::-1], **CLOSE)


@pytest.mark.parametrize("symmetry", ["none", "shared", "average"])
def test_a_symmetric_model_is_read_once(genome: Genome, symmetry: str) -> None:
    model = tiny(objective="masked", bidirectional=True, symmetry=symmetry)
    variants = variants_of(genome)[::9]
    found = score(model, genome, variants, context=CONTEXT, flank=1)
    assert is_symmetric(model.config) == (symmetry != "none")
    assert (found[:, 0] == found[:, 1]).all() == is_symmetric(model.config)
    here = score(model, genome, variants, context=2048, flank=1)
    there = score(model, *turn(genome, variants), context=2048, flank=1)
    np.testing.assert_allclose(here, there[:, ::-1], **CLOSE)


def test_nothing_to_score(model: LanguageModel, genome: Genome) -> None:
    assert score(model, genome, [], context=CONTEXT).shape == (0, 2)


@pytest.mark.parametrize(
    "variant",
    [
        Variant("c", 0, 1, b"\0"),
        Variant("b", 299, 301, b"\0"),
        Variant("b", -1, 1, b"\0"),
        Variant("b", 3, 2, b"\0"),
    ],
)
def test_a_variant_outside_the_genome_is_refused(
    model: LanguageModel, genome: Genome, variant: Variant
) -> None:
    with pytest.raises(InputError, match=f"{variant.contig}:.*: a variant outside the genome"):
        score(model, genome, [variant], context=CONTEXT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"context": 63}, "--context 63: 64 to 1,048,576 bases"),
        ({"context": 2**20 + 1}, "--context 1,048,577"),
        ({"context": 64, "horizon": -1}, "--horizon -1"),
        ({"context": 64, "flank": -1}, "--flank -1"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scoring(**values)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"objective": "masked", "bidirectional": True}])
def test_scores_on_a_gpu(cuda: torch.device, genome: Genome, options: dict[str, Any]) -> None:
    model = tiny(**options)
    variants = variants_of(genome)[::5]
    wanted = score(model, genome, variants, context=CONTEXT, flank=2)
    found = score(model.to(cuda), genome, variants, context=CONTEXT, flank=2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
