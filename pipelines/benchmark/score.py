"""`dnamamba benchmark score`: variants a second, beside two whole windows for each variant.

All variants are substitutions in the middle half of one window of the genome, drawn from a seed,
and both strands are read. `exact` and `horizon` are what `dnamamba score` does: the reference is
read once, and what follows each variant is read again, to the window's end or as far as --horizon.
`naive` reads the two whole windows of each variant, as many at once as `dnamamba score` would.

`ratio` is how many times as many variants a second as naive. `median_off` and `largest_off` are
absolute differences from the scores of `exact`, in nats, over the variants that both have.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import click
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, N
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.variants import Variant
from dnamamba.errors import InputError, UsageError
from dnamamba.inference.embed import BATCH_BASES
from dnamamba.inference.score import Scorer, Scoring, collect
from dnamamba.inference.score_window import Change, Window, in_use
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast, autocast_to
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.numbers import Count, Counts
from dnamamba.pipelines.table import print_table

Way = Literal["exact", "horizon", "naive"]
WARM: Final = 2
"""Variants that are scored before the clock starts, so that kernels are compiled."""


@dataclass(frozen=True)
class Row:
    """One measurement; None where there is no such figure."""

    way: Way
    model: str
    context: int
    horizon: int | None
    variants: int
    seconds: float
    per_second: float
    ratio: float
    median_off: float | None = None
    largest_off: float | None = None


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Bench:
    """A model on its device, and a genome.

    Attributes
    ----------
    name
        What the model is called.
    model, device, autocast
        The model, where it lies, and the context of its passes.
    store
        The genome.
    """

    name: str
    model: LanguageModel
    device: torch.device
    autocast: Autocast
    store: Store

    def shared(
        self, variants: Sequence[Variant], scoring: Scoring
    ) -> tuple[NDArray[np.float64], float]:
        """Score as `dnamamba score` does: (variants, 2), and seconds."""
        scorer = Scorer(self.model, scoring, device=self.device, autocast=self.autocast)
        # On a GPU batches of every size have kernels compiled for them, once.
        before = variants if self.device.type == "cuda" else variants[:WARM]
        collect(scorer.score(self.store, before), len(before))
        begin = time.perf_counter()
        found = collect(scorer.score(self.store, variants), len(variants))
        return found, time.perf_counter() - begin

    def naive(
        self, variants: Sequence[Variant], region: Region
    ) -> tuple[NDArray[np.float64], float]:
        """Read two whole windows for each variant and strand: (variants, 2), and seconds."""
        codes = self.store.fetch(region) & np.uint8(BASE)
        changes = [
            Change(v.start - region.start, v.end - region.start, np.frombuffer(v.alt, np.uint8))
            for v in variants
        ]
        window = Window(codes, changes)
        sides = (window, window.other_strand())
        self._read_whole(window, changes[:WARM])
        begin = time.perf_counter()
        found = [self._read_whole(side, side.changes) for side in sides]
        return np.stack(found, 1), time.perf_counter() - begin

    def _read_whole(self, window: Window, changes: Sequence[Change]) -> NDArray[np.float64]:
        at_once = BATCH_BASES.get(self.device.type, BATCH_BASES["cpu"]) // len(window.codes)
        rows = [codes for change in changes for codes in (window.codes, window.changed(change))]
        found = []
        with in_use(self.model, self.autocast):
            for first in range(0, len(rows), max(1, at_once)):
                batch = np.stack(rows[first : first + max(1, at_once)])
                ids = self.model.tokens(torch.from_numpy(batch).to(self.device))
                nats, _ = self.model.nats(ids[:, :-1], ids[:, 1:])
                found.append(nats.cpu().numpy().sum(1, dtype=np.float64))
        reference, alternate = np.concatenate(found).reshape(-1, 2).T
        difference: NDArray[np.float64] = reference - alternate
        return difference


def benchmark_score(
    bench: Bench, contexts: Sequence[int], horizon: int, count: int, sample: int, seed: int
) -> Iterator[Row]:
    """Measure each context in each way.

    Parameters
    ----------
    bench
        What is measured.
    contexts
        Bases of a window.
    horizon
        Bases behind a variant.
    count, sample
        Variants that are read as far as the horizon, and those that are read to the end.
    seed
        Draws variants.

    Raises
    ------
    InputError
        Where the genome has no window without N.
    """
    for context in contexts:
        region = known_window(bench.store, context)
        variants = draw(bench.store, region, context, count, seed)
        chosen = variants[:: max(1, len(variants) // sample)][:sample]
        logger.info("measuring %s at %s bases, %s", bench.name, f"{context:,}", region)
        scoring = Scoring(context, horizon)
        naive, seconds = bench.naive(chosen, region)
        pace = seconds / len(chosen)
        exact, exact_seconds = bench.shared(chosen, scoring.to_the_end())
        near, near_seconds = bench.shared(variants, scoring)
        places = {variant: number for number, variant in enumerate(variants)}
        both = near[[places[variant] for variant in chosen]]
        about = bench.name, context
        yield _row("naive", *about, None, chosen, seconds, pace, _off(naive, exact))
        yield _row("exact", *about, None, chosen, exact_seconds, pace)
        yield _row("horizon", *about, horizon, variants, near_seconds, pace, _off(both, exact))


def _row(
    way: Way,
    model: str,
    context: int,
    horizon: int | None,
    variants: Sequence[Variant],
    seconds: float,
    pace: float,
    off: NDArray[np.float64] | None = None,
) -> Row:
    """Make a row; `pace` is what naive takes for a variant, in seconds."""
    count = len(variants)
    row = Row(way, model, context, horizon, count, seconds, count / seconds, count * pace / seconds)
    if off is None:
        return row
    return dataclasses.replace(row, median_off=float(np.median(off)), largest_off=float(off.max()))


def _off(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    off: NDArray[np.float64] = np.abs(one.mean(1) - other.mean(1))
    return off


def known_window(store: Store, context: int) -> Region:
    """Return the first window of the grid without N.

    Raises
    ------
    InputError
        Where there is none.
    """
    cell, flank = context // 2, context // 4
    for contig, length in store.lengths.items():
        starts = np.arange(cell, length - cell - flank + 1, cell) - flank
        whole = np.flatnonzero(store.n_count(contig, starts, starts + cell + 2 * flank) == 0)
        if whole.size:
            start = int(starts[whole[0]])
            return Region(contig, start, start + cell + 2 * flank)
    raise InputError(f"{store.source}: no {context:,} bases without N; give shorter --contexts")


def draw(store: Store, region: Region, context: int, count: int, seed: int) -> list[Variant]:
    """Draw substitutions in the cell of a window, no two the same, in its order."""
    cell, flank = context // 2, context // 4
    codes = store.fetch(region) & np.uint8(BASE)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(3 * cell, min(count, 3 * cell), replace=False))
    found = []
    for place, step in zip(*np.divmod(drawn, 3), strict=True):
        at = flank + int(place)
        alt = bytes([(int(codes[at]) + int(step) + 1) % N])
        found.append(Variant(region.contig, region.start + at, region.start + at + 1, alt))
    return found


@click.command("score", short_help="Variants a second, beside two whole windows for each.")
@click.argument("genome", type=click.Path(path_type=Path))
@click.option("-m", "--model", type=click.Path(path_type=Path), metavar="DIR", help="Model folder.")
@click.option("--preset", "size", metavar="SIZE", help="An untrained model instead.  [1.4m]")
@click.option(
    "--contexts",
    type=Counts(),
    metavar="N,...",
    default="1024,16384,131072",
    show_default=True,
    help="Bases of a window.",
)
@click.option("--horizon", type=Count(), default=256, show_default=True, metavar="N")
@click.option(
    "--variants", "count", type=Count(), default=1000, show_default=True, help="In one window."
)
@click.option(
    "--sample",
    type=Count(),
    default=16,
    show_default=True,
    help="Of them, those that are read to the window's end too, and naively.",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@options.seed
@options.device
@options.threads
@options.verbosity
def command(
    genome: Path,
    model: Path | None,
    size: str | None,
    contexts: tuple[int, ...],
    horizon: int,
    count: int,
    sample: int,
    precision: str,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Measure how many variants of GENOME are scored a second.

    Three rows for each context: two whole windows a variant, the shared reference read to the
    window's end, and as far as --horizon. Variants are substitutions, drawn in one window.
    """
    torch.set_num_threads(threads)
    if model and size:
        raise UsageError("-m and --preset: give one of them")
    here = options.resolve_device(device)
    store = open_store(genome)
    if model:
        name, scoring_model = model.resolve().name, pretrained.load(model, here)
    else:
        torch.manual_seed(seed)
        name = size or "1.4m"
        scoring_model = LanguageModel(preset(name)).to(here).eval()
    if scoring_model.config.objective == "masked":
        raise UsageError(f"{name}: a masked model reads each window whole; there is nothing shared")
    bench = Bench(name, scoring_model, here, autocast_to(precision, here), store)
    rows = map(dataclasses.astuple, benchmark_score(bench, contexts, horizon, count, sample, seed))
    print_table(COLUMNS, (["" if cell is None else cell for cell in row] for row in rows))
