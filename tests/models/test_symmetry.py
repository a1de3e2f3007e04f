from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import encode
from dnamamba.alphabet import reverse_complement as reverse_complement_codes
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.symmetry import complement_map, reverse_complement

Build = Callable[..., LanguageModel]
Draw = Callable[..., torch.Tensor]


def test_complement_map_swaps_bases_and_leaves_the_rest() -> None:
    table = complement_map((7, 8, 9, 10, 11), 12)
    assert table.tolist() == [0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11]
    assert torch.equal(table[table], torch.arange(12))


def test_reverse_complement_agrees_with_the_alphabets(tiny_model: Build) -> None:
    model = tiny_model(vocab_size=16, ids=(3, 5, 9, 1, 2), mask_id=0)
    codes = encode("ACGTNacgtnACCA")
    there = torch.from_numpy(reverse_complement_codes(codes))[None]
    ids = model.tokens(torch.from_numpy(codes)[None])
    assert torch.equal(reverse_complement(ids, model.complement), model.tokens(there))


@settings(max_examples=10, deadline=None)
@given(
    length=st.integers(1, 60),
    seed=st.integers(0, 99),
    bidirectional=st.booleans(),
    symmetry=st.sampled_from(["shared", "average"]),
    tied=st.booleans(),
)
def test_logits_of_the_other_strand_are_the_other_strands_logits(
    length: int, seed: int, bidirectional: bool, symmetry: str, tied: bool
) -> None:
    torch.manual_seed(seed)
    config = ModelConfig(
        d_model=8,
        n_layer=2,
        d_state=4,
        objective="masked",
        bidirectional=bidirectional,
        symmetry=symmetry,
        tie_embeddings=tied,
    )
    model = LanguageModel(config).double().eval()
    ids = torch.randint(0, 6, (2, length))
    logits = model(ids)
    there = model(reverse_complement(ids, model.complement))
    torch.testing.assert_close(there, logits.flip(1)[..., model.complement], rtol=1e-12, atol=1e-12)


def test_shared_is_equivariant_in_training_too(tiny_model: Build, random_ids: Draw) -> None:
    model, ids = tiny_model(objective="masked", symmetry="shared").train(), random_ids(33)
    there = model(reverse_complement(ids, model.complement))
    torch.testing.assert_close(there, model(ids).flip(1)[..., model.complement])


def test_without_symmetry_the_strands_differ(tiny_model: Build, random_ids: Draw) -> None:
    model, ids = tiny_model(objective="masked", bidirectional=True), random_ids(33)
    there = model(reverse_complement(ids, model.complement)).flip(1)[..., model.complement]
    assert (there - model(ids)).abs().max() > 1e-2


def test_hidden_of_the_other_strand(tiny_model: Build, random_ids: Draw) -> None:
    ids = random_ids(33)
    shared = tiny_model(objective="masked", symmetry="shared")
    here, there = shared.hidden(ids), shared.hidden(reverse_complement(ids, shared.complement))
    assert here.shape == (2, 33, 32)
    assert shared.config.d_hidden == 32
    swapped = torch.cat(here.chunk(2, dim=-1)[::-1], dim=-1).flip(1)
    torch.testing.assert_close(there, swapped)

    average = tiny_model(symmetry="average")
    here, there = average.hidden(ids), average.hidden(reverse_complement(ids, average.complement))
    assert here.shape == (2, 33, 16)
    torch.testing.assert_close(there, here.flip(1))


def test_average_reads_one_strand_in_training(tiny_model: Build, random_ids: Draw) -> None:
    ids = random_ids(33)
    plain = tiny_model(objective="masked")
    average = tiny_model(objective="masked", symmetry="average")
    there = plain(reverse_complement(ids, plain.complement)).flip(1)[..., plain.complement]
    torch.testing.assert_close(average(ids), (plain(ids) + there) / 2)
    assert torch.equal(average.train()(ids), plain(ids))
    assert torch.equal(average.hidden(ids), plain.hidden(ids))


def test_next_base_logits_never_see_the_other_strand(tiny_model: Build, random_ids: Draw) -> None:
    """It holds the base to predict: averaging would leak the answer."""
    ids = random_ids(33)
    plain, average = tiny_model(), tiny_model(symmetry="average")
    assert torch.equal(average(ids), plain(ids))
    logits, state = average(ids[:, :5], return_state=True)
    torch.testing.assert_close(average.step(ids[:, 5], state)[0], plain(ids)[:, 5])
    assert torch.equal(logits, plain(ids[:, :5]))


def test_shared_equals_caduceus_written_out(tiny_model: Build, random_ids: Draw) -> None:
    """Equation by equation: halves of 2 d_model channels, the second in RC orientation."""
    model, ids = (
        tiny_model(objective="masked", symmetry="shared", bidirectional=True),
        random_ids(9),
    )

    def rc(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1, 2)

    def halves(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([module(first), rc(module(rc(second)))], dim=-1)

    backbone, complement = model.backbone, model.complement
    there = backbone.embedding(complement[ids.flip(1)])
    x = torch.cat([backbone.embedding(ids), rc(there)], dim=-1)
    for layer in backbone.layers:
        x = x + halves(lambda part, m=layer.mixer: m(part)[0], halves(layer.norm, x))
    first, second = halves(backbone.norm_f, x).chunk(2, dim=-1)
    weight = model.lm_head.weight
    logits = first @ weight.T + second.flip(-1) @ weight[complement].T
    torch.testing.assert_close(model(ids), logits)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {}])
def test_shared_costs_no_parameters(options: dict[str, bool]) -> None:
    counts = [
        LanguageModel(
            ModelConfig(d_model=16, n_layer=2, objective="masked", symmetry=symmetry, **options)
        ).parameters_count
        for symmetry in ("none", "shared")
    ]
    assert counts[0] == counts[1]
