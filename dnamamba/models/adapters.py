"""Adapters: small changes of a model that are trained while all else stands, and saved alone.

LoRA (arXiv 2106.09685) adds a product of two thin matrices to each projection of a mixer; DoRA
(arXiv 2402.09353) makes the length of each row a parameter of its own, too. peft makes them. The
projection of delta has a few inputs alone, and is left as it is; with `state_space` it is trained
whole, with what else sets the time scales of the recurrence. A model holds several adapters, one of
which is in use, and is its old self without.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models import beside
from dnamamba.models.heads import LanguageModel
from dnamamba.models.quantised import QuantisedLinear, hushed

Method = Literal["lora", "dora"]
CONFIG: Final = "adapter.json"
WEIGHTS: Final = "adapter.safetensors"
_STATE_SPACE: Final = re.compile(
    r".+\.mixer\.(.+\.)?(A_log|D|dt_bias|dt_proj\.weight|dt_proj\.bias)"
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter changes.

    Attributes
    ----------
    method
        Of the projections.
    rank
        Of the product; the inner size of the two matrices.
    alpha
        The product is multiplied by alpha / rank.
    dropout
        The share of a product's inputs that training drops.
    state_space
        Whether A, D and delta's projection are trained, too.

    Raises
    ------
    UsageError
        For a rank, an alpha or a dropout out of range.
    """

    method: Method = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    state_space: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank: {self.rank}; it is 1 or more")
        if self.alpha <= 0:
            raise UsageError(f"alpha: {self.alpha}; it is above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout: {self.dropout:g}; it is from 0 to below 1")


def require_peft() -> None:
    """Say early that adapters want peft.

    Raises
    ------
    UsageError
        Where it is missing.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UsageError("adapters: peft is missing; pip install 'dnamamba[finetune]'") from error


class Adapters:
    """The adapters of a model, which is changed in place.

    Parameters
    ----------
    model
        Without adapters. From here on none of its parameters is trained but those of the adapter
        in use.

    Raises
    ------
    UsageError
        Where peft is missing, or the model has no projection to adapt.
    """

    def __init__(self, model: LanguageModel) -> None:
        require_peft()
        self.model = model
        self.configs: dict[str, AdapterConfig] = {}
        self.in_use: str | None = None
        self._targets = [
            name
            for name, module in model.backbone.layers.named_modules(prefix="backbone.layers")
            if type(module) in (nn.Linear, QuantisedLinear) and ".mixer." in name
        ]
        if not self._targets:
            raise UsageError("the model has no projection that an adapter could change")
        model.requires_grad_(False)
        self._space = {
            name: parameter
            for name, parameter in model.named_parameters()
            if _STATE_SPACE.fullmatch(name)
        }
        self._spaces: dict[str | None, dict[str, Tensor]] = {None: self._copied_space()}

    def add(self, name: str, config: AdapterConfig) -> None:
        """Add an adapter that changes nothing yet, and use it.

        Raises
        ------
        UsageError
            For a name that is taken, or has other characters than letters, digits, _ and -.
        """
        from peft import LoraConfig, inject_adapter_in_model

        if name in self.configs:
            raise UsageError(f"adapter {name!r}: the model has one of this name")
        if not _NAME.fullmatch(name):
            raise UsageError(f"adapter {name!r}: a name has letters, digits, _ and - alone")
        self.use(None)
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_dora=config.method == "dora",
            target_modules=self._targets,
        )
        with warnings.catch_warnings(), hushed():
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            inject_adapter_in_model(lora, self.model, adapter_name=_inside(name))
        self.configs[name] = config
        self._spaces[name] = self._copied_space()
        self.use(name)

    def use(self, name: str | None) -> None:
        """Put one adapter to use, which then is what is trained; None uses none.

        Raises
        ------
        UsageError
            For a name that no adapter has.
        """
        if name is not None and name not in self.configs:
            known = ", ".join(self.configs) or "none"
            raise UsageError(f"adapter {name!r}: the model has {known}")
        if self.in_use is not None and self.configs[self.in_use].state_space:
            self._spaces[self.in_use] = self._copied_space()
        for layer in self._layers():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(_inside(name))
        trains_space = name is not None and self.configs[name].state_space
        with torch.no_grad():
            for path, parameter in self._space.items():
                parameter.copy_(self._spaces[name if trains_space else None][path])
                parameter.requires_grad_(trains_space)
        self.in_use = name

    def merge(self) -> LanguageModel:
        """Fold the adapter in use into the weights, and forget all adapters.

        Returns
        -------
        The model, with the same outputs, and plain projections that nothing trains; those that were
        kept in 8 bits are plain, too.
        """
        for path, layer in list(self._named_layers()):
            if isinstance(layer.base_layer, QuantisedLinear):
                layer.base_layer = layer.base_layer.plain()
            if self.in_use is not None:
                layer.merge(adapter_names=[_inside(self.in_use)])
            parent, _, child = path.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        if "peft_config" in vars(self.model):
            del self.model.peft_config
        self.model.requires_grad_(False)
        self.configs, self.in_use = {}, None
        self._spaces = {None: self._copied_space()}
        return self.model

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the adapter in use trains."""
        return (each for each in self.model.parameters() if each.requires_grad)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return an adapter's own tensors by the names of what they change."""
        mark = f".{_inside(name)}."
        found = {}
        for path, layer in self._named_layers():
            for key, tensor in layer.state_dict().items():
                if mark in key:
                    found[f"{path}.{key.replace(mark, '.', 1)}"] = tensor
        if self.configs[name].state_space:
            current = self._copied_space() if self.in_use == name else self._spaces[name]
            found |= current
        return found

    def save(self, name: str, folder: Path) -> None:
        """Write an adapter alone into a folder that is there."""
        beside.write_config(folder / CONFIG, self.configs[name])
        beside.write_tensors(folder / WEIGHTS, self.tensors(name))

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter that `save` wrote under a name, and use it.

        Raises
        ------
        CheckpointError
            If it cannot be read, or is of a model of other shapes.
        UsageError
            As `add`.
        """
        config = beside.read_config(folder / CONFIG, AdapterConfig)
        tensors = beside.read_tensors(folder / WEIGHTS, "this model")
        before = self.in_use
        self.add(name, config)
        wanted = self.tensors(name)
        shapes = {key: tensor.shape for key, tensor in wanted.items()}
        if shapes != {key: tensor.shape for key, tensor in tensors.items()}:
            self._drop(name, before)
            raise CheckpointError(
                f"{folder}: an adapter of a model of other shapes; it goes with the one that it "
                "was fitted on"
            )
        with torch.no_grad():
            for key, tensor in wanted.items():
                target = self._space.get(key, tensor)
                target.copy_(tensors[key])

    def _drop(self, name: str, before: str | None) -> None:
        self.use(before)
        for layer in self._layers():
            layer.delete_adapter(_inside(name))
        del self.configs[name], self._spaces[name]

    def _copied_space(self) -> dict[str, Tensor]:
        return {name: each.detach().clone() for name, each in self._space.items()}

    def _layers(self) -> Iterator[Any]:
        return (layer for _, layer in self._named_layers())

    def _named_layers(self) -> Iterator[tuple[str, Any]]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name in self._targets:
            module = self.model.get_submodule(name)
            if isinstance(module, BaseTunerLayer):
                yield name, module


def _inside(name: str) -> str:
    """Return what peft calls an adapter: a name that no attribute of a module has."""
    return f"adapter_{name}"
