import dataclasses

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.pipelines.classify_config import (
    ClassifyConfig,
    choose_sizes,
    contexts_of,
    require_sound,
    selecting_windows,
    stages_of,
    steps_of,
)

CPU = torch.device("cpu")


def test_faults_are_told_together() -> None:
    config = ClassifyConfig(preset="huge", steps=1, epochs=1, batch=0, target=1.0)
    with pytest.raises(UsageError) as error:
        require_sound(config)
    for fault in ("huge", "steps and epochs", "batch 0", "target 1"):
        assert fault in str(error.value)
    with pytest.raises(UsageError, match="the model to start from has its own size"):
        require_sound(ClassifyConfig(preset="250k", model="somewhere"))
    with pytest.raises(UsageError, match="the paper's recipe trains the whole model"):
        require_sound(ClassifyConfig(freeze=True, recipe="paper"))


def test_sizes_follow_the_machine_and_the_genomes() -> None:
    large = choose_sizes(ClassifyConfig(), CPU, 4, 10**9, "a")
    assert (large.preset, large.length, large.batch, large.pool) == ("250k", 4096, 8, "mean")
    assert choose_sizes(ClassifyConfig(), CPU, 4, 4000, "a").length == 1024, "three windows a side"
    gpu = choose_sizes(ClassifyConfig(), torch.device("cuda"), 4, 10**9, "a")
    assert (gpu.length, gpu.batch, gpu.precision) == (16384, 64, "bf16")
    assert gpu.micro_batch == 64, "nothing is read twice where memory allows"
    assert (large.micro_batch or 0) < large.batch
    asked = choose_sizes(ClassifyConfig(length=2**20), torch.device("cuda"), 4, 10**9, "a")
    assert (asked.batch, asked.test_windows) == (8, 8)
    assert choose_sizes(ClassifyConfig(model="here"), CPU, 4, 10**6, "a").preset is None
    with pytest.raises(UsageError, match=r"--length 5000: the longest stretch .* is of 4,000"):
        choose_sizes(ClassifyConfig(length=5000), CPU, 4, 4000, "a")


def test_the_papers_recipe() -> None:
    config = choose_sizes(ClassifyConfig(recipe="paper", length=2**17), CPU, 4, 10**9, "a")
    assert (config.batch, config.pool) == (64, "last")
    steps = steps_of(config, 10**9, 1.0)
    assert steps == (10 + 3) * 1024
    stages = stages_of(dataclasses.replace(config, steps=steps))
    assert [(len(stage.steps), stage.length, stage.batch) for stage in stages] == [
        (1024, 2**14, 64),
        (1024, 2**15, 64),
        (1024, 2**16, 64),
        (10 * 1024, 2**17, 64),
    ]
    assert [stage.steps.start for stage in stages] == [0, 1024, 2048, 3072]
    short = stages_of(dataclasses.replace(config, steps=10))
    assert [len(stage.steps) for stage in short] == [2, 2, 2, 4], "bounded, every length is met"
    (one,) = stages_of(dataclasses.replace(config, length=2**14, steps=10))
    assert len(one.steps) == 10


def test_epochs_are_passes_over_the_training_bases() -> None:
    config = ClassifyConfig(length=1000, batch=8, epochs=3)
    assert steps_of(config, 100_000, 1.0) == 38
    assert steps_of(dataclasses.replace(config, epochs=None, steps=7), 100_000, 1.0) == 7


def test_validations_do_not_hold_training_up() -> None:
    config = ClassifyConfig(steps=1000, batch=16, length=1024, test_windows=500, validate_every=100)
    assert selecting_windows(config, 4) == 120, "10 x 4 x 120 x 2 / 3: a fifth of 16,000"
    assert selecting_windows(dataclasses.replace(config, steps=10), 4) == 12
    assert selecting_windows(dataclasses.replace(config, test_windows=20), 4) == 20
    assert selecting_windows(dataclasses.replace(config, steps=1), 4) == 3


def test_contexts() -> None:
    assert contexts_of(512) == [512]
    assert contexts_of(4095) == [4095]
    assert contexts_of(4096) == [1024, 4096]
    assert contexts_of(2**20) == [2**10, 2**12, 2**14, 2**16, 2**18, 2**20]
