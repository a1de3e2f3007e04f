"""HyenaDNA's layouts against the papers' equations, computed tap by tap in fp64.

Nobody's HyenaDNA is on the registry, so the reference is derived here from arXiv 2302.10866 and
2306.15794, layer by layer. Unverified against published weights.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models.heads import LanguageModel
from dnamamba.models.pretrained import load, save
from tests.models.formats.folders import write_config, write_weights

WIDTH, LAYERS, LONGEST, ORDER, FILTER, POSITIONS = 6, 2, 40, 2, 5, 5


class Reference:
    """A HyenaDNA of random weights, its published names, and its equations."""

    def __init__(self, order: int = ORDER, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return 0.4 * torch.randn(*shape, generator=generator)

        self.order = order
        self.embedding, self.head = draw(16, WIDTH), draw(16, WIDTH)
        self.final = (1 + draw(WIDTH), draw(WIDTH))
        self.layers = [
            {
                "norm1.weight": 1 + draw(WIDTH),
                "norm1.bias": draw(WIDTH),
                "norm2.weight": 1 + draw(WIDTH),
                "norm2.bias": draw(WIDTH),
                "mixer.in_proj.weight": draw((order + 1) * WIDTH, WIDTH),
                "mixer.in_proj.bias": draw((order + 1) * WIDTH),
                "mixer.out_proj.weight": draw(WIDTH, WIDTH),
                "mixer.out_proj.bias": draw(WIDTH),
                "mixer.short_filter.weight": draw((order + 1) * WIDTH, 1, 3),
                "mixer.short_filter.bias": draw((order + 1) * WIDTH),
                "mixer.filter_fn.bias": draw((order - 1) * WIDTH),
                "mixer.filter_fn.implicit_filter.0.weight": draw(FILTER, POSITIONS),
                "mixer.filter_fn.implicit_filter.0.bias": draw(FILTER),
                "mixer.filter_fn.implicit_filter.1.freq": 3 + draw(1, FILTER),
                "mixer.filter_fn.implicit_filter.2.weight": draw(FILTER, FILTER),
                "mixer.filter_fn.implicit_filter.2.bias": draw(FILTER),
                "mixer.filter_fn.implicit_filter.4.weight": draw((order - 1) * WIDTH, FILTER),
                "mixer.filter_fn.modulation.deltas": -4 * draw(1, 1, (order - 1) * WIDTH).abs(),
                "mlp.fc1.weight": draw(4 * WIDTH, WIDTH),
                "mlp.fc1.bias": draw(4 * WIDTH),
                "mlp.fc2.weight": draw(WIDTH, 4 * WIDTH),
                "mlp.fc2.bias": draw(WIDTH),
            }
            for _ in range(LAYERS)
        ]

    def weights(self) -> dict[str, Tensor]:
        """Name the weights as transformers' folders do, positions and repeated sines included."""
        found = {
            "hyena.backbone.embeddings.word_embeddings.weight": self.embedding,
            "hyena.backbone.ln_f.weight": self.final[0],
            "hyena.backbone.ln_f.bias": self.final[1],
            "lm_head.weight": self.head,
        }
        for number, layer in enumerate(self.layers):
            at = f"hyena.backbone.layers.{number}"
            found.update({f"{at}.{name}": weight for name, weight in layer.items()})
            network = f"{at}.mixer.filter_fn.implicit_filter"
            found[f"{network}.3.freq"] = layer["mixer.filter_fn.implicit_filter.1.freq"]
            features = torch.stack([position(t) for t in range(LONGEST)]).float()[None]
            found[f"{at}.mixer.filter_fn.pos_emb.z"] = features
            found[f"{at}.mixer.filter_fn.pos_emb.t"] = features[..., :1]
        return found

    def about(self, **changes: Any) -> dict[str, Any]:
        return {
            "model_type": "hyenadna", "d_model": WIDTH, "n_layer": LAYERS, "d_inner": 4 * WIDTH,
            "emb_dim": POSITIONS, "filter_order": FILTER, "hyena_order": self.order,
            "num_inner_mlps": 1, "short_filter_order": 3, "max_seq_len": LONGEST, "vocab_size": 12,
            "pad_vocab_size_multiple": 8, "layer_norm_epsilon": 1e-5, "use_bias": True,
            **changes,
        }  # fmt: skip

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embedding.double()[ids]
        for layer in self.layers:
            w = {name: weight.double() for name, weight in layer.items()}
            x = x + self.mix(w, norm(x, w["norm1.weight"], w["norm1.bias"]))
            y = norm(x, w["norm2.weight"], w["norm2.bias"])
            y = gelu(y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
            x = x + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
        final = norm(x, self.final[0].double(), self.final[1].double())
        return final @ self.head.double().T

    def mix(self, w: dict[str, Tensor], x: Tensor) -> Tensor:
        """Gate and convolve, one tap at a time."""
        parts = x @ w["mixer.in_proj.weight"].T + w["mixer.in_proj.bias"]
        short = w["mixer.short_filter.weight"][:, 0]
        parts = causal(parts, short.T.flip(0)) + w["mixer.short_filter.bias"]
        *gates, v = parts.split(WIDTH, -1)
        taps = torch.stack([self.tap(w, t) for t in range(x.shape[1])])
        biases = w["mixer.filter_fn.bias"]
        for number, gate in enumerate(reversed(gates[1:])):
            mine = slice(number * WIDTH, (number + 1) * WIDTH)
            v = v * gate
            v = causal(v, taps[:, mine]) + v * biases[mine]
        return (v * gates[0]) @ w["mixer.out_proj.weight"].T + w["mixer.out_proj.bias"]

    def tap(self, w: dict[str, Tensor], t: int) -> Tensor:
        network = "mixer.filter_fn.implicit_filter"
        h = position(t)
        for number in (0, 2):
            h = w[f"{network}.{number}.weight"] @ h + w[f"{network}.{number}.bias"]
            h = torch.sin(w[f"{network}.1.freq"][0] * h)
        decay = torch.exp(-t / (LONGEST - 1) * w["mixer.filter_fn.modulation.deltas"].abs())
        return (w[f"{network}.4.weight"] @ h) * (decay[0, 0] + 0.05)


def position(t: int) -> Tensor:
    angles = [f * 2 * math.pi * t / LONGEST for f in (1e-4, 1.0)]
    features = [t / (LONGEST - 1), *map(math.cos, angles), *(-math.sin(a) for a in angles)]
    return torch.tensor(features, dtype=torch.float64)


def causal(x: Tensor, taps: Tensor) -> Tensor:
    """Sum over j of taps[j] x[t - j], x (batch, length, channels)."""
    y = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for j in range(min(t + 1, len(taps))):
            y[:, t] += taps[j] * x[:, t - j]
    return y


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def published(folder: Path, reference: Reference, **changes: Any) -> Path:
    write_config(folder, reference.about(**changes))
    write_weights(folder, reference.weights())
    return folder


def draw(length: int) -> Tensor:
    return torch.randint(7, 12, (2, length), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return load(published(tmp_path / "published", Reference()))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("length", [1, 2, 17, LONGEST])
@torch.no_grad()
def test_logits(order: int, length: int, tmp_path: Path) -> None:
    reference = Reference(order)
    model = load(published(tmp_path / "model", reference))
    ids = draw(length)
    torch.testing.assert_close(model(ids).double(), reference.logits(ids), rtol=1e-5, atol=1e-4)
    exact = model.double()(ids)
    torch.testing.assert_close(exact, reference.logits(ids), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_first_layout(tmp_path: Path) -> None:
    """A training's checkpoint: a prefix, modules inside `layer`, a config with a table."""
    reference = Reference()
    folder = tmp_path / "model"
    about = reference.about()
    for name in ("emb_dim", "filter_order", "num_inner_mlps", "max_seq_len", "hyena_order"):
        del about[name]
    del about["model_type"]
    layer = {"_name_": "hyena", "emb_dim": POSITIONS, "filter_order": FILTER, "l_max": LONGEST}
    write_config(folder, {**about, "layer": {**layer, "num_inner_mlps": 1, "modulate": True}})
    named = {}
    for name, weight in reference.weights().items():
        name = "model." + name.removeprefix("hyena.")
        for part in ("mixer", "mlp"):
            name = name.replace(f".{part}.", f".{part}.layer.")
        named[name] = weight
    torch.save({"state_dict": named, "epoch": 3}, folder / "weights.ckpt")
    ids = draw(17)
    torch.testing.assert_close(
        load(folder)(ids).double(), reference.logits(ids), rtol=1e-5, atol=1e-4
    )


@torch.no_grad()
def test_is_causal(model: LanguageModel) -> None:
    ids = draw(30)
    other = ids.clone()
    other[:, 20:] = 7
    torch.testing.assert_close(model(ids)[:, :20], model(other)[:, :20], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(ids)[:, 21:], model(other)[:, 21:])


@torch.no_grad()
def test_packed_sequences_equal_separate_ones(model: LanguageModel) -> None:
    ids = draw(34)
    seq_idx = torch.tensor([0] * 5 + [1] * 20 + [2] * 9, dtype=torch.int32).expand(2, -1)
    (packed,), _ = model.backbone.outputs(ids, [4], seq_idx=seq_idx)
    for start, end in ((0, 5), (5, 25), (25, 34)):
        (alone,), _ = model.backbone.outputs(ids[:, start:end], [4])
        torch.testing.assert_close(packed[:, start:end], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_reverse_is_the_mirror(model: LanguageModel) -> None:
    mixer = model.backbone.layers[0].mixer
    x = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(5))
    backwards, _ = mixer(x, reverse=True)
    torch.testing.assert_close(backwards.flip(1), mixer(x.flip(1))[0], rtol=1e-4, atol=1e-5)


def test_config_and_round_trip(model: LanguageModel, tmp_path: Path) -> None:
    config = model.config
    assert (config.mixers, config.n_layer, config.norm) == (("hyena", "mlp"), 4, "layer")
    assert (config.ids, config.tie_embeddings) == ((7, 8, 9, 10, 11), False)
    save(model, tmp_path / "ours", "card\n")
    again = load(tmp_path / "ours")
    assert again.config == config
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_what_it_cannot_do_is_said(model: LanguageModel) -> None:
    with pytest.raises(UsageError, match="hyena has no state to carry"):
        model(draw(5), return_state=True)
    with pytest.raises(UsageError, match="hyena has no state to carry"):
        model.initial_state(1)
    with pytest.raises(UsageError, match="41 tokens are more than the 40 that the model's"):
        model(draw(LONGEST + 1))


def test_learned_positions_are_refused(tmp_path: Path) -> None:
    folder = published(tmp_path / "model", Reference())
    weights = Reference().weights()
    name = "hyena.backbone.layers.1.mixer.filter_fn.pos_emb.z"
    weights[name] = weights[name] + 0.01
    write_weights(folder, weights)
    with pytest.raises(CheckpointError, match=r"layers\.1.*pos_emb\.z: positions are not those"):
        load(folder)
    write_config(folder, Reference().about(max_seq_len=50))
    with pytest.raises(CheckpointError, match="has 40 positions, and not the config's"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_inner": 25}, "d_inner 25 is no multiple of d_model 6"),
        ({"emb_dim": 4}, "positions: 4 is not odd"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx is \[1\]"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(published(tmp_path / "model", Reference(), **changes))
