import errno
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnamamba.data import download as module
from dnamamba.data.download import FAILURES, download, forget, published_md5
from dnamamba.errors import DnamambaError, InputError
from tests.data.serving import Fault, Server, serving

BODY = random.Random(0).randbytes(40_000)
PATH = "/all/genome.fna.gz"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.files[PATH] = BODY
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    return waited


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "genome.fa.gz.part"


def interrupted(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring half of the file, then stop as with Ctrl-C."""

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    server.faults[PATH] = ["drop"]
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            download(server.url + PATH, part)
    assert part.read_bytes() == BODY[:20_000]
    server.asked.clear()


def test_at_once(server: Server, part: Path, pauses: list[float]) -> None:
    download(server.url + PATH, part, size=len(BODY))
    download(server.url + PATH, part, size=len(BODY))
    assert part.read_bytes() == BODY
    assert (server.ranges(PATH), pauses) == ([None], [])
    forget(part)
    assert list(part.parent.glob("genome*")) == []


def test_dropped_connections_are_resumed(
    server: Server, part: Path, pauses: list[float], messages: list[str]
) -> None:
    server.faults[PATH] = ["drop", "drop", "drop"]
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=20000-", "bytes=30000-", "bytes=35000-"]
    assert pauses == [1, 1, 1]
    assert messages[0] == (f"{server.url + PATH}: the connection was dropped; trying again in 1 s")


def test_another_call_goes_on(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(server, part, monkeypatch)
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY
    assert server.ranges(PATH) == ["bytes=20000-"]


def test_a_file_that_changed_is_not_spliced(
    server: Server, part: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    interrupted(server, part, monkeypatch)
    server.files[PATH] = BODY[::-1]
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY[::-1]
    assert "the server sends all of it again" in messages[-1]


def test_another_address_is_another_file(
    server: Server, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(server, part, monkeypatch)
    server.files["/mirror.fna.gz"] = BODY
    download(server.url + "/mirror.fna.gz", part)
    assert part.read_bytes() == BODY
    assert server.ranges("/mirror.fna.gz") == [None]


@pytest.mark.parametrize("faults", [["drop", "whole"], ["drop", "elsewhere"]])
def test_what_does_not_fit_is_asked_for_anew(
    server: Server, part: Path, faults: list[Fault]
) -> None:
    server.faults[PATH] = faults
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY


def test_without_a_version_nothing_is_resumed(server: Server, part: Path) -> None:
    server.has_versions = False
    server.faults[PATH] = ["drop"]
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY
    assert server.ranges(PATH) == [None, None]


def test_more_than_the_server_has(server: Server, part: Path) -> None:
    download(server.url + PATH, part)
    note = part.with_name(f"{part.name}.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"size": 50_000}))
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=40000-", None]


@pytest.mark.parametrize("note", ["", "[]", '{"url": 1}'])
def test_a_damaged_note_begins_anew(server: Server, part: Path, note: str) -> None:
    part.write_bytes(b"something")
    part.with_name(f"{part.name}.json").write_text(note)
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY


def test_pauses_grow_and_servers_choose_them(
    server: Server, part: Path, pauses: list[float]
) -> None:
    server.faults[PATH] = ["503", "reset", "503", "429"]
    download(server.url + PATH, part)
    assert part.read_bytes() == BODY
    assert pauses == [2, 4, 8, 7]


@pytest.mark.parametrize("fault", ["503", "whole drop"])
def test_patience_ends_where_nothing_new_comes(
    server: Server, part: Path, pauses: list[float], fault: str
) -> None:
    """A server that knows no ranges and always breaks off at the same place too."""
    server.has_versions = False
    server.faults[PATH] = ["drop" if "drop" in fault else "503"] * 20
    with pytest.raises(DnamambaError, match=rf"{FAILURES} times running; .* the same command"):
        download(server.url + PATH, part)
    assert len(server.asked) == FAILURES + ("drop" in fault)


def test_nobody_answers(part: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DnamambaError, match=rf"http://127\.0\.0\.1:{port}/x: .*refused.*6 times"):
        download(f"http://127.0.0.1:{port}/x", part)


def test_not_found(server: Server, part: Path, pauses: list[float]) -> None:
    with pytest.raises(DnamambaError, match=r"^http://.*/nosuch: 404 Not Found; .*--url$"):
        download(f"{server.url}/nosuch", part)
    assert pauses == []


def test_another_size_than_pinned(server: Server, part: Path) -> None:
    server.faults[PATH] = ["cut"]
    with pytest.raises(DnamambaError, match="has 20,000 bytes, and 40,000 are pinned"):
        download(server.url + PATH, part, size=40_000)
    assert not part.exists()


def test_a_pinned_size_finds_an_end_that_nobody_told(server: Server, part: Path) -> None:
    server.faults[PATH] = ["cut without length"]
    download(server.url + PATH, part, size=40_000)
    assert part.read_bytes() == BODY
    assert server.ranges(PATH) == [None, "bytes=20000-"]


def test_a_full_disk_is_one_line_and_keeps_what_came(
    server: Server, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_copy", full)
        with pytest.raises(DnamambaError, match=r"^disk full while writing .*part: free some"):
            download(server.url + PATH, part)
    assert part.exists()


def test_https_is_not_left(part: Path) -> None:
    request = module.urllib.request.Request("https://a.org/x")
    with pytest.raises(DnamambaError, match=r"leads to http://b\.org/x, which is not https"):
        module._SafeRedirects().redirect_request(
            request,
            None,
            302,
            "",
            None,
            "http://b.org/x",  # type: ignore[arg-type]
        )


def test_redirects_are_followed(server: Server, part: Path) -> None:
    server.redirects["/old"] = server.url + PATH
    download(f"{server.url}/old", part)
    assert part.read_bytes() == BODY


def test_published_md5(server: Server, part: Path) -> None:
    server.files["/all/md5checksums.txt"] = (
        b"0123456789abcdef0123456789abcdee  ./genome.fna.gz.md5\n"
        b"0123456789abcdef0123456789abcdef  ./genome.fna.gz\n"
        b"0123456789abcdef0123456789abcde0  ./sub/genome.fna.gz\n"
    )
    server.faults["/all/md5checksums.txt"] = ["drop"]
    part.write_text("what another run has left")
    assert published_md5(server.url + PATH, part) == "0123456789abcdef0123456789abcdef"
    assert list(part.parent.glob("genome*")) == []
    with pytest.raises(InputError, match=r"/all/md5checksums.txt: has no MD5 of other\.gz"):
        published_md5(f"{server.url}/all/other.gz", part)
    with pytest.raises(DnamambaError, match=r"/nosuch/md5checksums.txt: 404"):
        published_md5(f"{server.url}/nosuch/genome.fna.gz", part)
