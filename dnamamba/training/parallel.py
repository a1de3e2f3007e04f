"""One model trained by several processes: DDP or FSDP, and whole tensors for checkpoints.

Both average gradients over the processes of the mesh, "data" and "sequence" alike, because the
gradient of a part of a sequence is a share of the whole's as that of a window is. The loss is
scaled by the number of processes, so that the result is the sum.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnamamba.models.backbone import State
from dnamamba.models.classifier import Classifier
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast
from dnamamba.models.predictor import Predictor
from dnamamba.processes import Processes

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

Way = Literal["ddp", "fsdp"]
"""Whether each process holds all of the model (DDP), or a share of it (FSDP2)."""
WAYS: Final[tuple[Way, ...]] = ("ddp", "fsdp")


class _Nats(nn.Module):
    """A model's `nats` as a forward, which DDP hooks into, and its weights; no buffer changes."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())
        self.nats = model.nats
        self.set_mode = model.train

    def forward(
        self, ids: Tensor, targets: Tensor, state: State | None, return_state: bool
    ) -> tuple[Tensor, State | None]:
        return self.nats(ids, targets, state, return_state=return_state)

    def train(self, mode: bool = True) -> Self:
        self.set_mode(mode)
        return super().train(mode)


class Replica(DistributedDataParallel):
    """A language model, the same on every process; trained as the model itself is, by `nats`."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(_Nats(model), gradient_as_bucket_view=True)

    def nats(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Score targets; as `LanguageModel.nats`."""
        scored: tuple[Tensor, State | None] = self(ids, targets, state, return_state)
        return scored


Trained = LanguageModel | Classifier | Predictor | Replica
"""What a training step runs and differentiates."""


def distribute(
    model: LanguageModel, processes: Processes, way: Way, autocast: Autocast = nullcontext
) -> Trained:
    """Make a model one that all processes train; alone, it is what it was.

    Parameters
    ----------
    model
        The same on every process. Its parameters are sharded in place for "fsdp", which is to be
        done before an optimiser is made for them.
    processes
        Who trains it; those that hold parts of the same windows become its `group`.
    way
        Whether the parameters stay whole.
    autocast
        The context of a forward pass.
    """
    if processes.size == 1:
        return model
    model.group = processes.group
    if way == "ddp":
        replica = Replica(model)
        _settle(replica, autocast)
        return replica
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # A block's residual may be its own input, to which nothing is ever added in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    everyone = dist.group.WORLD
    assert everyone is not None
    mesh = DeviceMesh.from_group(everyone, next(model.parameters()).device.type)
    for block in model.backbone.layers:
        fully_shard(block, mesh=mesh)
    # The root, too, lets go of what it gathered, so that its parameters are sharded between passes.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "nats")
    return model


def _settle(replica: Replica, autocast: Autocast) -> None:
    """Let DDP choose its buckets, which it does once it has seen a backward pass.

    Which values are summed in which order depends on them: a run that is resumed would otherwise
    begin with others than it ended with.
    """
    ids = torch.zeros(1, 16, dtype=torch.int64, device=next(replica.parameters()).device)
    with autocast():
        nats, _ = replica.nats(ids, ids)
    torch.autograd.backward(nats.sum())
    replica.zero_grad(set_to_none=True)


def exchanging(model: Trained, last: bool) -> AbstractContextManager[None]:
    """Return the context of a pass, forward and backward: gradients are exchanged in the last."""
    if isinstance(model, Replica):
        return nullcontext() if last else model.no_sync()
    if is_sharded(model):
        cast("FSDPModule", model).set_requires_gradient_sync(last)
    return nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Tell whether `distribute` sharded a model; asked without an import of FSDP."""
    return hasattr(model, "set_requires_gradient_sync")


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that is sharded; every process has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    result: Tensor = gather() if gather else tensor
    return result


def sharded_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Keep this process's share of a whole tensor, if that is what it has of a parameter."""
    if not hasattr(parameter, "full_tensor") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def gathered(model: LanguageModel) -> LanguageModel:
    """Return a model with whole weights: itself, or a copy on the CPU of one that is sharded."""
    if not is_sharded(model):
        return model
    weights: dict[str, Any] = {
        name: whole(tensor.detach()).cpu() for name, tensor in model.state_dict().items()
    }
    with torch.random.fork_rng(devices=[]):
        copy = LanguageModel(model.config)
    copy.load_state_dict(weights)
    return copy
