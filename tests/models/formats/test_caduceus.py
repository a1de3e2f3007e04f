"""Caduceus's layout against its paper's equations, computed block by block.

Nobody's Caduceus is on the registry, so the reference is derived here: blocks of transformers'
Mamba, read forwards and backwards, and for PS both strands' halves side by side as in section 4.2
of arXiv 2403.03234. Unverified against published weights.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from dnamamba.errors import CheckpointError
from dnamamba.models.pretrained import load
from tests.models.formats.folders import (
    CHARACTERS,
    PLANTS,
    stir,
    write_config,
    write_tokenizer,
    write_weights,
)

WIDTH, EPS = 12, 1e-5
COMPLEMENT = {7: 10, 8: 9, 9: 8, 10: 7}


def flipped(x: Tensor) -> Tensor:
    """Reverse positions and channels: what the reverse complement is to a hidden state."""
    return x.flip(-2, -1)


class Reference:
    """A Caduceus of random weights, its published names, and its equations."""

    def __init__(self, blocks: int, *, shared: bool, swaps: bool, seed: int = 0) -> None:
        sizes = MambaConfig(hidden_size=WIDTH, state_size=4, use_cache=False)
        generator = torch.Generator().manual_seed(seed)
        self.shared, self.swaps = shared, swaps
        self.embedding = torch.randn(16, WIDTH, generator=generator)
        self.norms = [1 + 0.3 * torch.randn(WIDTH, generator=generator) for _ in range(blocks + 1)]
        self.ways = [tuple(MambaMixer(sizes, 0) for _ in range(2)) for _ in range(blocks)]
        for number, (ahead, back) in enumerate(self.ways):
            stir(ahead, 2 * number)
            stir(back, 2 * number + 1)
            back.in_proj.weight = ahead.in_proj.weight
            back.out_proj.weight = ahead.out_proj.weight

    def about(self, **changes: Any) -> dict[str, Any]:
        complement = {str(i): COMPLEMENT.get(i, i) for i in range(16)}
        return {
            "model_type": "caduceus", "d_model": WIDTH, "n_layer": len(self.ways),
            "vocab_size": 12, "pad_vocab_size_multiple": 8, "rms_norm": True,
            "fused_add_norm": self.swaps, "rcps": self.shared, "bidirectional": True,
            "bidirectional_strategy": "add", "bidirectional_weight_tie": True,
            "norm_epsilon": EPS, "complement_map": complement,
            "ssm_cfg": {"d_state": 4, "d_conv": 4, "expand": 2, "dt_rank": "auto", "bias": False},
            **changes,
        }  # fmt: skip

    def weights(self, *, twice: bool = True) -> dict[str, Tensor]:
        """Name the weights as published; tied projections under both names, or the back one's."""
        mixer = "mixer.submodule" if self.shared else "mixer"
        norm = "norm.submodule" if self.shared and not self.swaps else "norm"
        final = "norm_f.submodule" if self.shared and not self.swaps else "norm_f"
        embedding = "word_embeddings.embedding" if self.shared else "word_embeddings"
        head = "lm_head.lm_head" if self.shared else "lm_head"
        found = {
            f"caduceus.backbone.embeddings.{embedding}.weight": self.embedding,
            f"caduceus.backbone.{final}.weight": self.norms[-1],
            f"{head}.weight": self.embedding,
        }
        if self.shared:
            complement = torch.tensor([COMPLEMENT.get(i, i) for i in range(16)])
            found["caduceus.backbone.embeddings.word_embeddings.complement_map"] = complement
            found["lm_head.complement_map"] = complement
        for number, ways in enumerate(self.ways):
            layer = f"caduceus.backbone.layers.{number}"
            found[f"{layer}.{norm}.weight"] = self.norms[number]
            for way, module in zip(("fwd", "rev"), ways, strict=True):
                for name, weight in module.state_dict().items():
                    tied = name.startswith(("in_proj", "out_proj"))
                    if twice or not tied or way == "rev":
                        found[f"{layer}.{mixer}.mamba_{way}.{name}"] = weight
        return found

    def norm(self, number: int, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * self.norms[number]

    def mix(self, number: int, x: Tensor) -> Tensor:
        ahead, back = self.ways[number]
        mixed: Tensor = ahead(x) + back(x.flip(1)).flip(1)
        return mixed

    def layers(self, ids: Tensor) -> list[Tensor]:
        """Return the residual stream before each block and in the end; PS: both halves of it."""
        x = self.embedding[ids]
        if not self.shared:
            stream = [x]
            for number in range(len(self.ways)):
                stream.append(stream[-1] + self.mix(number, self.norm(number, stream[-1])))
            return stream
        other = flipped(self.embedding[complemented(ids)])
        halves = [(x, other)]
        for number in range(len(self.ways)):
            here, there = halves[-1]
            if self.swaps:
                here, there = there, here
            here = here + self.mix(number, self.norm(number, here))
            turned = flipped(there)
            there = flipped(turned + self.mix(number, self.norm(number, turned)))
            halves.append((here, there))
        return [torch.cat(pair, -1) for pair in halves]

    def logits(self, ids: Tensor) -> Tensor:
        last = self.layers(ids)[-1]
        if not self.shared:
            return self.norm(-1, last) @ self.embedding.T
        here, there = last.chunk(2, -1)
        rows = self.embedding[torch.tensor([COMPLEMENT.get(i, i) for i in range(16)])]
        there = flipped(self.norm(-1, flipped(there)))
        return self.norm(-1, here) @ self.embedding.T + there.flip(-1) @ rows.T


def complemented(ids: Tensor) -> Tensor:
    """Read ids on the other strand."""
    table = torch.tensor([COMPLEMENT.get(i, i) for i in range(16)])
    return table[ids.flip(1)]


def published(folder: Path, reference: Reference, **changes: Any) -> Path:
    write_config(folder, reference.about(**changes))
    write_weights(folder, reference.weights())
    return folder


def draw(length: int) -> Tensor:
    return torch.randint(7, 12, (2, length), generator=torch.Generator().manual_seed(3))


KINDS = {
    "ph": {"shared": False, "swaps": True},
    "ps": {"shared": True, "swaps": False},
    "ps-fused": {"shared": True, "swaps": True},
}


@pytest.mark.parametrize(("kind", "blocks"), list(itertools.product(KINDS, (1, 2, 3, 4))))
@torch.no_grad()
def test_logits(kind: str, blocks: int, tmp_path: Path) -> None:
    reference = Reference(blocks, **KINDS[kind])
    model = load(published(tmp_path / "model", reference))
    for length in (1, 2, 37):
        ids = draw(length)
        torch.testing.assert_close(model(ids), reference.logits(ids), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_layers_of_ph(tmp_path: Path) -> None:
    reference = Reference(3, **KINDS["ph"])
    model = load(published(tmp_path / "model", reference))
    ids = draw(21)
    found, _ = model.backbone.outputs(ids, [0, 1, 2])
    for ours, theirs in zip(found, reference.layers(ids), strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_of_fused_ps(tmp_path: Path) -> None:
    """Those of each second block, from the last, are the same; between, strands change places."""
    reference = Reference(4, **KINDS["ps-fused"])
    model = load(published(tmp_path / "model", reference))
    ids = draw(21)
    expected = reference.layers(ids)
    found, _ = model.backbone.outputs(ids, [0, 1, 2, 3])
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
        here, there = theirs.chunk(2, -1)
        torch.testing.assert_close(ours, there if number % 2 else here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ps", "ps-fused"])
@torch.no_grad()
def test_ps_is_equivariant(kind: str, tmp_path: Path) -> None:
    reference = Reference(3, **KINDS[kind])
    model = load(published(tmp_path / "model", reference))
    table = torch.tensor([COMPLEMENT.get(i, i) for i in range(16)])
    ids = draw(37)
    for logits in (reference.logits, model):
        there = logits(complemented(ids)).flip(1)[..., table]
        torch.testing.assert_close(there, logits(ids), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_a_tied_projection_may_stand_once_and_the_prefix_be_missing(tmp_path: Path) -> None:
    reference = Reference(2, **KINDS["ph"])
    folder = published(tmp_path / "model", reference)
    named = reference.weights(twice=False)
    named = {name.removeprefix("caduceus."): weight for name, weight in named.items()}
    del named["lm_head.weight"]
    write_weights(folder, named)
    ids = draw(9)
    torch.testing.assert_close(load(folder)(ids), reference.logits(ids), rtol=1e-5, atol=1e-4)


def test_config(tmp_path: Path) -> None:
    config = load(published(tmp_path / "ps", Reference(2, **KINDS["ps-fused"]))).config
    assert (config.ids, config.mask_id, config.vocab_size) == ((7, 8, 9, 10, 11), 3, 16)
    assert (config.objective, config.bidirectional, config.symmetry) == ("masked", True, "shared")
    config = load(published(tmp_path / "ph", Reference(2, **KINDS["ph"]))).config
    assert (config.bidirectional, config.symmetry) == (True, "none")


def test_ids_of_plants(tmp_path: Path) -> None:
    reference = Reference(2, **KINDS["ps-fused"])
    complement = {"0": 0, "1": 1, "2": 2, "3": 6, "4": 5, "5": 4, "6": 3, "7": 7}
    folder = published(tmp_path / "model", reference, vocab_size=16, complement_map=complement)
    write_tokenizer(folder, PLANTS)
    config = load(folder).config
    assert (config.ids, config.mask_id) == ((3, 4, 5, 6, 2), 1)


def test_ids_of_another_character_tokenizer(tmp_path: Path) -> None:
    """Letters follow [UNK], wherever it is."""
    reference = Reference(2, **KINDS["ph"])
    folder = published(tmp_path / "model", reference, vocab_size=15, complement_map=None)
    special = {"6": {"content": "[MASK]"}, "9": {"content": "[UNK]"}}
    write_config(tmp_path / "other", {"added_tokens_decoder": special})
    (tmp_path / "other" / "config.json").rename(folder / "tokenizer_config.json")
    config = load(folder).config
    assert (config.ids, config.mask_id) == ((10, 11, 12, 13, 14), 6)


def test_a_complement_that_contradicts_the_tokenizer(tmp_path: Path) -> None:
    folder = published(tmp_path / "model", Reference(2, **KINDS["ps"]))
    write_tokenizer(folder, {**CHARACTERS, "A": 8, "C": 7})
    with pytest.raises(
        CheckpointError, match=r"complement_map of config\.json makes 8 to 9, not 10"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bidirectional_strategy": "ew_multiply"}, "bidirectional_strategy is 'ew_multiply'"),
        ({"bidirectional_weight_tie": False}, "bidirectional_weight_tie is False"),
        ({"rms_norm": False}, "rms_norm is False"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg: layer is 'Mamba2'"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(published(tmp_path / "model", Reference(2, **KINDS["ph"]), **changes))


def break_tie(weights: dict[str, Tensor]) -> None:
    name = "caduceus.backbone.layers.0.mixer.mamba_rev.in_proj.weight"
    weights[name] = weights[name] + 1


def lose(weights: dict[str, Tensor]) -> None:
    del weights["caduceus.backbone.layers.1.mixer.mamba_rev.dt_proj.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (break_tie, r"mamba_rev\.in_proj\.weight differs from mamba_fwd's"),
        (lose, r"lacks backbone\.layers\.1\.mixer\.back\.dt_proj\.bias"),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    reference = Reference(2, **KINDS["ph"])
    folder = published(tmp_path / "model", reference)
    weights = reference.weights()
    change(weights)
    write_weights(folder, weights)
    with pytest.raises(CheckpointError, match=message):
        load(folder)
