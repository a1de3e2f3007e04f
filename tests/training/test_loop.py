import math
import signal
from collections.abc import Collection, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from dnamamba.errors import DnamambaError
from dnamamba.models.backbone import ModelConfig, detached
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import UNSCALED, autocast_to, scaler_for
from dnamamba.training.divergence import EXPLODED_BITS, PATIENCE, DivergedError
from dnamamba.training.loop import (
    Callbacks,
    LoopConfig,
    Row,
    accumulate_gradients,
    fit,
    seconds_per_step,
)
from dnamamba.training.objectives import NextBase
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.signals import StopRequest

CPU = torch.device("cpu")


def tokens(codes: Tensor) -> Tensor:
    return (codes & 7).long()


def build() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(d_model=8, n_layer=1, d_state=2))


def codes_of_step(step: int, batch: int = 6, length: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 5, (batch, length), generator=generator, dtype=torch.uint8)


def all_codes(start: int = 0) -> Iterator[Tensor]:
    step = start
    while True:
        yield codes_of_step(step)
        step += 1


class Diary:
    """Callbacks that note what was called when."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.validated: list[int] = []
        self.saved: list[int] = []

    def callbacks(self) -> Callbacks:
        return Callbacks(self.rows.extend, self.validated.append, self.saved.append)


def run(
    model: LanguageModel,
    diary: Diary,
    *,
    start: int = 0,
    steps: int = 10,
    micro_batch: int = 6,
    stop: StopRequest | None = None,
    batches: Iterator[Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    skipped: Collection[range] = (),
    scaler: GradScaler = UNSCALED,
) -> int:
    return fit(
        model,
        optimizer or torch.optim.AdamW(model.parameters(), fused=True),
        NextBase(tokens),
        batches or all_codes(start),
        diary.callbacks(),
        start=start,
        config=LoopConfig(
            steps=steps,
            batch=6,
            micro_batch=micro_batch,
            length=20,
            validate_every=4,
            checkpoint_every=3,
        ),
        optimizer_config=OptimizerConfig(),
        device=CPU,
        stop=stop or StopRequest(),
        skipped=skipped,
        scaler=scaler,
    )


def test_reports_every_step_and_validates_and_saves_when_due() -> None:
    diary = Diary()
    assert run(build(), diary) == 10
    assert [row.step for row in diary.rows] == list(range(1, 11))
    assert diary.validated == [4, 8]
    assert diary.saved == [3, 6, 9, 10]
    assert diary.rows[0].lr == pytest.approx(8e-3)
    assert diary.rows[0].bits == pytest.approx(3.0, abs=0.5)


def gradients(micro_batch: int, codes: Tensor) -> list[Tensor]:
    model = build()
    accumulate_gradients(model, NextBase(tokens, 0.5), codes, 0, micro_batch=micro_batch)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_micro_batches_weigh_every_target_the_same(micro_batch: int) -> None:
    codes = codes_of_step(0)
    codes[0, 1:18] = 4  # one window with hardly a target
    codes[1] |= 8
    for whole, parts in zip(gradients(6, codes), gradients(micro_batch, codes), strict=True):
        torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(
    ("micro_batch", "padding", "wanted"),
    [
        (1, None, [1] * 6),
        (4, None, [4, 2]),
        (1, 99, [1, 2, 3]),
        (2, 99, [3, 3]),
        (3, 99, [6]),
    ],
)
def test_a_pass_reads_as_many_rows_as_its_bases_allow(
    micro_batch: int, padding: int | None, wanted: list[int]
) -> None:
    codes = torch.full((6, 20), 99, dtype=torch.uint8)
    for row, bases in enumerate((20, 15, 5, 2, 2, 9)):
        codes[row, :bases] = 1
    config = LoopConfig(1, 6, micro_batch, 20, 1, 1, padding=padding)
    assert config.passes(codes) == wanted
    if padding is None:
        wanted = [4, 2] if micro_batch == 1 else [6]
        assert config.passes(codes[:, :5]) == wanted, "shorter windows, more of them"


def test_the_loss_is_the_weighted_mean_over_targets() -> None:
    model, codes = build(), codes_of_step(0)
    nats, weight = accumulate_gradients(model, NextBase(tokens), codes, 0, micro_batch=4)
    logits = model(tokens(codes))[:, :-1]
    targets = tokens(codes)[:, 1:].masked_fill(codes[:, 1:] == 4, -100)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert weight == (codes[:, 1:] != 4).sum()
    torch.testing.assert_close(nats / weight, expected.detach())


def test_a_batch_without_targets_changes_no_gradient() -> None:
    model = build()
    codes = torch.full((6, 20), 4, dtype=torch.uint8)
    accumulate_gradients(model, NextBase(tokens), codes, 0, micro_batch=6)
    assert all(not parameter.grad.any() for parameter in model.parameters())  # type: ignore[union-attr]
    diary = Diary()
    run(model, diary, steps=1, batches=iter([codes]))
    assert diary.rows[0].bits != diary.rows[0].bits


def test_two_halves_make_the_whole_bit_for_bit() -> None:
    straight, halves = build(), build()
    run(straight, Diary(), steps=8)
    optimizer = torch.optim.AdamW(halves.parameters(), fused=True)
    stop = StopRequest()

    def first_half() -> Iterator[Tensor]:
        for step in range(8):
            yield codes_of_step(step)
            stop.signal = signal.SIGTERM if step == 3 else None

    diary = Diary()
    assert run(halves, diary, steps=8, stop=stop, batches=first_half(), optimizer=optimizer) == 4
    assert diary.saved == [3, 4]
    assert diary.validated == []
    run(halves, Diary(), start=4, steps=8, optimizer=optimizer)
    for one, other in zip(straight.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_ends_the_run_unsaved() -> None:
    model = build()

    def poison() -> Iterator[Tensor]:
        for step in range(10):
            if step == 4:
                with torch.no_grad():
                    next(model.parameters())[0] = torch.nan
            yield codes_of_step(step)

    diary = Diary()
    with pytest.raises(DivergedError) as raised:
        run(model, diary, batches=poison())
    assert raised.value.steps == range(4, 5)
    assert "at step 5" in str(raised.value)
    assert diary.saved == [3]


def louder(model: LanguageModel, steps: Collection[int]) -> Iterator[Tensor]:
    """Serve batches; at `steps` the logits are far too large, as no update makes them."""
    weight = model.backbone.norm_f.weight
    for step, codes in enumerate(all_codes()):
        calm = weight.detach().clone()
        if step in steps:
            weight.data.mul_(1e4)
        yield codes
        if step in steps:
            weight.data.copy_(calm)


def test_an_exploding_loss_ends_the_run_and_nothing_is_saved_on_the_way() -> None:
    model, diary = build(), Diary()
    steps = PATIENCE + 10
    with pytest.raises(DivergedError) as raised:
        run(model, diary, steps=steps, batches=louder(model, range(4, steps)))
    assert raised.value.steps == range(3, 4 + PATIENCE)
    assert f"above {EXPLODED_BITS:g} bits from step 5 to step {4 + PATIENCE}" in str(raised.value)
    assert diary.saved == [3]


def test_a_spike_delays_a_checkpoint_and_no_more() -> None:
    model, diary = build(), Diary()
    spike = range(4, 4 + PATIENCE - 1)
    assert run(model, diary, steps=20, batches=louder(model, spike)) == 20
    assert max(row.bits for row in diary.rows) > EXPLODED_BITS
    assert diary.validated == [4, 16]
    assert diary.saved == [3, 15, 18, 20]


def test_a_stop_amid_a_spike_leaves_the_checkpoint_before() -> None:
    model, diary, stop = build(), Diary(), StopRequest()

    def stopped() -> Iterator[Tensor]:
        for step, codes in enumerate(louder(model, range(4, 20))):
            yield codes
            stop.signal = signal.SIGTERM if step == 6 else None

    assert run(model, diary, steps=20, batches=stopped(), stop=stop) == 7
    assert diary.saved == [3]


def test_skipped_steps_change_no_weights_and_have_no_row() -> None:
    model, diary = build(), Diary()
    passed: list[list[Tensor]] = []

    def noted() -> Iterator[Tensor]:
        for codes in all_codes():
            passed.append([parameter.detach().clone() for parameter in model.parameters()])
            yield codes

    run(model, diary, batches=noted(), skipped=[range(2, 4), range(8, 10)])
    assert [row.step for row in diary.rows] == [1, 2, 5, 6, 7, 8]
    assert diary.validated == [4, 8]
    assert diary.saved == [3, 6, 9, 10]
    assert all(map(torch.equal, passed[2], passed[4]))
    assert not all(map(torch.equal, passed[4], passed[5]))


def test_a_resume_begins_with_the_validation_that_is_due() -> None:
    diary = Diary()
    run(build(), diary, start=4, steps=8)
    assert diary.validated == [4]


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_readers_may_die_of_the_signal_that_stops_the_run(number: int | None) -> None:
    stop, diary = StopRequest(), Diary()

    def dying() -> Iterator[Tensor]:
        yield codes_of_step(0)
        stop.signal = number
        raise DnamambaError("a process that reads windows died")

    if number is None:
        with pytest.raises(DnamambaError, match="died"):
            run(build(), diary, batches=dying(), stop=stop)
        assert diary.saved == []
    else:
        assert run(build(), diary, batches=dying(), stop=stop) == 1
        assert diary.saved == [1]


def test_timing_leaves_weights_and_gradients_alone() -> None:
    model = build()
    before = [parameter.clone() for parameter in model.parameters()]
    seconds = seconds_per_step(model, NextBase(tokens), codes_of_step(0)[:2], batch=6)
    assert seconds > 0
    assert all(map(torch.equal, before, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_segments_carry_the_exact_state_and_cut_the_gradient() -> None:
    """The loss is that of whole windows; the gradient that of segments from detached states."""
    codes, objective = codes_of_step(0), NextBase(tokens, 0.5)
    model = build()
    whole = accumulate_gradients(model, objective, codes, 0, micro_batch=6)
    model.zero_grad()
    nats, weight = accumulate_gradients(model, objective, codes, 0, micro_batch=4, tbptt=7)
    torch.testing.assert_close((nats, weight), whole)

    wanted, state = build(), None
    batch = objective(codes, 0, 0)
    for start in (0, 7, 14):
        ids, targets, weights = (tensor[:, start : start + 7] for tensor in batch)
        scored, state = wanted.nats(ids, targets, detached(state), return_state=True)
        ((scored * weights).sum() / batch.weights.sum()).backward()
    for mine, theirs in zip(model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_a_segment_as_long_as_the_window_changes_nothing() -> None:
    found = []
    for tbptt in (None, 20, 50):
        model = build()
        accumulate_gradients(
            model, NextBase(tokens), codes_of_step(0), 0, micro_batch=6, tbptt=tbptt
        )
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_steps_that_a_scale_is_too_large_for_are_left_out_and_are_no_divergence() -> None:
    model, diary = build(), Diary()
    scaler = GradScaler("cpu", init_scale=2.0**127)
    assert run(model, diary, scaler=scaler) == 10
    left_out = [row.step for row in diary.rows if not math.isfinite(row.norm)]
    assert left_out == list(range(1, len(left_out) + 1))
    assert 1 <= len(left_out) <= 8
    assert all(math.isfinite(row.bits) for row in diary.rows)
    assert diary.saved == [3, 6, 9, 10]
    # A scale is a power of two: what is left is that of a run without.
    other = build()
    run(other, Diary(), skipped=[range(len(left_out))])
    for here, there in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(here, there)


def test_a_gradient_that_no_scale_makes_finite_is_a_divergence() -> None:
    model = build()
    model.backbone.norm_f.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(DivergedError, match="not finite at step 4") as raised:
        run(model, Diary(), scaler=GradScaler("cpu", init_scale=8.0))
    assert raised.value.steps == range(3, 4)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "chunked"])
def test_fp16_learns_on_a_gpu(backend: str, cuda: torch.device) -> None:
    diaries = []
    for precision in ("fp32", "fp16"):
        model, diary = build().to(cuda), Diary()
        model.backend = backend
        fit(
            model,
            torch.optim.AdamW(model.parameters(), fused=True),
            NextBase(tokens),
            all_codes(),
            diary.callbacks(),
            start=0,
            config=LoopConfig(20, 6, 6, 20, validate_every=99, checkpoint_every=99),
            optimizer_config=OptimizerConfig(),
            device=cuda,
            stop=StopRequest(),
            autocast=autocast_to(precision, cuda),
            scaler=scaler_for(precision, cuda),
        )
        diaries.append(diary)
    exact, half = (diary.rows[-1].bits for diary in diaries)
    assert half == pytest.approx(exact, rel=0.02)
