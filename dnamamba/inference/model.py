"""What a notebook works with: a model that embeds strings, arrays, files and regions, and more."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, decode, encode
from dnamamba.data.genome import Genome
from dnamamba.data.known import Known
from dnamamba.data.region import Region, parse_region
from dnamamba.errors import UsageError
from dnamamba.inference.embed import Embedder, How, Strands, parse_layers
from dnamamba.inference.generate import Sampler, generate, random_stream, read_prompt
from dnamamba.inference.genome import Stretch
from dnamamba.inference.pooling import Pool
from dnamamba.inference.reading import Reading
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import push
from dnamamba.models.precision import autocast_to

Array = NDArray[np.float32]
Sequences = str | Codes | Path | Genome | Iterable[str | Codes]
Regions = Sequence[str | Region] | Region | None


class Model(LanguageModel):
    """A `LanguageModel` that is ready to use.

    Examples
    --------
    >>> model = load("runs/hg38")  # doctest: +SKIP
    >>> model.embed("ACGTTGCA").shape  # doctest: +SKIP
    (128,)
    >>> model.embed("hg38.fa", ["chr1:1,000,001-1,004,096"], rc="average")  # doctest: +SKIP
    """

    @classmethod
    def from_pretrained(cls, place: Path | str, device: torch.device | str = "cpu") -> "Model":
        """Read a model; the same as `dnamamba.load`."""
        return pretrained.load(place, device, kind=cls)

    def save_pretrained(self, folder: Path | str, card: str | None = None) -> None:
        """Write a model folder: config, weights as safetensors, and a card.

        Parameters
        ----------
        folder
            Made where it does not exist.
        card
            Text of README.md; by default one that says what the model is.

        Raises
        ------
        DnamambaError
            Where the disk is full or the folder cannot be written.
        """
        folder = Path(folder)
        if card is None:
            name = folder.resolve().name
            card = pretrained.model_card(self, name=name, data=["not said"], metrics={})
        pretrained.save(self, folder, card)

    def push_to_hub(self, name: str, card: str | None = None, *, private: bool = False) -> str:
        """Upload the model to `owner/name` on the Hugging Face hub; returns where it can be seen.

        Raises
        ------
        CheckpointError
            Where huggingface_hub is missing, or the hub refuses.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / name.rpartition("/")[2]
            self.save_pretrained(folder, card)
            return push(folder, name, private=private)

    @overload
    def embed(
        self,
        sequences: Sequences,
        regions: Regions = ...,
        *,
        pool: Literal["none"],
        layer: int | str = ...,
        rc: Strands = ...,
        context: int = ...,
        batch: int | None = ...,
        precision: Literal["auto", "fp32", "bf16"] = ...,
    ) -> Array | list[Array]: ...

    @overload
    def embed(
        self,
        sequences: Sequences,
        regions: Regions = ...,
        *,
        pool: Literal["mean", "max", "last", "center"] = ...,
        layer: int | str = ...,
        rc: Strands = ...,
        context: int = ...,
        batch: int | None = ...,
        precision: Literal["auto", "fp32", "bf16"] = ...,
    ) -> Array: ...

    def embed(
        self,
        sequences: Sequences,
        regions: Regions = None,
        *,
        layer: int | str = -1,
        pool: Pool = "mean",
        rc: Strands = "none",
        context: int = 0,
        batch: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> Array | list[Array]:
        """Embed sequences; the model's mode and device stay as they are.

        Parameters
        ----------
        sequences
            A string of letters, or an array of store codes; several of them; or a genome: a
            `Genome`, or the `Path` of a FASTA, of which each record is embedded, or `regions`.
        regions
            Of a genome: `Region`s, or texts as samtools writes them (1-based, both ends inside).
        layer
            As `--layer`: a block, -1 the last; "4,8" stand side by side, "mean:4-8" are averaged.
        pool
            What is made of the hidden states of a sequence; "none" keeps those of each base.
        rc
            What is made of the reverse complement.
        context
            Bases on either side of a region that are read and not pooled.
        batch
            Sequences that are read at once; by default as many as suit the device.
        precision
            Of the forward pass; auto is bf16 on a CUDA device, else fp32.

        Returns
        -------
        (dims,) float32 for a single sequence, (sequences, dims) for several. With pool "none",
        (bases, dims) for each. N are not read: bases that are N are NaN, and so is a sequence of
        nothing else.

        Raises
        ------
        UsageError
            For regions without a genome, or values that do not fit the model.
        InputError
            For letters that are no nucleotides, or regions outside the genome.
        """
        device = next(self.parameters()).device
        if precision == "auto":
            precision = "bf16" if device.type == "cuda" else "fp32"
        layers, mean = parse_layers(str(layer), self.config)
        embedder = Embedder(
            self,
            How(layers, mean=mean and len(layers) > 1, pool=pool, rc=rc),
            device=device,
            batch=batch,
            autocast=autocast_to(precision, device),
        )
        if isinstance(sequences, Path):
            sequences = Genome(sequences)
        if isinstance(sequences, Genome):
            found = list(_embed(embedder, _regions(sequences, regions, context)))
        elif regions is not None or context:
            raise UsageError("regions and context are of a genome: give a Genome, or a Path")
        elif isinstance(sequences, (str, np.ndarray)):
            return next(_embed(embedder, [_whole(sequences)]))
        else:
            found = list(_embed(embedder, map(_whole, sequences)))
        if pool == "none":
            return found
        return np.stack(found) if found else np.empty((0, len(embedder.names)), np.float32)

    def generate(
        self,
        sequences: int = 1,
        length: int = 1000,
        *,
        prompt: str | None = None,
        temperature: float = 1.0,
        top_k: int = 4,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Make new DNA; the model's mode stays as it is.

        Parameters
        ----------
        sequences, length
            How many, and of how many bases, the prompt not among them.
        prompt
            Letters that each of them continues; N are not read.
        temperature, top_k, top_p
            As in `dnamamba.inference.generate.Sampler`.
        seed
            Sequence i is the same for every number of sequences, but for rounding.

        Returns
        -------
        Letters of each.

        Raises
        ------
        UsageError
            For a model that has no next base or no state, or a value out of range.
        InputError
            For letters that are no nucleotides.
        """
        randoms = [random_stream(seed, number) for number in range(sequences)]
        starts = [read_prompt(self, Known(encode(prompt)))] * sequences if prompt else None
        sampler = Sampler(temperature, top_k, top_p)
        parts = [part.codes for part in generate(self, length, randoms, starts, sampler=sampler)]
        return [decode(codes) for codes in np.concatenate(parts, 1)]


Place = tuple[Stretch, int, int]
"""What is read, and the positions in it that are pooled."""


def _whole(sequence: str | Codes) -> Place:
    codes = encode(sequence) if isinstance(sequence, str) else sequence
    if codes.ndim != 1 or codes.dtype != np.uint8:
        raise UsageError(
            f"an array of type {codes.dtype} and shape {codes.shape}: (bases,) uint8 store codes "
            "are wanted, as Genome.fetch gives them"
        )
    return Stretch(0, len(codes), Known(codes)), 0, len(codes)


def _regions(genome: Genome, regions: Regions, context: int) -> Iterator[Place]:
    if isinstance(regions, (str, Region)):
        regions = [regions]
    for text in genome.contigs if regions is None else regions:
        region = text
        if isinstance(region, str):
            region = parse_region(region, genome.lengths, genome.path.name)
        start = max(0, region.start - context)
        end = min(region.end + context, genome.lengths[region.contig])
        codes = genome.fetch(Region(region.contig, start, end))
        stretch = Stretch(start, end, Known(codes), region.strand == "-")
        yield stretch, region.start, region.end


def _embed(embedder: Embedder, places: Iterable[Place]) -> Iterator[Array]:
    """Embed places in turn; what has no known base is not read."""
    waiting: list[tuple[Place, NDArray[np.int64]]] = []

    def readings() -> Iterator[Reading]:
        for place in places:
            stretch, start, end = place
            spans = stretch.spans(np.array([start]), np.array([end]))
            waiting.append((place, spans[0]))
            if spans[0, 0] < spans[0, 1]:
                yield stretch.reading(spans)

    def empty() -> Iterator[Array]:
        while waiting and waiting[0][1][0] == waiting[0][1][1]:
            (_, start, end), _ = waiting.pop(0)
            shape = (end - start, dims) if per_base else (dims,)
            yield np.full(shape, np.nan, np.float32)

    dims, per_base = len(embedder.names), embedder.how.pool == "none"
    for values in embedder.embed(readings()):
        yield from empty()
        (stretch, start, end), span = waiting.pop(0)
        if not per_base:
            yield values[0]
            continue
        bases = np.full((end - start, dims), np.nan, np.float32)
        bases[stretch.positions(np.arange(*span)) - start] = values
        yield bases[::-1] if stretch.reverse else bases
    yield from empty()


def load(place: Path | str, device: torch.device | str = "cpu") -> Model:
    """Read a model, ready for use (in eval mode).

    Parameters
    ----------
    place
        A model folder or a run folder; or `owner/name` on the Hugging Face hub.
    device
        Where to put the weights.

    Raises
    ------
    CheckpointError
        Naming what is wrong: no model folder, weights that are cut short or of another model.
    """
    return pretrained.load(place, device, kind=Model)
