"""The learning rate: linear warm-up, then a cosine, a function of the step and nothing else."""

import math


def learning_rate(
    step: int, steps: int, peak: float, *, warmup: float = 0.1, floor: float = 0.0
) -> float:
    """Return the learning rate of one step.

    Parameters
    ----------
    step
        Which step, from 0.
    steps
        How many steps the run has.
    peak
        The rate at the end of the warm-up.
    warmup
        Share of the steps over which the rate grows linearly to `peak`.
    floor
        Share of `peak` that the cosine comes down to at the end.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * ((step + 1) / rising)
    done = (step - rising) / max(1, steps - rising)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done)))
