from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import encode
from dnamamba.data.region import Region
from dnamamba.data.variants import make_variant
from dnamamba.errors import InputError, UsageError
from dnamamba.inference import ism
from dnamamba.inference.ism import Saturation, read_reference, saturate, substitutions
from dnamamba.inference.score import Scorer, Scoring, score
from tests.inference.scoring import Genome, random_codes, tiny

CLOSE = {"rtol": 0, "atol": 1e-5}
CONTEXT = 64
REGION = Region("a", 25, 49)
KNOWN = 21


@pytest.fixture(scope="module")
def genome() -> Genome:
    codes = random_codes(120)
    codes[40:43] = 4
    codes[44:70] |= 8
    return Genome({"a": codes, "n": encode("N" * 50)})


def scorer(seed: int = 0, strands: Any = "both", horizon: int | None = None, **of: Any) -> Scorer:
    scoring = Scoring(CONTEXT, horizon, strands)
    return Scorer(tiny(seed, **of), scoring, device=torch.device("cpu"))


MODELS = [
    {},
    {"horizon": 5},
    {"objective": "masked", "bidirectional": True},
    {"objective": "masked", "bidirectional": True, "symmetry": "shared"},
]


@pytest.mark.parametrize("options", MODELS, ids=["causal", "horizon", "masked", "shared"])
def test_each_substitution_is_scored_as_if_alone(genome: Genome, options: dict[str, Any]) -> None:
    found = saturate(scorer(**options), genome, REGION)
    horizon = options.get("horizon")
    model = tiny(**{name: value for name, value in options.items() if name != "horizon"})
    seen = 0
    for place, at in enumerate(range(REGION.start, REGION.end)):
        ref = int(genome.contigs["a"][at]) & 7
        assert found.reference[place] == ref
        for code in range(4):
            if code == ref or ref == 4:
                assert np.isnan(found.strands[place, code]).all()
            elif seen % 7 == 0:
                variant = make_variant("a", at, bytes([ref]), bytes([code]))
                assert variant
                alone = score(model, genome, [variant], context=CONTEXT, horizon=horizon)
                np.testing.assert_allclose(found.strands[place, code], alone[0], **CLOSE)
            seen += 1
    assert np.isfinite(found.strands).sum() == 2 * 3 * KNOWN
    same = (found.strands[..., 0] == found.strands[..., 1]).sum()
    assert same == (3 * KNOWN if options.get("symmetry") else 0)


def test_one_strand_alone(genome: Genome) -> None:
    both = saturate(scorer(), genome, REGION)
    one = saturate(scorer(strands="forward"), genome, REGION)
    np.testing.assert_array_equal(one.strands[..., 0], both.strands[..., 0])
    assert np.isnan(one.strands[..., 1]).all()
    np.testing.assert_array_equal(one.ratios, both.strands[..., 0])
    np.testing.assert_allclose(both.ratios, both.strands.mean(-1), rtol=1e-12)


@pytest.mark.parametrize("part", [10, 32, 50, 64], ids="{} bases".format)
def test_parts_change_nothing(genome: Genome, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saturate(scorer(), genome, REGION)
    asked: list[NDArray[np.int64]] = []
    counted: list[int] = []
    variants_at = ism.variants_at
    monkeypatch.setattr(ism, "PART", part)
    monkeypatch.setattr(ism, "variants_at", lambda *of: asked.append(of[1]) or variants_at(*of))
    found = saturate(scorer(), genome, REGION, advance=counted.append)
    np.testing.assert_allclose(found.strands, whole.strands, **CLOSE)
    assert sum(counted) == sum(map(len, asked)) == 3 * KNOWN
    assert max(map(len, asked)) <= 3 * part
    cell = CONTEXT // 2
    if part >= cell:  # no window of the grid is read for two parts
        cells = [set((REGION.start + places[:, 0]) // cell) for places in asked]
        assert sum(map(len, cells)) == len(set.union(*cells))


def test_importance_is_the_mean_loss() -> None:
    strands = np.full((3, 4, 2), np.nan)
    strands[0, 1:, 0], strands[0, 1:, 1] = (-1, -2, -3), (-3, -4, -5)
    strands[1, :3] = 0.5
    found = Saturation(Region("a", 0, 3), encode("ATN"), strands)
    np.testing.assert_allclose(found.importance, [3, -0.5, np.nan])


def test_substitutions_are_of_known_bases() -> None:
    assert substitutions(encode("CNT")).tolist() == [
        *([0, 0], [0, 2], [0, 3]),
        *([2, 0], [2, 1], [2, 2]),
    ]


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        (Region("a", 0, 9, "-"), UsageError, r"a:1-9\(-\): both strands are read, .* leave out"),
        (Region("n", 3, 9), InputError, "n:4-9: has no base other than N"),
        (Region("a", 40, 43), InputError, "a:41-43: has no base other than N"),
        (Region("a", 9, 9), InputError, "has no base other than N"),
    ],
)
def test_regions_that_cannot_be_saturated(
    genome: Genome, region: Region, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_reference(genome, region)
    with pytest.raises(error, match=message):
        saturate(scorer(), genome, region)
