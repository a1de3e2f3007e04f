import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dnamamba import cli
from dnamamba.data.tracks import Tracks, read, tile_tracks
from dnamamba.evaluation.probe import STRENGTHS
from dnamamba.models.classifier import Classifier
from dnamamba.pipelines import classify_fit, classify_probe
from dnamamba.pipelines.classify_job import Fit
from dnamamba.pipelines.classify_probe import fit_head, standardise
from dnamamba.pipelines.classify_run import calibrate

LENGTH = 128


class _SetUpError(Exception):
    pass


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, sheet: Path, tmp_path: Path) -> Callable[..., Fit]:
    """Set a fit up by its command, and go no further."""

    def made(*options: str) -> Fit:
        found: list[Fit] = []

        def stop(fit: Fit) -> None:
            found.append(fit)
            raise _SetUpError

        monkeypatch.setattr(classify_fit, "calibrate", stop)
        command = ["classify", "--species", str(sheet), "-o", str(tmp_path / "run"), "--freeze"]
        command += ["--length", str(LENGTH), "--folds", "4", "--device", "cpu", "-t", "1"]
        with pytest.raises(_SetUpError):
            cli.run([*command, *options])
        return found[0]

    return made


def features(fit: Fit, species: Tracks) -> tuple[np.ndarray, np.ndarray]:
    windows = tile_tracks(species, LENGTH)
    ids = fit.classifier.tokens(torch.stack([read(species, window) for window in windows]))
    with torch.no_grad():
        found = fit.classifier.both_strands(ids).numpy()
    return found, np.array([window.species for window in windows])


def test_features_are_standardised_on_the_training_side(
    set_up: Callable[..., Fit], backbone: Path
) -> None:
    fit = set_up("-m", str(backbone))
    head = fit_head(fit, LENGTH)
    train, _ = features(fit, fit.sides.train)
    np.testing.assert_allclose(head.mean.detach(), train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(head.scale.detach(), train.std(0), rtol=1e-4)


def test_the_penalty_is_chosen_on_the_valid_side(
    set_up: Callable[..., Fit], backbone: Path
) -> None:
    fit = set_up("-m", str(backbone))
    head = fit_head(fit, LENGTH)
    train, labels = features(fit, fit.sides.train)
    valid, wanted = features(fit, fit.sides.valid)
    mean, scale = train.mean(0), train.std(0)
    losses = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, solver="newton-cg")
        model.fit((train - mean) / scale, labels)
        logs = model.predict_log_proba((valid - mean) / scale)
        losses[strength] = -logs[np.arange(len(wanted)), wanted].mean()
    with torch.no_grad():
        logits = head(torch.from_numpy(valid))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(wanted))
    assert float(loss) == pytest.approx(min(losses.values()), rel=1e-3)
    assert float(loss) < 0.9 * max(losses.values()), "the choice matters"


def test_two_species_have_two_rows(
    set_up: Callable[..., Fit], backbone: Path, sheet: Path, tmp_path: Path
) -> None:
    two = tmp_path / "two.csv"
    lines = sheet.read_text().splitlines()[:3]
    two.write_text("\n".join(line.replace(",", f",{sheet.parent}/") for line in lines) + "\n")
    two.write_text(two.read_text().replace(f"species,{sheet.parent}/fasta", "species,fasta"))
    fit = set_up("-m", str(backbone), "--species", str(two))
    head = fit_head(fit, LENGTH)
    train, labels = features(fit, fit.sides.train)
    with torch.no_grad():
        logits = head(torch.from_numpy(train))
    assert logits.shape[1] == 2
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9


def test_a_backbone_from_scratch_keeps_its_head(set_up: Callable[..., Fit]) -> None:
    fit = set_up("--preset", "250k")
    config = dataclasses.replace(fit.config, freeze=False, steps=2, batch=6)
    fit = dataclasses.replace(fit, config=config)
    head = fit.classifier.head
    before = head.weight.detach().clone()
    standardise(fit)
    assert torch.equal(head.weight, before)
    assert head.mean.abs().max() > 0
    assert not torch.equal(head.scale, torch.ones_like(head.scale))


def test_each_context_gets_the_head_that_is_better_on_the_valid_side(
    set_up: Callable[..., Fit], backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trained one, centred at that context, or one that is fitted on its windows."""
    fit = set_up("-m", str(backbone))
    about = dataclasses.replace(fit.classifier.config, contexts=(LENGTH // 4, LENGTH))
    fit = dataclasses.replace(
        fit,
        classifier=Classifier(fit.classifier.language, about),
        config=dataclasses.replace(fit.config, freeze=False, steps=200, batch=6),
    )
    own = fit_head(fit, LENGTH)
    wrong = fit_head(fit, LENGTH)
    with torch.no_grad():
        wrong.weight.neg_()
    for trained, name in ((wrong, "fitted anew"), (own, "trained")):
        fit.classifier.config = about
        fit.classifier.head.load_state_dict(trained.state_dict())
        if name == "trained":  # a fit of 2 windows a species is worse
            config = dataclasses.replace(fit.config, steps=1, batch=1)
            fit = dataclasses.replace(fit, config=config)
        calibrate(fit)
        assert capsys.readouterr().err.count(f"that was {name} is better") == 2
        assert len(fit.classifier.config.temperatures) == 2
        for head, length in zip(fit.classifier.heads, about.contexts, strict=True):
            assert fit.classifier.head_for(length) is head
            assert torch.equal(head.weight, trained.weight) == (name == "trained")
        assert not torch.equal(*(head.mean for head in fit.classifier.heads))


def test_windows_are_no_longer_than_a_probes(
    set_up: Callable[..., Fit],
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit = set_up("-m", str(backbone))
    monkeypatch.setattr(classify_probe, "LENGTH", 32)
    monkeypatch.setattr(classify_probe, "BASES", 32 * 3 * 20)
    head = fit_head(fit, LENGTH)
    assert "60 windows of 32 bases" in capsys.readouterr().err
    assert math.isfinite(float(head.weight.detach().sum()))
