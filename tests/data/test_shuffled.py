import numpy as np
import pytest

from dnamamba.data.shuffled import Shuffled

LENGTHS = np.random.default_rng(0).integers(2, 1000, 1003)


@pytest.mark.parametrize("batch", [1, 7, 100, 2000])
def test_an_epoch_reads_every_row_once(batch: int) -> None:
    shuffled = Shuffled(LENGTHS, batch, seed=0)
    steps = shuffled.steps_per_epoch
    assert steps == -(-1003 // batch)
    epochs = [
        np.concatenate([shuffled.rows(step) for step in range(epoch * steps, (epoch + 1) * steps)])
        for epoch in range(3)
    ]
    for rows in epochs:
        assert sorted(rows) == list(range(1003))
    assert len({tuple(rows) for rows in epochs}) == 3
    sizes = [len(shuffled.rows(step)) for step in range(steps)]
    assert sorted(sizes)[1:] == [min(batch, 1003)] * (steps - 1)


def test_a_step_is_a_function_of_the_seed_and_itself() -> None:
    """Whatever was asked before: a resume reads what it would have read."""
    one, other = Shuffled(LENGTHS, 16, seed=3), Shuffled(LENGTHS, 16, seed=3)
    found = [one.rows(step) for step in range(200)]
    for step in (199, 5, 64, 63):
        np.testing.assert_array_equal(other.rows(step), found[step])
    assert not np.array_equal(Shuffled(LENGTHS, 16, seed=4).rows(0), found[0])


def test_a_batch_holds_rows_of_like_length() -> None:
    shuffled = Shuffled(LENGTHS, 16, seed=0)
    batches = [LENGTHS[shuffled.rows(step)] for step in range(shuffled.steps_per_epoch)]
    padded = sum(len(lengths) * lengths.max() for lengths in batches)
    assert padded < 1.05 * LENGTHS.sum()
    means = [lengths.mean() for lengths in batches]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4, "steps do not grow in length"
