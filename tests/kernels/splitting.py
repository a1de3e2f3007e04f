"""What `test_split` runs in each of several processes: a part, held against the whole."""

from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from dnamamba.kernels import causal_conv1d
from dnamamba.kernels.scan import triton_scan
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.block import Block, Recompute, RMSNorm
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.mamba import BiMamba, Mamba, directions
from tests.kernels.scan.cases import (
    LONG,
    assert_close,
    draw,
    gradients,
    leaves_of,
    lengthwise,
    loss_weights,
    scan,
)

LENGTHWISE = (*LONG, "B", "C")


def join(rank: int, processes: int, meeting: str) -> list[ProcessGroup]:
    """Meet the other processes; return the groups that this one belongs to: all, and a pair."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=processes)
    pairs = [dist.new_group([first, first + 1]) for first in range(0, processes, 2)]
    everyone = dist.group.WORLD
    assert everyone is not None
    return [everyone, pairs[rank // 2]]


def part_of(group: ProcessGroup, length: int) -> slice:
    """Cut a length into unequal parts, in the order of the ranks."""
    size, rank = group.size(), group.rank()
    cuts = [0, *(length * (2 * i + 1) // (2 * size) for i in range(1, size)), length]
    return slice(cuts[rank], cuts[rank + 1])


def summed(tensor: Tensor, group: ProcessGroup) -> Tensor:
    dist.all_reduce(tensor, group=group)
    return tensor


def check_scan(
    group: ProcessGroup, backend: str, dtype: torch.dtype, bound: float, sizes: dict[str, Any]
) -> None:
    for reverse in (False, True):
        drawn = {name: t.to(dtype) for name, t in draw(**sizes).items()}
        first = group.rank() == (group.size() - 1 if reverse else 0)
        last = group.rank() == (0 if reverse else group.size() - 1)
        whole = leaves_of(drawn)
        y, state = scan(whole, backend=backend, reverse=reverse)
        results = gradients(y, state, whole)

        here = part_of(group, sizes["length"])
        mine = {**lengthwise(drawn, here), "initial_state": drawn["initial_state"]}
        if not first:
            del mine["initial_state"]
        leaves = leaves_of(mine)
        part, after = scan(leaves, backend=backend, reverse=reverse, group=group)
        weights = loss_weights(y, state)
        loss = (part * weights[0][:, here]).sum()
        if last:
            loss = loss + (after * weights[1]).sum()
        found = torch.autograd.grad(loss, list(leaves.values()))

        wanted = {"y": results["y"][:, here]}
        got = {"y": part.detach()}
        if last:
            wanted["last"], got["last"] = results["last"], after.detach()
        for name, gradient in zip(leaves, found, strict=True):
            full, long = results[f"d{name}"], name in LENGTHWISE
            wanted[f"d{name}"] = full[:, here] if long else full
            whole_here = long or name == "initial_state"
            got[f"d{name}"] = gradient if whole_here else summed(gradient, group)
        assert_close(got, wanted, bound)


def check_convolution(group: ProcessGroup) -> None:
    for reverse in (False, True):
        generator = torch.Generator().manual_seed(0)
        x, dy = torch.randn(2, 2, 23, 5, generator=generator, dtype=torch.float64).unbind()
        weight = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        before = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
        options: dict[str, Any] = {"activation": "silu", "reverse": reverse}
        whole = [t.clone().requires_grad_() for t in (x, weight, before)]
        y = causal_conv1d(*whole[:2], initial_state=whole[2], **options)
        wanted = torch.autograd.grad(y, whole, dy)

        here = part_of(group, 23)
        first = group.rank() == (group.size() - 1 if reverse else 0)
        given = (x[:, here], weight, before) if first else (x[:, here], weight)
        mine = [t.clone().requires_grad_() for t in given]
        part = causal_conv1d(
            *mine[:2], initial_state=mine[2] if first else None, group=group, **options
        )
        dx, dweight, *dbefore = torch.autograd.grad(part, mine, dy[:, here])
        torch.testing.assert_close(part, y[:, here])
        torch.testing.assert_close(dx, wanted[0][:, here])
        torch.testing.assert_close(summed(dweight, group), wanted[1])
        if first:
            torch.testing.assert_close(dbefore[0], wanted[2])


def check_model(group: ProcessGroup) -> None:
    """A language model of both directions: nats of a part, and gradients summed over parts."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_layer=2, d_state=4, objective="masked", bidirectional=True)
    model = LanguageModel(config).double()
    model.backend = "chunked"
    ids = torch.randint(0, 5, (2, 40))
    whole, _ = model.nats(ids, ids)
    wanted = torch.autograd.grad(whole.sum(), list(model.parameters()))
    model.group = group
    here = part_of(group, 40)
    for recompute in get_args(Recompute):
        model.recompute = recompute
        nats, _ = model.nats(ids[:, here], ids[:, here])
        torch.testing.assert_close(nats, whole[:, here])
        for mine, full in zip(
            torch.autograd.grad(nats.sum(), list(model.parameters())), wanted, strict=True
        ):
            torch.testing.assert_close(summed(mine, group), full)


def check_fused(group: ProcessGroup) -> None:
    """The same of fused blocks, of one direction and of two."""
    kinds: tuple[tuple[type[Mamba | BiMamba], Recompute], ...] = (
        (Mamba, "block"),
        (BiMamba, "scan"),
    )
    for kind, recompute in kinds:
        torch.manual_seed(0)
        block = Block(kind(4, 2, 4, 2, 1), RMSNorm(4, 1e-5))
        for way in directions(block.mixer):
            way.backend = "triton"
        x, dy = torch.randn(2, 1, 19, 4).unbind()
        whole = x.clone().requires_grad_()
        y, _, _ = block(whole)
        wanted = torch.autograd.grad(y, [whole, *block.parameters()], dy)
        for way in directions(block.mixer):
            way.group = group
        here = part_of(group, 19)
        block.recompute = recompute
        mine = x[:, here].clone().requires_grad_()
        part, _, _ = block(mine)
        dx, *found = torch.autograd.grad(part, [mine, *block.parameters()], dy[:, here])
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(part, y[:, here], **tolerance)
        torch.testing.assert_close(dx, wanted[0][:, here], **tolerance)
        for share, full in zip(found, wanted[1:], strict=True):
            torch.testing.assert_close(summed(share, group), full, **tolerance)


def check_all(rank: int, processes: int, meeting: str) -> None:
    """Run every check in groups of all processes and of two."""
    groups = join(rank, processes, meeting)
    triton_scan.CHUNK, triton_scan.SPAN = 2, 4
    for group in groups:
        check_scan(group, "chunked", torch.float64, 1e-12, {"length": 101})
        check_scan(group, "numba", torch.float32, 1e-5, {"length": 101})
        small = {"length": 13, "batch": 1, "channels": 2, "state": 2}
        check_scan(group, "triton", torch.float32, 1e-5, small)
        check_convolution(group)
        check_model(group)
    check_fused(groups[0])
    dist.destroy_process_group()
