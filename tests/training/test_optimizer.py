import pytest

from dnamamba.errors import UsageError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer


def test_matrices_decay_and_vectors_and_a_log_do_not() -> None:
    model = LanguageModel(ModelConfig(d_model=8, n_layer=1))
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or name.endswith("A_log")
        assert decay[id(parameter)] == (0.0 if spared else 0.1), name


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lr", -1.0), ("lr", float("nan")), ("warmup", 1.5), ("clip", 0.0), ("betas", (0.9,))],
)
def test_values_out_of_range_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(UsageError, match=setting):
        OptimizerConfig(**{setting: value})
