"""A web server on this machine that has the faults of the real ones."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["drop", "cut", "cut without length", "whole", "503", "429", "reset", "elsewhere"]


class Server(ThreadingHTTPServer):
    """Serves `files` (path to bytes); each request of a file takes the next of its `faults`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.has_versions = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self, path: str) -> list[str | None]:
        return [wanted for asked, wanted in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        if self.path in self.server.redirects:
            self._head(302, {"Location": self.server.redirects[self.path]})
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[self.path]
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else None
        if fault == "reset":
            return
        if fault in ("503", "429"):
            self._head(int(fault), {"Retry-After": "7"} if fault == "429" else {})
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        version = {"ETag": tag} if self.server.has_versions else {}
        if fault == "cut":
            body = body[: len(body) // 2]
        start = 0
        if wanted and fault != "whole" and self.headers["If-Range"] == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self._head(416, {})
                return
            first = start + (fault == "elsewhere")
            span = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self._head(206, version | {"Content-Range": span})
        elif fault == "cut without length":
            self._head(200, version)
        else:
            self._head(200, version | {"Content-Length": str(len(body))})
        rest = body[start:]
        self.wfile.write(
            rest[: len(rest) // 2] if fault in ("drop", "cut without length") else rest
        )

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """Serve until the `with` block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
