"""A classifier's report as one HTML file that needs no other: tables, and plots inside it."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dnamamba.evaluation.contest import Row, percent
from dnamamba.files import describe_os_error, write_text

_STYLE: Final = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.verdict { border-left: 4px solid #0072B2; padding-left: .8rem; font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top; }
th[scope=row], .facts td { text-align: left; } th[scope=row] { font-weight: normal; }
thead th { border-bottom: 2px solid #222; vertical-align: bottom; }
tbody { border-bottom: 1px solid #aaa; }
.model th, .model td, th[scope=rowgroup] { font-weight: bold; }
.facts { border-top: 1px solid #aaa; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #555; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; } .wide { overflow: visible; }
  figure, tbody { break-inside: avoid; } h2 { break-after: avoid; }
}
"""
_HEADER: Final = (
    "Windows of",
    "Called by",
    "Windows",
    "Loci",
    "Right, % (95 % interval)",
    "Macro F1",
    "Log loss",
    "Calibration error, %",
    "Gain of the model, points (95 % interval)",
)


def write_page(
    path: Path,
    *,
    title: str,
    verdict: str,
    facts: Mapping[str, str],
    table: Sequence[Row],
    images: Mapping[str, Path],
    notes: Sequence[str],
    files: Sequence[str],
) -> None:
    """Write the report, atomically. All text is escaped.

    Parameters
    ----------
    path
        The HTML file.
    title
        Its title and heading.
    verdict
        The first line below it.
    facts
        Name to what is to be known of the run.
    table
        Of `contest.rows`: the first is the model's.
    images
        Caption to a PNG, which is copied into the page. Without any, a note says how to get them.
    notes
        Sentences that a reader of the figures should know.
    files
        Names of what lies beside the page; linked.

    Raises
    ------
    DnamambaError
        Where a PNG cannot be read, or the folder cannot be written.
    """
    if not images:
        notes = [*notes, "The plots are missing: pip install 'dnamamba[plot]' brings matplotlib."]
    sections = [
        ("Accuracy", _contests(table)),
        ("Plots", "".join(_figure(caption, png) for caption, png in images.items())),
        ("Notes", _list([escape(note) for note in notes])),
        ("The run", _facts(facts)),
        ("Files", _list([f'<a href="{quote(name)}">{escape(name)}</a>' for name in files])),
    ]
    body = "".join(f"<h2>{heading}</h2>\n{content}" for heading, content in sections if content)
    write_text(
        path,
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="verdict">{escape(verdict)}</p>\n'
        f"{body}</body>\n</html>\n",
    )


def _contests(table: Sequence[Row]) -> str:
    """Make a table of a body for each context."""
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEADER)
    bodies = []
    for context, group in groupby(table, key=lambda row: row.context):
        lines = list(group)
        combined = lines[0].combined
        of = f"<br>{combined:,} windows combined" if combined > 1 else ""
        first = f'<th scope="rowgroup" rowspan="{len(lines)}">{context:,} bases{of}</th>'
        texts = []
        for row in lines:
            mark = ' class="model"' if row.name == table[0].name else ""
            name = f'<th scope="row">{escape(row.name)}</th>'
            cells = "".join(f"<td>{cell}</td>" for cell in _cells(row))
            texts.append(f"<tr{mark}>{first}{name}{cells}</tr>\n")
            first = ""
        bodies.append(f"<tbody>\n{''.join(texts)}</tbody>\n")
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n{"".join(bodies)}</table>'
        "</div>\n"
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.windows:,}",
        f"{row.loci:,}",
        _bounded(row.accuracy, row.low, row.high),
        f"{row.macro_f1:.3f}",
        f"{row.log_loss:.3f}",
        percent(row.calibration_error),
        _bounded(row.gain, row.gain_low, row.gain_high),
    )


def _bounded(estimate: float, low: float, high: float) -> str:
    spread = "" if math.isnan(low) else f" ({percent(low)} to {percent(high)})"
    return f"{percent(estimate)}{spread}"


def _figure(caption: str, png: Path) -> str:
    try:
        data = base64.b64encode(png.read_bytes()).decode()
    except OSError as error:
        raise describe_os_error(error, png) from error
    text = escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def _facts(facts: Mapping[str, str]) -> str:
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in facts.items()
    ]
    return f'<table class="facts"><tbody>\n{"".join(lines)}</tbody></table>\n' if lines else ""


def _list(items: Sequence[str]) -> str:
    lines = [f"<li>{item}</li>\n" for item in items]
    return f"<ul>\n{''.join(lines)}</ul>\n" if lines else ""
