from pathlib import Path

import pytest

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.classifier import CONFIG
from dnamamba.pipelines.score_config import (
    EXACT,
    HORIZON,
    ScoreConfig,
    read_horizon,
    read_model_config,
)

CAUSAL = ModelConfig(d_model=16, n_layer=2)
MASKED = ModelConfig(d_model=16, n_layer=2, objective="masked")


@pytest.mark.parametrize(
    ("text", "context", "horizon"),
    [
        (None, EXACT, None),
        (None, EXACT + 1, HORIZON),
        ("all", 2**20, None),
        ("100", 64, 100),
        ("2Ki", 64, 2048),
    ],
)
def test_a_horizon_suits_its_context(text: str | None, context: int, horizon: int | None) -> None:
    assert read_horizon(text, context) == horizon
    assert ScoreConfig(horizon=text, context=context).scoring(CAUSAL).horizon == horizon


@pytest.mark.parametrize("text", ["0", "none", "-1", "1.5"])
def test_another_horizon_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--horizon {text}: give a number of bases, or all"):
        ScoreConfig(horizon=text)


def test_values_that_cannot_be_are_refused_before_a_model_is_seen() -> None:
    with pytest.raises(UsageError, match="--context 10: 64 to"):
        ScoreConfig(context=10)
    with pytest.raises(UsageError, match="strands: 'reverse' is not one of both, forward"):
        ScoreConfig(strands="reverse")  # type: ignore[arg-type]


def test_what_is_of_other_models_is_refused() -> None:
    with pytest.raises(UsageError, match="--horizon: a masked model reads each window whole"):
        ScoreConfig(horizon="all").scoring(MASKED)
    with pytest.raises(UsageError, match="--flank: is for masked models"):
        ScoreConfig(flank=3).scoring(CAUSAL)
    assert ScoreConfig(flank=3).scoring(MASKED).flank == 3
    assert ScoreConfig(context=2**20).scoring(MASKED).horizon is None


def test_a_model_is_wanted_that_predicts_bases(backbone: Path, tmp_path: Path) -> None:
    assert read_model_config(str(backbone)).objective == "next"
    with pytest.raises(UsageError, match="-m MODEL: a model folder is wanted"):
        read_model_config("")
    with pytest.raises(CheckpointError, match="gone: no such folder"):
        read_model_config(str(tmp_path / "gone"))
    for name in ("one", "many/fold-1"):
        folder = tmp_path / name
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
        for file in backbone.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / CONFIG).write_text("{}")
    for name in ("one", "many"):
        with pytest.raises(UsageError, match=f"{name}: a classifier, which gives no probability"):
            read_model_config(str(tmp_path / name))
