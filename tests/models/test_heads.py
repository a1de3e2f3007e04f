import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import encode
from dnamamba.errors import UsageError
from dnamamba.models import heads
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel

MASKED = {"objective": "masked"}
Build = Callable[..., LanguageModel]
Draw = Callable[..., torch.Tensor]


def test_tokens_drop_the_soft_mask_and_take_the_models_ids(tiny_model: Build) -> None:
    model = tiny_model(vocab_size=12, ids=(7, 8, 9, 10, 11), mask_id=3)
    codes = torch.from_numpy(encode("ACGTNacgtnRU").reshape(2, 6))
    ids = model.tokens(codes)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[7, 8, 9, 10, 11, 7], [8, 9, 10, 11, 11, 10]]


def test_tokens_of_any_byte_are_ids(tiny_model: Build) -> None:
    ids = tiny_model().tokens(torch.from_numpy(np.arange(256, dtype=np.uint8)))
    assert set(ids.tolist()) == {0, 1, 2, 3, 4}


def test_head_is_the_embedding_unless_untied() -> None:
    tied = LanguageModel(ModelConfig(d_model=16, n_layer=1))
    untied = LanguageModel(ModelConfig(d_model=16, n_layer=1, tie_embeddings=False))
    assert tied.lm_head.weight is tied.backbone.embedding.weight
    assert untied.parameters_count - tied.parameters_count == 8 * 16
    assert copy.deepcopy(tied).parameters_count == tied.parameters_count


def test_lookup_tables_are_not_weights(tiny_model: Build) -> None:
    assert not {"code_to_id", "complement"} & set(tiny_model().state_dict())


@settings(max_examples=8, deadline=None)
@given(length=st.integers(1, 70), seed=st.integers(0, 99), width=st.integers(1, 5))
def test_step_equals_forward(length: int, seed: int, width: int) -> None:
    torch.manual_seed(seed)
    model = LanguageModel(ModelConfig(d_model=8, n_layer=2, d_state=4, d_conv=width)).double()
    model.backend = "chunked"
    ids = torch.randint(0, 5, (2, length))
    logits, last = model(ids, return_state=True)
    state = model.initial_state(2)
    for t in range(length):
        step, state = model.step(ids[:, t], state)
        torch.testing.assert_close(step, logits[:, t])
    for mine, theirs in zip(state, last, strict=True):
        torch.testing.assert_close(tuple(mine), tuple(theirs))


@pytest.mark.parametrize("cut", [1, 2, 3, 31, 64])
def test_two_halves_equal_the_whole(tiny_model: Build, random_ids: Draw, cut: int) -> None:
    model, ids = tiny_model(), random_ids(65)
    whole, last = model(ids, return_state=True)
    first, state = model(ids[:, :cut], return_state=True)
    second, after = model(ids[:, cut:], state, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    for mine, theirs in zip(after, last, strict=True):
        torch.testing.assert_close(tuple(mine), tuple(theirs))
    hidden, _ = model.hidden(ids[:, cut:], state, return_state=True)
    torch.testing.assert_close(hidden, model.hidden(ids)[:, cut:])


def test_backends_agree_on_logits_and_gradients(tiny_model: Build, random_ids: Draw) -> None:
    model, ids = tiny_model(), random_ids(75)
    found = {}
    for backend in ("reference", "chunked"):
        model.backend = backend
        model.zero_grad()
        logits = model(ids)
        (logits.log_softmax(-1)[..., 0]).mean().backward()
        found[backend] = {"logits": logits, **{n: p.grad for n, p in model.named_parameters()}}
    for name, value in found["reference"].items():
        torch.testing.assert_close(found["chunked"][name], value, rtol=1e-4, atol=1e-6)


def test_backend_reaches_every_scan(tiny_model: Build) -> None:
    model = tiny_model(bidirectional=True, **MASKED)
    model.backend = "reference"
    scans = [m.backend for m in model.modules() if hasattr(m, "A_log")]
    assert scans == ["reference"] * 4
    with pytest.raises(UsageError, match="backend: 'quick' is not one of auto, reference"):
        model.backend = "quick"


@pytest.mark.parametrize("objective", ["next", "masked"])
@pytest.mark.parametrize("at", [0, 1, 30, 39])
def test_a_base_changes_nothing_before_it(
    tiny_model: Build, random_ids: Draw, objective: str, at: int
) -> None:
    model, ids = tiny_model(objective=objective), random_ids(40)
    changed = ids.clone()
    changed[:, at] = (ids[:, at] + 1) % 5
    difference = (model(ids) - model(changed)).abs().amax((0, 2))
    assert (difference[:at] == 0).all()
    assert difference[at] > 0


@pytest.mark.parametrize(
    "options", [{"bidirectional": True}, {"symmetry": "shared"}, {"symmetry": "average"}]
)
def test_models_of_both_ways_see_both_ways(
    tiny_model: Build, random_ids: Draw, options: dict[str, Any]
) -> None:
    model, ids = tiny_model(**MASKED, **options), random_ids(21)
    changed = ids.clone()
    changed[:, 10] = (ids[:, 10] + 1) % 5
    difference = (model(ids) - model(changed)).abs().amax((0, 2))
    assert (difference > 0).all()
    with pytest.raises(UsageError, match="no state"):
        model(ids, return_state=True)
    with pytest.raises(UsageError, match="no state"):
        model.step(ids[:, 0], ())
    with pytest.raises(UsageError, match="no state"):
        model.hidden(ids, ())


def test_autocast_is_close_and_gives_fp32_logits(tiny_model: Build, random_ids: Draw) -> None:
    model, ids = tiny_model(), random_ids(50)
    exact = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model(ids, return_state=True)
        step, _ = model.step(ids[:, 0], state)
    assert logits.dtype == step.dtype == torch.float32
    assert all(layer.scan.dtype == torch.float32 for layer in state)
    error = (logits - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.02


def test_two_runs_are_bitwise_equal(tiny_model: Build, random_ids: Draw) -> None:
    model, ids = tiny_model(), random_ids(65)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(ids).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


FORMS: list[dict[str, Any]] = [
    {},
    {**MASKED, "bidirectional": True},
    {**MASKED, "symmetry": "shared"},
    {**MASKED, "symmetry": "average"},
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "in use"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_nats_are_the_cross_entropy_of_the_logits(
    form: dict[str, Any],
    training: bool,
    tiny_model: Build,
    random_ids: Draw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts that do not divide the length, values and gradients."""
    monkeypatch.setattr(heads, "SCORED", 14)
    model = tiny_model(**form).double().train(training)
    ids, targets = random_ids(23), random_ids(23, seed=1)
    wanted = heads.cross_entropy(model(ids), targets)
    nats, state = model.nats(ids, targets)
    assert state is None
    torch.testing.assert_close(nats, wanted)
    weights = torch.rand_like(nats)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((nats * weights).sum(), parameters),
        torch.autograd.grad((wanted * weights).sum(), parameters),
    )


def test_nats_carry_a_state(tiny_model: Build, random_ids: Draw) -> None:
    model = tiny_model().double()
    ids, targets = random_ids(20), random_ids(20, seed=1)
    whole, _ = model.nats(ids, targets)
    first, state = model.nats(ids[:, :7], targets[:, :7], return_state=True)
    second, _ = model.nats(ids[:, 7:], targets[:, 7:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_logits_are_never_there_at_once(
    tiny_model: Build, random_ids: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "SCORED", 10)
    model = tiny_model()
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(tuple(logits.shape)))
    nats, _ = model.nats(random_ids(12), random_ids(12))
    nats.sum().backward()
    assert sorted(seen) == sorted([(2, 5, 8), (2, 5, 8), (2, 2, 8)] * 2)


def test_recompute_reaches_every_block(tiny_model: Build) -> None:
    model = tiny_model()
    model.recompute = "scan"
    assert model.recompute == "scan"
    assert {block.recompute for block in model.backbone.layers} == {"scan"}
    with pytest.raises(UsageError, match="recompute: 'all' is not one of none, scan, block"):
        model.recompute = "all"  # type: ignore[assignment]


def test_cross_entropy_is_fp32_for_bf16_logits() -> None:
    logits = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.randint(0, 8, (2, 5), generator=torch.Generator().manual_seed(0))
    nats = heads.cross_entropy(logits, targets)
    assert nats.dtype == torch.float32
    expected = -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(nats.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_sequence_is_not_split_where_both_strands_are_read(tiny_model: Build) -> None:
    model = tiny_model(**MASKED, symmetry="shared")
    with pytest.raises(UsageError, match='symmetry "shared": both strands'):
        model.group = object()  # type: ignore[assignment]
