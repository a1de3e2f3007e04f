import numpy as np
import pytest
import torch

from dnamamba.alphabet import SOFT_MASK, N, encode
from dnamamba.training.objectives import (
    BaseOutcome,
    Label,
    MaskedBase,
    NextBase,
    random_bits,
    target_weights,
)

MASK = 5


def tokens(codes: torch.Tensor) -> torch.Tensor:
    return (codes & 7).long()


def codes_of(*rows: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([encode(row) for row in rows]))


def random_codes(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 4, (batch, length), generator=torch.Generator().manual_seed(0)).byte()


def test_next_base_asks_for_the_base_after_each_position() -> None:
    batch = NextBase(tokens)(codes_of("ACGT"), 0, 0)
    assert batch.inputs.tolist() == [[0, 1, 2, 3]]
    assert batch.targets[:, :-1].tolist() == [[1, 2, 3]]
    assert batch.weights.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_next_base_does_not_ask_for_n_and_weighs_soft_masked_targets() -> None:
    batch = NextBase(tokens, soft_mask_weight=0.25)(codes_of("AcNgT", "NNAAA"), 0, 0)
    assert batch.weights.tolist() == [[0.25, 0.0, 0.25, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0]]


def test_soft_masked_n_weighs_nothing() -> None:
    codes = torch.tensor([[N | SOFT_MASK, SOFT_MASK]], dtype=torch.uint8)
    assert target_weights(codes, 0.5).tolist() == [[0.0, 0.5]]


def test_masked_base_asks_for_15_percent_in_the_proportions_of_bert() -> None:
    codes = random_codes(64, 4096)
    batch = MaskedBase(tokens, MASK, seed=1)(codes, 7, 0)
    asked = batch.weights > 0
    hidden = batch.inputs == MASK
    changed = asked & ~hidden & (batch.inputs != batch.targets)
    assert asked.float().mean().item() == pytest.approx(0.15, abs=0.003)
    assert (hidden.sum() / asked.sum()).item() == pytest.approx(0.8, abs=0.01)
    # A tenth is replaced by one of four bases, so three quarters of that tenth change.
    assert (changed.sum() / asked.sum()).item() == pytest.approx(0.075, abs=0.006)
    assert torch.equal(batch.targets, tokens(codes))
    assert torch.equal(batch.inputs[~asked], batch.targets[~asked])
    assert not hidden[~asked].any()


def test_masks_depend_on_seed_step_and_index_and_on_nothing_else() -> None:
    codes = random_codes(1, 512).expand(6, -1)
    objective = MaskedBase(tokens, MASK, seed=3)
    whole = objective(codes, 5, 0)
    part = objective(codes[:2], 5, 4)
    assert torch.equal(whole.inputs[4:], part.inputs)
    assert len({tuple(row) for row in whole.inputs.tolist()}) == 6
    assert not torch.equal(whole.inputs, objective(codes, 6, 0).inputs)
    other_seed = MaskedBase(tokens, MASK, seed=4)(codes, 5, 0)
    assert not torch.equal(whole.inputs, other_seed.inputs)


def test_masked_base_never_asks_for_n() -> None:
    codes = torch.full((4, 2048), N, dtype=torch.uint8)
    batch = MaskedBase(tokens, MASK, seed=0)(codes, 0, 0)
    assert batch.weights.sum() == 0
    assert torch.equal(batch.inputs, tokens(codes))


def test_random_bits_are_even_in_every_bit() -> None:
    bits = random_bits(0, 0, 0, random_codes(16, 4096))
    for bit in range(64):
        assert ((bits >> bit) & 1).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert bits.unique().numel() == bits.numel()


def test_a_label_is_that_of_the_sample() -> None:
    """Of the step, and of its place in the step, whichever micro-batch or process has it."""
    batch = Label(tokens, lambda step, index: 10 * step + index)(codes_of("ACGT", "CCNG"), 3, 4)
    assert batch.inputs.tolist() == [[0, 1, 2, 3], [1, 1, 4, 2]]
    assert batch.targets.tolist() == [[34], [35]]
    assert batch.weights.tolist() == [[1.0], [1.0]]


def test_bases_of_a_labelled_window_are_substituted() -> None:
    """A share of them is drawn anew, by seed, step and index; N are left."""
    codes = random_codes(4, 20_000)
    codes[:, ::10] = 4
    asked = Label(tokens, lambda *_: 0, substituted=0.2, seed=7)
    found = asked(codes, 3, 0).inputs
    changed = found != codes
    assert not changed[:, ::10].any(), "N"
    assert changed[:, 1::10].float().mean() == pytest.approx(0.15, abs=0.01), (
        "a quarter is as it was"
    )
    assert torch.bincount(found[changed], minlength=8)[:4].min() > 2000
    assert (found[changed] < 4).all()
    torch.testing.assert_close(asked(codes[2:], 3, 2).inputs, found[2:])
    assert not torch.equal(asked(codes, 4, 0).inputs, found)
    other = Label(tokens, lambda *_: 0, substituted=0.2, seed=8)
    assert not torch.equal(other(codes, 3, 0).inputs, found)


def test_bases_are_asked_what_is_known_of_them() -> None:
    nan = np.nan
    rows = [
        (np.array([[1, 0], [nan, 2], [3, nan]], np.float32), np.full((3, 2), 0.5, np.float32)),
        (np.array([[4, 5]], np.float32), np.ones((1, 2), np.float32)),
    ]
    codes = torch.tensor([[0, 1, 2], [3, 255, 255]], dtype=torch.uint8)
    batch = BaseOutcome(tokens, lambda step: rows)(codes, 0, 0)
    assert batch.targets.tolist() == [[[1, 0], [0, 2], [3, 0]], [[4, 5], [0, 0], [0, 0]]]
    assert batch.weights.tolist() == [
        [[0.5, 0.5], [0, 0.5], [0.5, 0]],
        [[1, 1], [0, 0], [0, 0]],
    ]
    longer = BaseOutcome(tokens, lambda step: rows)(codes[1:].repeat(1, 2), 0, 1)
    assert longer.targets.shape == (1, 6, 2)
    assert longer.weights.sum() == 2
