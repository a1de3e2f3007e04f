"""What `test_split` runs in each of several processes: a part, held against the whole."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from dnamamba.kernels import causal_conv1d
from dnamamba.kernels.scan import triton_scan
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from tests.kernels.scan.cases import LONG, assert_close, draw, leaves_of, lengthwise, scan, weighted

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
    group: ProcessGroup, backend: str, dtype: torch.dtype, bound: float, sizes: dict[str, int]
) -> None:
    for reverse in (False, True):
        drawn = {name: t.to(dtype) for name, t in draw(**sizes).items()}  # type: ignore[arg-type]
        first = group.rank() == (group.size() - 1 if reverse else 0)
        last = group.rank() == (0 if reverse else group.size() - 1)
        whole = leaves_of(drawn)
        y, state = scan(whole, backend=backend, reverse=reverse)
        weighted(y, state).backward()  # type: ignore[no-untyped-call]

        here = part_of(group, sizes["length"])
        mine = {**lengthwise(drawn, here), "initial_state": drawn["initial_state"]}
        if not first:
            del mine["initial_state"]
        leaves = leaves_of(mine)
        part, after = scan(leaves, backend=backend, reverse=reverse, group=group)
        # The weights that `weighted` gives the whole.
        generator = torch.Generator().manual_seed(99)
        weights = [
            torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (y, state)
        ]
        loss = (part * weights[0][:, here]).sum()
        if last:
            loss = loss + (after * weights[1]).sum()
        loss.backward()  # type: ignore[no-untyped-call]

        wanted = {"y": y.detach()[:, here]}
        got = {"y": part.detach()}
        if last:
            wanted["last"], got["last"] = state.detach(), after.detach()
        for name, tensor in leaves.items():
            assert tensor.grad is not None
            full = whole[name].grad
            assert full is not None
            long = name in LENGTHWISE
            wanted[f"d{name}"] = full[:, here] if long else full
            whole_here = long or name == "initial_state"
            got[f"d{name}"] = tensor.grad if whole_here else summed(tensor.grad, group)
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
        y.backward(dy)  # type: ignore[no-untyped-call]

        here = part_of(group, 23)
        first = group.rank() == (group.size() - 1 if reverse else 0)
        mine = [t.clone().requires_grad_() for t in (x[:, here], weight, before)]
        part = causal_conv1d(
            *mine[:2], initial_state=mine[2] if first else None, group=group, **options
        )
        part.backward(dy[:, here])  # type: ignore[no-untyped-call]
        torch.testing.assert_close(part, y[:, here])
        torch.testing.assert_close(mine[0].grad, whole[0].grad[:, here])  # type: ignore[index]
        torch.testing.assert_close(summed(mine[1].grad, group), whole[1].grad)  # type: ignore[arg-type]
        if first:
            torch.testing.assert_close(mine[2].grad, whole[2].grad)


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
    for recompute in ("none", "scan", "block"):
        model.recompute = recompute  # type: ignore[assignment]
        nats, _ = model.nats(ids[:, here], ids[:, here])
        torch.testing.assert_close(nats, whole[:, here])
        for mine, full in zip(
            torch.autograd.grad(nats.sum(), list(model.parameters())), wanted, strict=True
        ):
            torch.testing.assert_close(summed(mine, group), full)


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
    dist.destroy_process_group()
