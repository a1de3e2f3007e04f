import pytest

from dnamamba.errors import UsageError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import PRESETS, preset, preset_name


@pytest.mark.parametrize(
    ("name", "layers", "width", "count"),
    [
        ("250k", 4, 64, 262_208),
        ("700k", 5, 96, 683_424),
        ("1.4m", 6, 128, 1_400_448),
        ("3.5m", 7, 192, 3_525_696),
        ("7.0m", 8, 256, 7_010_560),
        ("19.3m", 10, 384, 19_287_936),
        ("40.7m", 12, 512, 40_690_176),
    ],
)
def test_presets_have_the_papers_sizes(name: str, layers: int, width: int, count: int) -> None:
    config = PRESETS[name]
    assert (config.n_layer, config.d_model) == (2 * layers, width)
    assert LanguageModel(config).parameters_count == count
    named = float(name[:-1]) * {"k": 1e3, "m": 1e6}[name[-1]]
    assert count == pytest.approx(named, rel=0.05)
    assert preset_name(config) == name


def test_names_are_forgiving() -> None:
    assert preset("7m") == preset("7.0M") == PRESETS["7.0m"]


def test_overrides_change_fields() -> None:
    config = preset("1.4m", objective="masked", bidirectional=True)
    assert config.objective == "masked"
    assert preset_name(config) == "1.4m"
    assert preset_name(preset("1.4m", n_layer=11)) is None
    assert preset_name(ModelConfig(d_model=128, n_layer=12, dt_rank=9)) is None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"preset: '8m' is not one of 250k, .*, 40\.7m"):
        preset("8m")
    with pytest.raises(UsageError, match=r"unknown setting 'n_layers'; did you mean 'n_layer'\?"):
        preset("250k", n_layers=2)
    with pytest.raises(UsageError, match="objective"):
        preset("250k", bidirectional=True)
