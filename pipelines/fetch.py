"""`dnamamba fetch`: bring known assemblies, verify them, and keep them as BGZF.

Sets of labelled sequences are brought by `fetch_task` in `dnamamba.pipelines.fetch_tasks`.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from dnamamba import __version__
from dnamamba.data.bgzf import recompress
from dnamamba.data.catalog import SETS, SOURCES, Source, check_chromosomes, find_sources
from dnamamba.data.download import download, forget, published_md5
from dnamamba.data.tasks import COLLECTIONS, TASKS, Task, find_tasks, is_task_name
from dnamamba.data.tasks import FOLDER as TASK_FOLDER
from dnamamba.errors import InputError, UsageError
from dnamamba.files import atomic_path, sha256, write_text
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.fetch_parts import alone, kept, mirrored, part_path
from dnamamba.pipelines.fetch_tasks import HUB, fetch_task
from dnamamba.pipelines.table import print_table

COLUMNS: Final = ("name", "species", "accession", "size", "checksum", "url")
FOLDER: Final = Path("genomes")
_LISTED: Final = "md5checksums.txt"
_ON_THE_HUB: Final = "sha256 of the hub"
_UNKNOWN: Final = "NA"
_SETS: Final = (
    "; ".join(
        f"{name} stands for {', '.join(source.name for source in sources)}"
        for name, sources in SETS.items()
    )
    + f"; {' and '.join(COLLECTIONS)} for all of theirs"
)


def fetch(
    names: Sequence[str],
    folder: Path | None = None,
    *,
    mirror: str | None = None,
    force: bool = False,
    threads: int = 1,
) -> Iterator[Path]:
    """Bring assemblies and sets of labelled sequences into a folder, one after the other.

    Parameters
    ----------
    names
        Assemblies, accessions or sets of them, as `find_sources` takes them; and sets of labelled
        sequences, as `find_tasks` does.
    folder
        Where assemblies go, as NAME.fa.gz, each with a NAME.fa.gz.json that says what it is; and
        sets as `fetch_task` has it. None puts either where it is looked for, `genomes` or `tasks`.
    mirror
        Base URL in place of the archives' own hosts; the paths behind it are theirs.
    force
        Fetch anew what is there already.
    threads
        How many blocks are compressed at once.

    Yields
    ------
    The file of each, verified: BGZF, which `Genome` opens; of a set, its train and its test side.

    Raises
    ------
    UsageError
        For an unknown name, and for a file that is in the way and did not come from here.
    InputError
        Where what came is truncated, or not what it should be; it is removed.
    DnamambaError
        Where the server does not give the file, or the disk is full; what came is kept.
    """
    tasks = find_tasks([name for name in names if is_task_name(name)])
    for source in find_sources([name for name in names if not is_task_name(name)]):
        path = (folder or FOLDER) / f"{source.name}.fa.gz"
        with alone(path), kept(part_path(path)):
            if force or not _is_done(source, path):
                _fetch_one(source, mirrored(mirror, source.url), path, threads)
        yield path
    for task in tasks:
        yield from fetch_task(task, folder or TASK_FOLDER, mirror=mirror, force=force)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_done(source: Source, path: Path) -> bool:
    """Tell whether the file is there as it was fetched; refuse to write over another one."""
    if not path.exists():
        return False
    try:
        record: dict[str, Any] = json.loads(_record_path(path).read_bytes())
        same = record["accession"] == source.accession and record["sha256"] == sha256(path)
    except (OSError, ValueError, LookupError, TypeError):
        same = False
    if not same:
        raise UsageError(
            f"{path}: exists, and is not as it was fetched; --force replaces it, -o chooses another"
        )
    logger.info("%s: is there, as it was fetched and verified", path)
    return True


def _fetch_one(source: Source, url: str, path: Path, threads: int) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink()
    part = part_path(path)
    md5 = source.md5 or published_md5(url, path.with_name(f"{path.name}.{_LISTED}"))
    download(url, part, size=source.size)
    with atomic_path(path) as temporary:
        try:
            contents = recompress(part, temporary, threads=threads)
            if contents.md5 != md5:
                raise InputError(f"its MD5 is {contents.md5}, and {md5} is wanted")
            compared = check_chromosomes(source, contents.lengths)
        except InputError as error:
            forget(part)
            raise InputError(
                f"{url}: what came is not the assembly ({error}); removed it; run the command "
                f"again, or try another address with --url"
            ) from error
        bases = sum(contents.lengths.values())
        record = {
            "name": source.name,
            "species": source.species,
            "accession": source.accession,
            "url": url,
            "size": part.stat().st_size,
            "md5": md5,
            "md5_from": "catalogue" if source.md5 else _LISTED,
            "contigs": len(contents.lengths),
            "bases": bases,
            "sha256": sha256(temporary),
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": __version__,
        }
        write_text(_record_path(path), json.dumps(record, indent=2) + "\n")
    forget(part)
    logger.info(
        "%s: %s bases in %s contigs; MD5 as %s; %s",
        path,
        f"{bases:,}",
        f"{len(contents.lengths):,}",
        "pinned" if source.md5 else f"in the archive's {_LISTED} (none is pinned)",
        "chromosomes as known" if compared else "lengths of chromosomes are not pinned",
    )


def _check_mirror(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or "//" not in url):
        raise UsageError(f"--url {url}: give an address that begins with https:// or http://")
    return url


@click.command("fetch", epilog=_SETS)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"The folder where they go.  [{FOLDER}, or {TASK_FOLDER}]",
)
@options.force
@click.option(
    "--url",
    metavar="BASE",
    callback=_check_mirror,
    help="A mirror of the archives, in place of their own hosts; paths behind it are theirs.",
)
@options.threads
@options.verbosity
def command(
    names: tuple[str, ...], output: Path | None, force: bool, url: str | None, threads: int
) -> None:
    """Fetch reference genomes, and labelled sequences to fit models to.

    NAME is an assembly, a GenBank accession or a set of them, such as great-apes; or labelled
    sequences, such as genomic-benchmarks/human_enhancers_ensembl, which dnamamba finetune takes by
    the same name. Without NAME, the catalogue is listed. The path of each file is printed. Genomes
    are kept as BGZF. A download that was interrupted goes on with the same command, and what is
    there already is not fetched again. Where the catalogue pins no checksum, the archive's own
    md5checksums.txt is asked, or the hub.
    """
    if not names:
        print_table(COLUMNS, [*map(_row, SOURCES), *map(_task_row, TASKS)])
        return
    for path in fetch(names, output, mirror=url, force=force, threads=threads):
        click.echo(str(path))


def _row(source: Source) -> tuple[str, ...]:
    size = _UNKNOWN if source.size is None else str(source.size)
    checksum = f"md5:{source.md5}" if source.md5 else _LISTED
    return source.name, source.species, source.accession, size, checksum, source.url


def _task_row(task: Task) -> tuple[str, ...]:
    url = f"{HUB}/datasets/{task.repository}"
    return task.name, task.species, task.revision or "main", _UNKNOWN, _ON_THE_HUB, url
