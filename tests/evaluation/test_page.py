import base64
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dnamamba.errors import InputError
from dnamamba.evaluation.contest import Row
from dnamamba.evaluation.page import write_page

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
VOID = {"meta", "img"}


def row(context: int, name: str, gain: float = math.nan, bounds: float = 0.04) -> Row:
    ends = gain - bounds, gain + bounds
    return Row(context, 1, name, 1200, 30, 0.5, 0.45, 0.55, 0.49, 1.25, 0.031, gain, *ends)


TABLE = [
    row(1024, "mamba"), row(1024, "k-mers", 0.1),
    row(4096, "mamba"), row(4096, "k-mers", -0.02),
]  # fmt: skip


class Page(HTMLParser):
    """Elements in order, each with its attributes and text; tags must be closed as opened."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = tag, dict(attrs), []
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self.open:
            texts.append(data)

    def texts(self, tag: str, **wanted: str) -> list[str]:
        return [
            "".join(texts)
            for name, attrs, texts in self.elements
            if name == tag and wanted.items() <= attrs.items()
        ]

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attrs[name] for found, attrs, _ in self.elements if found == tag]


def written(folder: Path, **changes: object) -> Page:
    given = {
        "title": "Apes",
        "verdict": "mamba beats k-mers",
        "facts": {"Seed": "0"},
        "table": TABLE,
        "images": {},
        "notes": ["Intervals resample loci."],
        "files": ["results.tsv"],
    }
    write_page(folder / "report.html", **(given | changes))
    return Page(folder / "report.html")


def test_the_verdict_is_the_first_line_below_the_title(tmp_path: Path) -> None:
    page = written(tmp_path)
    tags = [tag for tag, _, _ in page.elements]
    assert tags[tags.index("body") + 1 : tags.index("body") + 3] == ["h1", "p"]
    assert (page.texts("title"), page.texts("h1")) == (["Apes"], ["Apes"])
    assert page.texts("p") == ["mamba beats k-mers"]
    assert page.attributes("html", "lang") == ["en"]


def test_a_row_for_each_and_a_body_for_each_context(tmp_path: Path) -> None:
    page = written(tmp_path, facts={})
    groups = page.texts("th", scope="rowgroup", rowspan="2")
    assert groups == ["1,024 bases", "4,096 bases"]
    assert page.texts("th", scope="row") == ["mamba", "k-mers"] * 2
    columns = page.texts("th", scope="col")
    assert len(columns) * 4 == len(page.texts("td")) + 4 * 2
    cells = page.texts("td")
    assert cells[:7] == ["1,200", "30", "50.0 (45.0 to 55.0)", "0.490", "1.250", "3.1", "-"]
    assert cells[13] == "10.0 (6.0 to 14.0)"
    assert cells[27] == "-2.0 (-6.0 to 2.0)"


def test_a_figure_without_interval_stands_alone(tmp_path: Path) -> None:
    page = written(tmp_path, table=[row(1024, "mamba"), row(1024, "k-mers", 0.1, math.nan)])
    assert page.texts("td")[13] == "10.0"
    assert "nan" not in (tmp_path / "report.html").read_text()


def test_images_are_inside_and_nothing_else_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PIXEL)
    page = written(tmp_path, images={"Accuracy by context": tmp_path / "a.png"})
    (tmp_path / "a.png").unlink()
    (source,) = page.attributes("img", "src")
    assert source is not None
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PIXEL
    assert page.attributes("img", "alt") == ["Accuracy by context"]
    assert page.texts("figcaption") == ["Accuracy by context"]
    assert not {"script", "link", "iframe"} & {tag for tag, _, _ in page.elements}
    assert "dnamamba[plot]" not in "".join(page.texts("li"))
    assert "http" not in (tmp_path / "report.html").read_text()


def test_without_images_a_note_says_how_to_get_them(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "pip install 'dnamamba[plot]'" in page.texts("li")[1]
    assert "Plots" not in page.texts("h2")


def test_all_text_is_escaped(tmp_path: Path) -> None:
    evil = "<b>\"'&amp;"
    (tmp_path / "a.png").write_bytes(PIXEL)
    page = written(
        tmp_path,
        title=evil,
        verdict=evil,
        facts={evil: evil},
        table=[row(1024, evil)],
        images={evil: tmp_path / "a.png"},
        notes=[evil],
        files=[evil + "#?.tsv"],
    )
    assert "b" not in {tag for tag, _, _ in page.elements}
    for tag in ("title", "h1", "p", "figcaption"):
        assert page.texts(tag) == [evil]
    assert page.texts("th", scope="row") == [evil, evil]
    assert page.texts("td")[-1] == evil
    assert page.texts("li") == [evil, evil + "#?.tsv"]
    assert page.attributes("img", "alt") == [evil]
    assert page.attributes("a", "href") == ["%3Cb%3E%22%27%26amp%3B%23%3F.tsv"]


def test_an_image_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        written(tmp_path, images={"Gone": tmp_path / "gone.png"})
    assert not (tmp_path / "report.html").exists()
