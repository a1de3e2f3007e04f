"""How a run that has diverged is told from one that is noisy."""

from typing import Final

from dnamamba.errors import DnamambaError

EXPLODED_BITS: Final = 8.0
"""A loss in bits per target that no run which learns has: four times what it costs to guess blindly
among four bases. An untrained model needs 3 to 5, and a step on odd windows hardly more."""
PATIENCE: Final = 10
"""Steps in a row at such a loss that are an explosion."""


class DivergedError(DnamambaError):
    """The loss or the gradient is not finite, or the loss has exploded.

    Attributes
    ----------
    steps
        The steps, counted from 0, whose windows are to be left out: the one that is not finite, or
        those of an explosion and the one before, whose update led there.
    """

    def __init__(self, message: str, steps: range) -> None:
        super().__init__(message)
        self.steps = steps


class Watch:
    """Watches the loss, step by step, for an explosion.

    The rule remembers nothing but a row of high losses that has not ended, and looks at steps, not
    at the clock: wherever a run that is `calm` is stopped and resumed, it decides the same.

    Parameters
    ----------
    exploded
        Bits above which a loss is one; infinite looks for none.
    """

    def __init__(self, exploded: float = EXPLODED_BITS) -> None:
        self._exploded = exploded
        self._high = 0

    @property
    def calm(self) -> bool:
        """Whether the last loss was a usual one, so that the weights are worth to be saved."""
        return not self._high

    def see(self, step: int, bits: float) -> None:
        """Look at the loss of one step.

        Parameters
        ----------
        step
            Steps done, this one included.
        bits
            Mean loss of its targets; NaN where none carried any weight.

        Raises
        ------
        DivergedError
            At the last of `PATIENCE` steps in a row above that.
        """
        self._high = self._high + 1 if bits > self._exploded else 0
        if self._high == PATIENCE:
            first = step - PATIENCE
            raise DivergedError(
                f"the loss is above {self._exploded:g} bits from step {first + 1} to step {step}",
                range(max(0, first - 1), step),
            )
