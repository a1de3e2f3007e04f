"""How large a run is where nobody said: what this machine can do in ten minutes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dnamamba.errors import DnamambaError
from dnamamba.evaluation.language import Objective
from dnamamba.models.block import Recompute
from dnamamba.models.classifier import Classifier
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast
from dnamamba.models.predictor import Predictor
from dnamamba.processes import ALONE, Processes
from dnamamba.training.loop import accumulate_gradients

SECONDS: Final = 480.0
"""Of ten minutes, what is left for steps beside baselines, validations and the end."""
VALIDATIONS: Final = 10
"""How often a run is validated, at most."""
VALIDATION_SHARE: Final = 0.2
"""How much validations may add to the time of the steps; a base costs a third of one trained on."""
PASSES: Final = 50
"""How often a run that was given no size reads its training bases, at most."""


@dataclass(frozen=True)
class Sizes:
    """Defaults that depend on the device alone.

    Attributes
    ----------
    preset, length
        The model, and the bases of a window.
    step_bases, pass_bases
        Bases a step, and bases a forward and backward pass.
    held_out_bases
        The most held-out bases that are scored.
    """

    preset: str
    length: int
    step_bases: int
    pass_bases: int
    held_out_bases: int


_CPU: Final = Sizes("250k", 1024, 1 << 12, 1 << 14, 1 << 20)
_CUDA: Final = Sizes("1.4m", 8192, 1 << 17, 1 << 19, 1 << 24)


def sizes_for(device: torch.device) -> Sizes:
    """Return the defaults of a device."""
    return _CUDA if device.type == "cuda" else _CPU


def default_length(sizes: Sizes, contigs: Iterable[int]) -> int:
    """Return the default length, halved until the longest contig holds eight windows."""
    longest = max(contigs, default=0)
    length = sizes.length
    while length > 16 and 8 * length > longest:
        length //= 2
    return length


def micro_batch(device: torch.device, length: int) -> int:
    """Return the windows of a pass to begin with, before memory is tried."""
    return max(1, sizes_for(device).pass_bases // length)


def fit_memory(
    model: LanguageModel | Classifier | Predictor,
    objective: Objective,
    codes: Tensor,
    autocast: Autocast,
    *,
    recompute: Sequence[Recompute],
    tbptt: int | None = None,
    whole: bool = False,
    processes: Processes = ALONE,
) -> tuple[int, Recompute]:
    """Find how many of the windows `codes` one pass can hold, and with how much made again.

    Fewer windows a pass cost nothing where windows are long, and so are tried first: all, a half, a
    quarter ... of them, and only for a single one the more thrifty ways.

    Parameters
    ----------
    model
        Is left with the `recompute` that was found.
    codes
        (windows, length) uint8 on the model's device.
    recompute
        Ways to try, in this order.
    tbptt
        As in `LoopConfig`.
    whole
        Whether a pass has to hold all windows.
    processes
        Each tries by itself, and what one cannot hold, none does.

    Raises
    ------
    DnamambaError
        Where the memory cannot hold it.
    """
    windows = len(codes)
    halved = [windows >> power for power in range(windows.bit_length())]
    sizes = [windows] if whole else halved
    trials = [(size, recompute[0]) for size in sizes]
    trials += [(sizes[-1], way) for way in recompute[1:]]
    for size, way in trials:
        model.recompute = way
        fits = _fits(model, objective, codes[:size], tbptt, autocast)
        (failed,) = processes.largest(not fits)
        if not failed:
            return size, way
    smaller = "--micro-batch, --length" if sizes[-1] > 1 else "--length"
    ways = "" if recompute[-1] == "block" else ", or --recompute block"
    carries = isinstance(model, LanguageModel) and model.config.carries_state
    ways += ", or --tbptt" if carries and not tbptt else ""
    raise DnamambaError(
        f"{sizes[-1]} x {codes.shape[1]:,} bases do not fit into the memory of {codes.device}: "
        f"choose a smaller {smaller} or --preset{ways}"
    )


def _fits(
    model: LanguageModel | Classifier | Predictor,
    objective: Objective,
    codes: Tensor,
    tbptt: int | None,
    autocast: Autocast,
) -> bool:
    """Try a forward and backward pass."""
    try:
        accumulate_gradients(
            model, objective, codes, 0, micro_batch=len(codes), tbptt=tbptt, autocast=autocast
        )
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True


def affordable_steps(seconds: float, step_bases: int, train_bases: int) -> int:
    """Return how many steps fit into ten minutes and `PASSES` passes, to two digits.

    Parameters
    ----------
    seconds
        What a step takes.
    step_bases
        Bases a step.
    train_bases
        Bases there are.
    """
    steps = min(SECONDS / seconds, PASSES * train_bases / step_bases)
    unit = 10.0 ** max(0, math.floor(math.log10(max(steps, 1.0))) - 1)
    return max(1, int(math.floor(steps / unit) * unit))


def steps_between_validations(steps: int, step_bases: int, held_out_bases: int) -> int:
    """Return how often to validate: `VALIDATIONS` times, or as often as `VALIDATION_SHARE` allows.

    Parameters
    ----------
    steps, step_bases
        Steps of the run, and bases each.
    held_out_bases
        Bases that one validation scores.
    """
    affordable = int(VALIDATION_SHARE * 3 * steps * step_bases / held_out_bases)
    return math.ceil(steps / max(1, min(VALIDATIONS, affordable)))
