"""A run's checkpoints, and the way back to one of them where the run has diverged.

What a rollback leaves out stands in the checkpoints themselves: whoever resumes from one leaves out
the same, and goes on as if never stopped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.amp import GradScaler

from dnamamba.models.precision import UNSCALED
from dnamamba.processes import ALONE, Processes
from dnamamba.training.checkpoint import list_states, restore_state, state_step, write_state

ROLLBACKS: Final = 3
"""How often a run may go back; one that diverges more often needs other settings."""


class Checkpoints:
    """The training states of one run.

    Parameters
    ----------
    run
        The run folder.
    model, optimizer
        What is saved and restored.
    settings
        Plain values that a resume has to agree with.
    processes
        Who trains the model: the first reads and writes, and all have to call what is here.
    scaler
        What scales the loss: its scale is saved and restored, too.
    """

    def __init__(
        self,
        run: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Mapping[str, Any],
        processes: Processes = ALONE,
        scaler: GradScaler = UNSCALED,
    ) -> None:
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._settings = settings
        self._processes = processes
        self._scaler = scaler
        self.skipped: list[range] = []
        """The steps that each rollback left out, counted from 0."""

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        skipped = [[steps.start, steps.stop] for steps in self.skipped]
        settings = {**self._settings, "skipped": skipped}
        if self._scaler.is_enabled():
            settings["scaler"] = self._scaler.state_dict()
        write_state(self._run, step, self._model, self._optimizer, settings, self._processes)

    def restore(self) -> int:
        """Load the newest whole state, and return its step; 0 where there is none."""
        step, saved = restore_state(
            self._run, self._model, self._optimizer, self._settings, self._processes
        )
        self.skipped = [range(start, stop) for start, stop in saved.get("skipped", [])]
        if "scaler" in saved:
            self._scaler.load_state_dict(saved["scaler"])
        return step

    def roll_back(self, steps: range) -> int | None:
        """Go back to the newest state that no update of `steps` is in, and leave `steps` out.

        Returns
        -------
        The step of that state; None, and nothing is changed, where there is no such state or
        `ROLLBACKS` are used up.
        """
        if not self._processes.on_first(lambda: self._forget(steps.start)):
            return None
        step = self.restore()
        self.skipped.append(steps)
        self.save(step)
        return step

    def _forget(self, step: int) -> bool:
        """Remove the states after `step` steps, if there are others and rollbacks are left."""
        states = list_states(self._run)
        newer = [path for path in states if state_step(path) > step]
        if len(self.skipped) == ROLLBACKS or len(newer) == len(states):
            return False
        for path in newer:
            path.unlink()
        return True
