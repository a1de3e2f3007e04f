"""What `test_parallel` runs in each of several processes: steps together, held to one alone."""

import signal
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from dnamamba.errors import UsageError
from dnamamba.evaluation.language import Objective, score_model
from dnamamba.models.backbone import ModelConfig, Symmetry
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.processes import ALONE, Processes, form
from dnamamba.training.checkpoint import list_states, read_state, restore_state, write_state
from dnamamba.training.loop import accumulate_gradients, train_step
from dnamamba.training.objectives import MaskedBase, NextBase
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer
from dnamamba.training.parallel import Trained, Way, distribute, gathered, whole
from dnamamba.training.signals import Interruption, StopRequest

CPU: Final = torch.device("cpu")
LENGTH: Final = 41
BATCH: Final = 8
BOUND: Final = 2e-6
"""How far values may be apart, of the largest: fp32, summed in another order."""
WEIGHT_BOUND: Final = 2e-5
"""The same of weights after two steps of Adam, for which a small gradient counts as a large one."""


class Case(NamedTuple):
    """A model, and how it is trained."""

    masked: bool = False
    symmetry: Symmetry = "none"
    recompute: Recompute = "scan"
    tbptt: int | None = None

    def build(self, seed: int = 0) -> tuple[LanguageModel, Objective]:
        torch.manual_seed(seed)
        config = ModelConfig(
            d_model=8,
            n_layer=2,
            d_state=4,
            objective="masked" if self.masked else "next",
            bidirectional=self.masked,
            symmetry=self.symmetry,
        )
        model = LanguageModel(config)
        model.backend = "chunked"
        model.recompute = self.recompute
        if self.masked:
            return model, MaskedBase(model.tokens, config.mask_id, seed=3)
        return model, NextBase(model.tokens, 0.5)


NEXT: Final = [Case(recompute=recompute) for recompute in get_args(Recompute)]
MASKED: Final = Case(masked=True)
MEETINGS: Final[dict[str, tuple[int, list[tuple[Case, Way, int]]]]] = {
    "two": (2, [(NEXT[1], "ddp", 1), (MASKED, "fsdp", 1), (MASKED, "ddp", 2)]),
    "four": (
        4,
        [
            *((NEXT[0], "ddp", 1), (NEXT[1], "fsdp", 1), (NEXT[2], "fsdp", 1)),
            *((Case(tbptt=15), "ddp", 1), (Case(tbptt=15), "fsdp", 1)),
            (Case(masked=True, symmetry="shared"), "ddp", 1),
        ],
    ),
    "four, split": (
        4,
        [*((MASKED, "ddp", 2), (MASKED, "fsdp", 2), (MASKED, "ddp", 4)), (NEXT[2], "fsdp", 2)],
    ),
}
"""How many processes meet, and for what: who holds what of a model, how many hold a window."""


class Found(NamedTuple):
    """What is compared."""

    gradients: dict[str, Tensor]
    outcomes: Tensor
    weights: dict[str, Tensor]
    bits: Tensor
    accuracy: float


def codes_of(step: int) -> Tensor:
    """Windows with unequally many targets."""
    generator = torch.Generator().manual_seed(step)
    codes = torch.randint(0, 5, (BATCH, LENGTH), generator=generator, dtype=torch.uint8)
    codes[0, 3:] = 4
    codes[1] |= 8
    return codes


def find(case: Case, processes: Processes, way: Way, run: Path) -> Found:
    """Take a score, a gradient and two steps, and leave a checkpoint in `run`."""
    model, objective = case.build()
    trained: Trained = distribute(model, processes, way)
    optimizer = build_optimizer(model, OptimizerConfig())
    share = processes.share(BATCH)
    how: dict[str, Any] = {"tbptt": case.tbptt, "processes": processes}
    how["micro_batch"] = max(1, len(share) // 2)
    mine = [codes_of(step)[share.start : share.stop] for step in range(2)]

    windows = torch.cat([codes_of(7), codes_of(8)])[:13].unbind()
    score = score_model(model, windows, objective, batch=2, device=CPU, processes=processes)
    assert model.training
    accumulate_gradients(trained, objective, mine[0], 0, **how)
    gradients = {name: gradient_of(weight) for name, weight in model.named_parameters()}
    outcomes = [
        train_step(trained, optimizer, objective, codes, step, clip=0.5, **how)
        for step, codes in enumerate(mine)
    ]
    write_state(run, 2, model, optimizer, {}, processes)
    weights = {name: tensor.clone() for name, tensor in gathered(model).state_dict().items()}
    bits = torch.from_numpy(score.bits)
    return Found(gradients, torch.stack(outcomes), weights, bits, score.accuracy)


def gradient_of(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return whole(weight.grad).clone()


def require_close(found: Tensor, wanted: Tensor, what: str, bound: float = BOUND) -> None:
    error = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)).item()
    assert error < bound, f"{what} is {error:.2g} off"


def check_case(case: Case, way: Way, parts: int, alone: Found, before: Path, run: Path) -> None:
    processes = form(CPU, parts)
    found = find(case, processes, way, run / "together")
    where = f"{way}, {parts} parts, {case}"
    for name, gradient in alone.gradients.items():
        require_close(found.gradients[name], gradient, f"{where}: the gradient of {name}")
    for step, outcome in enumerate(alone.outcomes):
        for name, mine, wanted in zip(
            ("loss", "weight", "norm", "scale"), found.outcomes[step], outcome, strict=True
        ):
            require_close(mine, wanted, f"{where}: the {name} of step {step}")
    for name, weight in alone.weights.items():
        require_close(found.weights[name], weight, f"{where}: {name}", WEIGHT_BOUND)
    if parts == 1:
        assert torch.equal(found.bits, alone.bits), where
    require_close(found.bits, alone.bits, f"{where}: the score")
    assert found.accuracy == alone.accuracy

    # What one process wrote, several read, and write again bit for bit.
    model, _ = case.build(seed=1)
    distribute(model, processes, way)
    optimizer = build_optimizer(model, OptimizerConfig())
    assert restore_state(before, model, optimizer, {}, processes) == (2, {})
    _, tensors = read_state(list_states(before)[0])
    rewritten = write_state(run / "again", 2, model, optimizer, {}, processes)
    _, again = read_state(rewritten)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items()), where


def weights_after(
    case: Case, way: Way, processes: Processes, steps: range, run: Path
) -> dict[str, Tensor]:
    """Take steps, from the checkpoint in `run` where they are not the first, and leave another."""
    model, objective = case.build(seed=steps.start)
    trained = distribute(model, processes, way)
    optimizer = build_optimizer(model, OptimizerConfig())
    if steps.start:
        assert restore_state(run, model, optimizer, {}, processes) == (steps.start, {})
    share = processes.share(BATCH)
    how: dict[str, Any] = {"micro_batch": 1, "clip": 0.5, "processes": processes}
    for step in steps:
        codes = codes_of(step)[share.start : share.stop]
        train_step(trained, optimizer, objective, codes, step, **how)
    write_state(run, steps.stop, model, optimizer, {}, processes)
    return dict(gathered(model).state_dict())


def check_resume(case: Case, way: Way, parts: int, folder: Path) -> None:
    """A run that as many processes resume goes on bit for bit."""
    processes = form(CPU, parts)
    straight = weights_after(case, way, processes, range(4), folder / "straight")
    for steps in (range(2), range(2, 4)):
        resumed = weights_after(case, way, processes, steps, folder / "resumed")
    assert all(torch.equal(resumed[name], weight) for name, weight in straight.items()), way


def check_agreement(processes: Processes) -> None:
    """What one knows, all know; what the first cannot do, nobody has done."""
    stop = StopRequest()
    assert stop.agree(processes, False) == [False, False]
    if processes.rank == 1:
        stop.signal = signal.SIGUSR1
    assert stop.agree(processes, processes.is_first, False) == [True, True, False]
    assert stop.signal == signal.SIGUSR1
    with pytest.raises(Interruption), stop.breaks_off(processes):
        pytest.fail("a signal had arrived before")
    assert processes.on_first(lambda: processes.rank) == 0

    def fail() -> None:
        assert processes.is_first
        raise UsageError("nobody can")

    with pytest.raises(UsageError, match="nobody can"):
        processes.on_first(fail)


def meet(rank: int, name: str, folder: Path, alone: dict[Case, tuple[Found, Path]]) -> None:
    torch.set_num_threads(1)
    processes, cases = MEETINGS[name]
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=processes)
    check_agreement(form(CPU))
    for number, (case, way, parts) in enumerate(cases):
        check_case(case, way, parts, *alone[case], folder / f"together-{number}")
    check_resume(*cases[0], folder)
    dist.destroy_process_group()


def check_all(name: str, folder: Path) -> None:
    """Find what is wanted alone, and start the processes that hold it against theirs."""
    processes, cases = MEETINGS[name]
    alone = {}
    for number, case in enumerate({case for case, _, _ in cases}):
        run = folder / f"alone-{number}"
        alone[case] = find(case, ALONE, "ddp", run), run
    multiprocessing.spawn(meet, (name, folder, alone), nprocs=processes)
