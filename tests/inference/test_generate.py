from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare

from dnamamba.alphabet import Codes
from dnamamba.errors import UsageError
from dnamamba.inference import generate as module
from dnamamba.inference.generate import (
    Made,
    Sampler,
    Start,
    generate,
    random_stream,
    read_prompt,
)
from dnamamba.inference.reading import Whole
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel

GREEDY = Sampler(temperature=0)
PROMPT = np.random.default_rng(0).integers(0, 4, 50, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps are small: threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(**options: object) -> LanguageModel:
    """A model whose bases are far from equally likely."""
    torch.manual_seed(0)
    settings = {"d_model": 16, "n_layer": 2, "tie_embeddings": False, **options}
    model = LanguageModel(ModelConfig(**settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.backend = "chunked"
    return model.eval()


def saying(probabilities: Sequence[float]) -> LanguageModel:
    """A model that says the same after whatever it has read; N is far likelier than any base."""
    model = LanguageModel(ModelConfig(d_model=16, n_layer=1, tie_embeddings=False))
    with torch.no_grad():
        model.backbone.embedding.weight.fill_(1)
        model.backbone.layers[0].mixer.out_proj.weight.zero_()  # type: ignore[union-attr]
        model.lm_head.weight.fill_(5 / 16)
        model.lm_head.weight[:4] = torch.tensor(probabilities).log()[:, None] / 16
    return model.eval()


def whole(parts: Sequence[Made]) -> tuple[Codes, NDArray[np.float32]]:
    return (
        np.concatenate([part.codes for part in parts], 1),
        np.concatenate([part.nats for part in parts], 1),
    )


def make(
    model: LanguageModel,
    length: int,
    numbers: Sequence[int] = (0,),
    *,
    starts: Sequence[Start] | None = None,
    sampler: Sampler | None = None,
    block: int | None = None,
) -> Codes:
    randoms = [random_stream(7, number) for number in numbers]
    parts = generate(model, length, randoms, starts, sampler=sampler, block=block)
    return whole(list(parts))[0]


@torch.no_grad()
def said(model: LanguageModel, codes: Codes) -> torch.Tensor:
    """Logits of the four bases after all of `codes`."""
    ids = model.tokens(torch.from_numpy(codes.astype(np.uint8))[None])
    return model(ids)[0, -1, list(model.config.ids[:4])]


@pytest.mark.parametrize(
    "options",
    [{}, {"ids": (6, 2, 5, 1, 0), "mask_id": 3}, {"symmetry": "average"}],
    ids=["plain", "other ids", "symmetry average"],
)
def test_greedy_is_the_likeliest_base_of_forward(options: dict[str, object]) -> None:
    model = build(**options)
    start = read_prompt(model, Whole(PROMPT))
    made = make(model, 40, [0, 1], starts=[start, start], sampler=GREEDY)
    sequence = PROMPT
    for _ in range(40):
        likeliest = int(said(model, sequence).argmax())
        sequence = np.append(sequence, np.uint8(likeliest))
    assert made.tolist() == [sequence[50:].tolist()] * 2
    assert len(set(made[0].tolist())) > 1


def test_greedy_is_that_of_transformers() -> None:
    pytest.importorskip("transformers")
    from dnamamba.models.convert import to_transformers

    model = build()
    twin = to_transformers(model).eval()
    twin.generation_config.eos_token_id = None
    ids = model.tokens(torch.from_numpy(PROMPT)[None])
    found = twin.generate(
        ids,
        do_sample=False,
        use_cache=True,
        max_new_tokens=60,
        min_new_tokens=60,
        pad_token_id=5,
        suppress_tokens=[4, 5, 6, 7],
    )
    made = make(model, 60, starts=[read_prompt(model, Whole(PROMPT))], sampler=GREEDY)
    assert found[0, 50:].tolist() == made[0].tolist()


@pytest.mark.parametrize(
    ("sampler", "wanted"),
    [
        (Sampler(), [0.4, 0.3, 0.2, 0.1]),
        (Sampler(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampler(top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Sampler(top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
    ],
)
def test_bases_are_as_frequent_as_likely(sampler: Sampler, wanted: list[float]) -> None:
    model = saying([0.4, 0.3, 0.2, 0.1])
    made = make(model, 41, range(100), sampler=sampler)[:, 1:]
    counts = np.bincount(made.ravel(), minlength=4)
    likely = np.array(wanted) > 0
    assert counts[~likely].sum() == 0
    expected = np.array(wanted)[likely] * counts.sum()
    assert chisquare(counts[likely], expected).pvalue > 0.01


def test_the_first_base_is_any() -> None:
    made = make(saying([0.97, 0.01, 0.01, 0.01]), 1, range(4000), sampler=GREEDY)
    assert chisquare(np.bincount(made[:, 0], minlength=4)).pvalue > 0.01


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (Sampler(), {0, 1, 2, 3}),
        (Sampler(temperature=0), {1}),
        (Sampler(temperature=1e-4), {1}),
        (Sampler(top_k=1), {1}),
        (Sampler(top_k=3), {0, 1, 3}),
        (Sampler(top_p=0.49), {1}),
        (Sampler(top_p=0.51), {1, 3}),
        (Sampler(top_p=0.79), {1, 3}),
        (Sampler(top_p=0.81), {0, 1, 3}),
        (Sampler(top_p=1e-9), {1}),
        (Sampler(top_k=2, top_p=0.6), {1}),  # of 0.5 and 0.3, 0.5 has a share of 0.625
        (Sampler(top_k=2, top_p=0.65), {1, 3}),
        (Sampler(temperature=100, top_p=0.6), {0, 1, 3}),
    ],
)
def test_cuts_keep_the_likeliest(sampler: Sampler, kept: set[int]) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    weights = sampler.weights(logits + 3)[0]
    assert set(weights.nonzero().flatten().tolist()) == kept


def test_ties_are_cut_to_what_is_asked_for() -> None:
    for sampler, count in ((Sampler(top_k=2), 2), (Sampler(top_p=0.5), 2), (GREEDY, 1)):
        assert sampler.weights(torch.zeros(1, 4)).count_nonzero() == count


@pytest.mark.parametrize(
    "weights", [(0, 0.7, 0, 0.3), (0.1, 0, 0.2, 0), (0, 0, 1, 0), (3, 1, 0, 0)]
)
def test_a_base_without_weight_is_never_drawn(weights: tuple[float, ...]) -> None:
    uniforms = torch.tensor([0, 1e-9, 0.3, 0.5, 0.7, 1 - 2**-24])
    rows = torch.tensor([weights]).expand(len(uniforms), -1)
    drawn = module._draw(rows, uniforms[:, None])
    assert all(weights[code] > 0 for code in drawn.tolist())
    likely = [code for code in range(4) if weights[code]]
    assert (drawn[0], drawn[-1]) == (likely[0], likely[-1])


@pytest.mark.parametrize("prompted", [False, True])
def test_a_sequence_is_the_same_beside_any_others(prompted: bool) -> None:
    model = build()
    start = read_prompt(model, Whole(PROMPT)) if prompted else None

    def some(numbers: Sequence[int], block: int | None = None) -> Codes:
        starts = [start] * len(numbers) if start else None
        return make(model, 70, numbers, starts=starts, block=block)

    eight = some(range(8))
    assert len({row.tobytes() for row in eight}) == 8
    np.testing.assert_array_equal(some(range(8)), eight)
    np.testing.assert_array_equal(some([3]), eight[3:4])
    np.testing.assert_array_equal(some([5, 0, 3]), eight[[5, 0, 3]])
    for block in (1, 9, 1000):
        np.testing.assert_array_equal(some(range(8), block), eight)


def test_streams_differ_by_seed_number_and_prompt() -> None:
    streams = [random_stream(*key) for key in ((0, 0), (1, 0), (0, 1), (0, 0, 1), (2**64, 2))]
    drawn = [random.random(4, dtype=np.float32).tolist() for random in streams]
    assert len(set(map(tuple, drawn))) == len(drawn)
    np.testing.assert_array_equal(random_stream(2**64, 0).random(4, dtype=np.float32), drawn[0])


def test_a_prompt_read_in_parts_is_the_prompt() -> None:
    model = build()
    at_once, in_parts = (read_prompt(model, Whole(PROMPT), part=part) for part in (50, 7))
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(in_parts.logits, at_once.logits, **close)
    for one, other in zip(in_parts.state, at_once.state, strict=True):
        torch.testing.assert_close(one.scan, other.scan, **close)
        torch.testing.assert_close(one.conv, other.conv, **close)


def test_each_continues_its_own_prompt() -> None:
    model = build()
    prompts = [PROMPT, PROMPT[::-1].copy(), PROMPT[:3]]
    starts = [read_prompt(model, Whole(prompt)) for prompt in prompts]
    together = make(model, 20, range(3), starts=starts)
    for number, start in enumerate(starts):
        np.testing.assert_array_equal(
            make(model, 20, [number], starts=[start])[0], together[number]
        )


@pytest.mark.parametrize("sampler", [None, Sampler(0.7, 3, 0.9), GREEDY])
def test_nats_are_those_of_the_model(sampler: Sampler | None) -> None:
    model = build()
    randoms = [random_stream(0, number) for number in range(3)]
    codes, nats = whole(list(generate(model, 60, randoms, sampler=sampler)))
    np.testing.assert_allclose(nats[:, 0], np.log(4), rtol=1e-6)
    ids = model.tokens(torch.from_numpy(codes))
    with torch.no_grad():
        wanted, _ = model.nats(ids[:, :-1], ids[:, 1:])
    np.testing.assert_allclose(nats[:, 1:], wanted, rtol=1e-4, atol=1e-5)


def test_blocks_are_of_the_size_that_is_asked_for() -> None:
    parts = list(generate(build(), 10, [random_stream(0, 0)], block=4))
    assert [part.codes.shape for part in parts] == [(1, 1), (1, 4), (1, 4), (1, 1)]
    assert {part.codes.dtype for part in parts} == {np.dtype(np.uint8)}


def test_the_model_is_left_as_it_was() -> None:
    model = build().train()
    for _ in generate(model, 5, [random_stream(0, 0)], [read_prompt(model, Whole(PROMPT))]):
        assert model.training
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ({"temperature": -0.1}, "temperature -0.1: give 0"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": 5}, "top-k 5: there are four bases; give 1 to 4"),
        ({"top_k": 0}, "top-k 0"),
        ({"top_p": 0.0}, "top-p 0: give a share above 0"),
        ({"top_p": 1.1}, r"top-p 1\.1"),
        ({"top_p": float("nan")}, "top-p nan"),
    ],
)
def test_values_out_of_range_are_refused(sampler: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Sampler(**sampler)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "masked"}, "predicts masked bases"),
        ({"objective": "masked", "bidirectional": True}, "predicts masked bases"),
        ({"objective": "masked", "symmetry": "shared"}, "predicts masked bases"),
    ],
)
def test_models_without_a_next_base_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        next(generate(build(**options), 5, [random_stream(0, 0)]))


def test_no_length_is_refused() -> None:
    with pytest.raises(UsageError, match="length 0: give 1 base or more"):
        next(generate(build(), 0, [random_stream(0, 0)]))


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.7, 3, 0.9), GREEDY])
@pytest.mark.parametrize("block", [5, 16])
def test_captured_steps_are_the_steps(
    cuda: torch.device, sampler: Sampler, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().to(cuda)
    start = read_prompt(model, Whole(PROMPT))

    def some() -> tuple[Codes, NDArray[np.float32]]:
        randoms = [random_stream(0, number) for number in range(3)]
        return whole(list(generate(model, 53, randoms, [start] * 3, sampler=sampler, block=block)))

    captured, nats = some()
    monkeypatch.setattr(module._Growth, "_captured", lambda growth: None)
    plain, wanted = some()
    np.testing.assert_array_equal(captured, plain)
    np.testing.assert_array_equal(nats, wanted)
