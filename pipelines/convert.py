"""`dnamamba convert`: a model that others published as ours, or one of ours for transformers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click

from dnamamba.errors import UsageError
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.convert import save_transformers
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.hub import push
from dnamamba.models.predictor import is_predictor_folder, load_predictor, save_predictor
from dnamamba.pipelines import options

Layout = Literal["dnamamba", "transformers"]


@dataclass(frozen=True)
class ConvertConfig:
    """What `convert` writes.

    Attributes
    ----------
    to
        Whose layout.
    ids
        The ids of A, C, G, T and N in the model that is read, where its folder does not say them.
    mask_id
        The id that hides a base there.
    push
        `owner/name` of the repository on the hub that the result goes to.
    private
        Whether that repository is private where it is made.
    base
        Of a fine-tuning's run: where the model lies that it was fitted from, if it has moved.
    """

    to: Layout = "dnamamba"
    ids: tuple[int, ...] | None = None
    mask_id: int | None = None
    push: str | None = None
    private: bool = False
    base: str | None = None


def convert(model: str, output: Path, config: ConvertConfig, *, force: bool = False) -> Path:
    """Read a model, and write it as a model folder.

    Parameters
    ----------
    model
        A folder, ours or published, or `owner/name` on the hub; or a fine-tuning's run, whose
        adapter is merged into the model that it was fitted from.
    output
        The folder to write.
    config
        Settings.
    force
        Replace a model that is there.

    Returns
    -------
    The folder.

    Raises
    ------
    UsageError
        For settings that do not fit, a folder that is there, or a layout that has no such model.
    CheckpointError
        For a model that cannot be read, or a hub that refuses.
    """
    if config.mask_id is not None and config.ids is None:
        raise UsageError("--mask-id comes with --ids")
    if config.ids is not None and len(config.ids) != 5:
        raise UsageError(f"--ids: {len(config.ids)} ids; five are wanted, of A, C, G, T and N")
    _require_free(output, force)
    if is_predictor_folder(Path(model)):
        _merge(Path(model), output, config)
        return output
    ids = None if config.ids is None else Vocabulary(config.ids, config.mask_id)
    found = pretrained.load(model, ids=ids)
    card = pretrained.model_card(
        found,
        name=Path(model).name,
        data=[f"see {model}, of which these are the weights"],
        metrics={},
        notes=_notes(model, config),
    )
    if config.to == "transformers":
        save_transformers(found, output, card)
    else:
        pretrained.save(found, output, card)
    logger.info("%s, %s parameters, is in %s", model, f"{found.parameters_count:,}", output)
    if config.push:
        logger.info("pushed to %s", push(output, config.push, private=config.private))
    return output


def _merge(run: Path, output: Path, config: ConvertConfig) -> None:
    """Write a predictor with all its weights, its adapter merged."""
    if config.to != "dnamamba" or config.ids is not None:
        raise UsageError(
            f"{run}: is a predictor, whose head has no place elsewhere; leave out --to and --ids"
        )
    predictor = load_predictor(run, base=config.base)
    if predictor.config.base is None:
        raise UsageError(f"{run}: holds all its weights; there is nothing to merge")
    predictor.config = replace(predictor.config, base=None, base_sha256=None)
    card = pretrained.model_card(
        predictor.language,
        name=run.resolve().name,
        data=[f"see {run.resolve().name}, of which these are the weights"],
        metrics={},
        notes="A predictor with its adapter merged. `dnamamba predict` uses it.",
    )
    save_predictor(predictor, output, card)
    count = predictor.language.parameters_count
    logger.info("%s, merged, %s parameters and a head, is in %s", run, f"{count:,}", output)
    if config.push:
        logger.info("pushed to %s", push(output, config.push, private=config.private))


def _require_free(output: Path, force: bool) -> None:
    """Refuse what is no folder for a model: a file, or one that holds something else."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; choose a folder with -o")
    if not output.exists() or not any(output.iterdir()):
        return
    if not pretrained.is_model_folder(output):
        raise UsageError(f"{output}: holds files but no model; choose another -o")
    if not force:
        raise UsageError(f"{output}: exists; --force replaces it, -o chooses another")


def _notes(model: str, config: ConvertConfig) -> str:
    lines = [f"Converted from `{Path(model).name}` by dnamamba."]
    if config.to == "transformers":
        lines += [
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
        ]
        lines += ['model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")']
        lines += ['tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")', "```"]
    return "\n".join(lines)


def _read_ids(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise UsageError(
            f"--ids {value}: numbers with commas are wanted, such as 7,8,9,10,11"
        ) from (error)


@click.command("convert")
@click.argument("model")
@options.output
@click.option(
    "--to",
    type=click.Choice(["dnamamba", "transformers"]),
    default="dnamamba",
    show_default=True,
    help="Whose layout to write.",
)
@click.option(
    "--ids",
    metavar="A,C,G,T,N",
    callback=_read_ids,
    help="Ids of the bases in MODEL, where its folder does not say them.",
)
@click.option("--mask-id", type=int, help="The id that hides a base there.")
@click.option(
    "--base", metavar="DIR", help="The model that a run was fitted from, if it has moved."
)
@click.option("--push", metavar="OWNER/NAME", help="Upload the result to the Hugging Face hub.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@options.force
@options.verbosity
def command(
    model: str,
    output: Path | None,
    to: Layout,
    ids: tuple[int, ...] | None,
    mask_id: int | None,
    base: str | None,
    push: str | None,
    private: bool,
    force: bool,
) -> None:
    """Turn a published model into one of ours, or one of ours into transformers' layout.

    MODEL is a folder or OWNER/NAME on the Hugging Face hub: state-spaces' Mamba and Mamba-2 or
    transformers' of them, Caduceus Ph and PS, PlantCaduceus, HyenaDNA, or a model of dnamamba.
    Every verb's -m reads these as they are; converting keeps one copy, as safetensors, with the ids
    of its tokenizer written down. Pickles are read for their tensors alone, and never executed.

    A fine-tuning's run is written with all its weights, its adapter merged.
    """
    place = output or Path("runs") / f"convert-{Path(model).resolve().name}"
    config = ConvertConfig(to=to, ids=ids, mask_id=mask_id, push=push, private=private, base=base)
    convert(model, place, config, force=force)
