"""What the run.json of a fine-tuning says, its settings and inputs, and going on with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dnamamba.config import from_dict
from dnamamba.data.bed import is_bed_name
from dnamamba.data.store import open_store
from dnamamba.errors import UsageError
from dnamamba.files import require_file
from dnamamba.models import pretrained
from dnamamba.models.hub import model_folder
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_run import MAY_CHANGE
from dnamamba.pipelines.resume import describe_inputs, read_record, require_same_settings

CROSSED: Final = "cross_validated"
"""In the record of a folder that holds folds."""


def go_on(
    output: Path, config: FinetuneConfig, asked: Mapping[str, Any], *, crossed: bool = False
) -> tuple[dict[str, Any] | None, FinetuneConfig]:
    """Return the record and the settings of a run to go on with; None where there is none yet.

    Parameters
    ----------
    output
        The run folder.
    config, asked
        As for `finetune`.
    crossed
        Whether it is to be a cross-validation.

    Raises
    ------
    UsageError
        Where it is another run than is asked for.
    CheckpointError
        Where its record is damaged.
    """
    record = read_record(output, "finetune")
    if record is None:
        return None, config
    if record.get(CROSSED, False) is not crossed:
        wrong = "no cross-validation: leave it out" if crossed else "a cross-validation: give it"
        raise UsageError(f"--cross-validate: {output} is {wrong} to --resume")
    require_same_settings(output, record["config"], asked, MAY_CHANGE)
    free = {name: value for name, value in asked.items() if name in MAY_CHANGE}
    values = {**record["config"], **free}
    return record, from_dict(FinetuneConfig, values, str(output / "run.json"))


def inputs_of(
    table: Path, valid: Path | None, test: Path | None, config: FinetuneConfig
) -> list[dict[str, Any]]:
    """List all that a fit reads, its model last: path, size in bytes, SHA-256.

    Raises
    ------
    UsageError
        For files that a fit cannot read, and sides beside a fold.
    InputError
        For a file that is missing.
    CheckpointError
        For a model that cannot be read.
    """
    if config.fold is not None:
        require_alone("--fold", valid, test)
    paths = [path for path in (table, valid, test) if path is not None]
    if any(str(path) == "-" for path in paths):
        raise UsageError("-: a fit reads its tables from files, so that it can be gone on with")
    if not config.genome and (named := [path for path in paths if is_bed_name(path)]):
        raise UsageError(f"{named[0]}: regions want the FASTA that they lie in: --genome GENOME")
    paths += map(Path, config.tracks)
    for path in paths:
        require_file(path)
    stores = [open_store(Path(config.genome))] if config.genome else []
    pretrained.read_config(config.model)
    size, digest = pretrained.fingerprint(model_folder(config.model))
    return [
        *describe_inputs(stores, paths),
        {"path": config.model, "size": size, "sha256": digest},
    ]


def require_alone(flag: str, valid: Path | None, test: Path | None) -> None:
    """Raise a UsageError for files of sides where a flag cuts them out of the table."""
    named = [name for name, path in (("--valid", valid), ("--test", test)) if path is not None]
    if named:
        raise UsageError(f"{flag} cuts all sides out of TRAIN: leave out {' and '.join(named)}")
