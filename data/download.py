"""Files from the web over lines that break: retried, resumed, never spliced from two versions.

What has come lies under the name asked for, with a note beside it of the URL, of what tells the
server's version (its ETag, else its Last-Modified) and of the size. A later call, in another
process too, goes on from there; the server is asked for the rest only if its file is still that
version (RFC 9110, If-Range), and sends all of it otherwise.
"""

import email.message
import json
import re
import ssl
import time
import urllib.request
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError

from dnamamba import __version__
from dnamamba.errors import DnamambaError, InputError
from dnamamba.files import describe_os_error, write_text
from dnamamba.log import logger, progress

FAILURES: Final = 6
"""Failures one after the other, none with a byte more than before, after which it is given up."""
_TIMEOUT: Final = 60.0
_CHUNK: Final = 1 << 20
_LONGEST_PAUSE: Final = 60.0
_PASSING: Final = (408, 425, 429, *range(500, 600))
_CHECKSUMS: Final = "md5checksums.txt"


class _PassingFault(Exception):
    """A fault that may be gone the next time; `pause` is how long the server wants to be left."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to what anyone on the way can change."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: email.message.Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise DnamambaError(f"{req.full_url}: leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


_OPENER: Final = urllib.request.build_opener(_SafeRedirects)


@dataclass(frozen=True)
class _Note:
    """What is known of a file under way: its URL, the server's version of it, its bytes."""

    url: str
    version: str | None
    size: int | None


def _note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path, url: str) -> _Note | None:
    """Read the note of a file under way; None where there is none, or it is of another URL."""
    try:
        note = _Note(**json.loads(_note_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return note if note.url == url and path.exists() else None


def _write_note(path: Path, note: _Note) -> None:
    write_text(_note_path(path), json.dumps(asdict(note), indent=2) + "\n")


def forget(path: Path) -> None:
    """Remove what has come of a file, and the note of it."""
    path.unlink(missing_ok=True)
    _note_path(path).unlink(missing_ok=True)


def download(url: str, path: Path, *, size: int | None = None) -> None:
    """Bring a file, going on with what has come of it before.

    A connection that breaks, a server that does not answer, and answers such as 503 and 429 are
    tried again after a pause that grows; each new byte renews the patience.

    Parameters
    ----------
    url
        http or https.
    path
        Where it goes; a file that is whole already is not asked for again. On an error what has
        come stays, for the next call.
    size
        Bytes that it must have, if known.

    Raises
    ------
    DnamambaError
        For an address that answers 403, 404 or the like, a file of another size, a full disk, or
        when patience is at its end.
    """
    furthest = failures = 0
    with progress(size, path.name, "B") as bar:
        while not _is_whole(path, url):
            try:
                _go_on(url, path, size, bar)
            except _PassingFault as fault:
                come = path.stat().st_size if path.exists() else 0
                failures = 0 if come > furthest else failures + 1
                furthest = max(come, furthest)
                if failures == FAILURES:
                    raise DnamambaError(
                        f"{url}: {fault}, {FAILURES} times running; what has come ({come:,} bytes) "
                        f"is kept: the same command goes on"
                    ) from fault
                pause = min(fault.pause or 2.0**failures, _LONGEST_PAUSE)
                logger.info("%s: %s; trying again in %g s", url, fault, pause)
                time.sleep(pause)


def _is_whole(path: Path, url: str) -> bool:
    note = _read_note(path, url)
    return note is not None and note.size == path.stat().st_size


def _go_on(url: str, path: Path, size: int | None, bar: Any) -> None:
    """Ask for what is missing of a file, once."""
    note = _read_note(path, url)
    have = path.stat().st_size if note and note.version else 0
    headers = {"User-Agent": f"dnamamba/{__version__}"}
    if note and note.version and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note.version}
    with _ask(url, headers, path) as response:
        answer = _Note(url, _version(response), _total(response))
        if size is not None and answer.size not in (None, size):
            raise DnamambaError(
                f"{url}: the server's file has {answer.size:,} bytes, and {size:,} are pinned: it "
                f"is not that file"
            )
        if response.status == 206:
            if not _continues(response, have) or (note and note.size not in (None, answer.size)):
                forget(path)
                raise _PassingFault("an answer that does not fit what has come")
            logger.info("%s: going on after %s bytes", path.name, f"{have:,}")
        elif have:
            logger.info("%s: the server sends all of it again, not the rest", path.name)
        try:
            with path.open("ab" if response.status == 206 else "wb") as out:
                if response.status != 206:
                    _write_note(path, answer)
                bar.total = answer.size
                bar.n = out.tell()
                bar.refresh()
                _copy(response, out, answer.size, bar)
        except OSError as error:
            raise describe_os_error(error, path) from error
    come = path.stat().st_size
    if come != (answer.size or size or come):
        raise _PassingFault("the connection was dropped")
    _write_note(path, _Note(url, answer.version, come))


def _ask(url: str, headers: dict[str, str], path: Path) -> HTTPResponse:
    try:
        response: HTTPResponse = _OPENER.open(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except HTTPError as error:
        error.close()
        said = f"{error.code} {error.reason}"
        if error.code == 416:
            forget(path)
            raise _PassingFault(said) from error
        if error.code in _PASSING:
            wanted = error.headers.get("Retry-After", "")
            raise _PassingFault(said, float(wanted) if wanted.isdecimal() else None) from error
        raise DnamambaError(f"{url}: {said}; try another address with --url") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DnamambaError(f"{url}: its certificate is not valid: {reason}") from error
        raise _PassingFault(str(reason) or type(reason).__name__) from error
    return response


def _version(response: HTTPResponse) -> str | None:
    """Name the server's version of the file by what If-Range takes; a weak ETag will not do."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified") if tag.startswith("W/") else tag


def _total(response: HTTPResponse) -> int | None:
    """Bytes of the whole file, if the server says them."""
    if response.status == 206:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _continues(response: HTTPResponse, have: int) -> bool:
    found = re.match(r"bytes ([0-9]+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == have


def _copy(response: HTTPResponse, out: IO[bytes], total: int | None, bar: Any) -> None:
    while out.tell() != total:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _PassingFault(str(error) or type(error).__name__) from error
        if not chunk:
            return
        out.write(chunk)
        bar.update(len(chunk))


def download_text(url: str, scratch: Path) -> str:
    """Bring a small text, asked for anew each time.

    Parameters
    ----------
    url
        http or https.
    scratch
        A name that may be used meanwhile.

    Raises
    ------
    DnamambaError
        As `download` does.
    """
    forget(scratch)
    try:
        download(url, scratch)
        return scratch.read_text(encoding="utf-8", errors="replace")
    finally:
        forget(scratch)


def published_md5(url: str, scratch: Path) -> str:
    """Look a file's MD5 up in the md5checksums.txt that the archive keeps beside it.

    Parameters
    ----------
    url
        The file.
    scratch
        A name that may be used meanwhile.

    Raises
    ------
    InputError
        Where the list says nothing of the file.
    DnamambaError
        As `download` does.
    """
    folder, _, name = url.rpartition("/")
    listing = f"{folder}/{_CHECKSUMS}"
    text = download_text(listing, scratch)
    for line in text.splitlines():
        digest, _, path = line.partition(" ")
        if path.strip().removeprefix("./") == name and re.fullmatch(r"[0-9a-f]{32}", digest):
            return digest
    raise InputError(f"{listing}: has no MD5 of {name}; try another address with --url")
