import numpy as np
import pytest

from dnamamba.data.shuffled import Shuffled

SIZE = 1003


@pytest.mark.parametrize("batch", [1, 7, 100, 2000])
def test_an_epoch_reads_every_row_once(batch: int) -> None:
    shuffled = Shuffled(SIZE, batch, seed=0)
    steps = shuffled.steps_per_epoch
    assert steps == -(-SIZE // batch)
    epochs = [
        np.concatenate([shuffled.rows(step) for step in range(epoch * steps, (epoch + 1) * steps)])
        for epoch in range(3)
    ]
    for rows in epochs:
        assert sorted(rows) == list(range(SIZE))
    assert len({tuple(rows) for rows in epochs}) == 3
    sizes = [len(shuffled.rows(step)) for step in range(steps)]
    assert sizes[:-1] == [min(batch, SIZE)] * (steps - 1)


def test_a_step_is_a_function_of_the_seed_and_itself() -> None:
    """Whatever was asked before: a resume reads what it would have read."""
    one, other = Shuffled(SIZE, 16, seed=3), Shuffled(SIZE, 16, seed=3)
    found = [one.rows(step) for step in range(200)]
    for step in (199, 5, 64, 63):
        np.testing.assert_array_equal(other.rows(step), found[step])
    assert not np.array_equal(Shuffled(SIZE, 16, seed=4).rows(0), found[0])


def test_steps_are_drawn_alike() -> None:
    """Each step of many epochs has about the same share of any half of the rows."""
    shuffled = Shuffled(1000, 100, seed=0)
    shares = [(shuffled.rows(step) < 500).mean() for step in range(2000)]
    assert abs(np.mean(shares) - 0.5) < 1e-9
    # Of a hundred drawn from a thousand without replacement: sqrt(0.25 / 100 * 900 / 999).
    assert np.std(shares) == pytest.approx(0.0475, rel=0.1)
