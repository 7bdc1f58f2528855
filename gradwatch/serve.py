"""The page of a recorded run over HTTP, for as long as somebody looks at it.

Only this machine can reach it unless it is told otherwise, and then only who knows the
token. It answers GET with two things, the page and its data; it reads the record and
writes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import secrets
import socket
import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from gradwatch.errors import GradWatchError, ReportError
from gradwatch.page import page, page_data, script_json
from gradwatch.runlog import read_run

#: Words for this machine that a browser may send as `Host`.
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class PageServer(ThreadingHTTPServer):
    """Serves the page of one recorded run.

    Args:
        folder: The run's folder, or one of runs, of which the newest is shown.
        host: Address to listen on.
        port: Port; 0 for a free one.
        token: What must be in the address; None on this machine alone, else one is
            drawn.

    Raises:
        ReportError: If the run cannot be read or the address is taken.
    """

    daemon_threads = True

    def __init__(
        self, folder: Path, host: str, port: int, token: str | None = None
    ) -> None:
        self.folder = folder
        self.local = is_local(host)
        self.token = token or (None if self.local else secrets.token_urlsafe(16))
        self._lock = threading.Lock()
        self._known: tuple[tuple[object, ...], bytes, str] | None = None
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.data()  # a folder that is no run is refused before anybody looks
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ReportError(
                f"`host` (={host!r}) and `port` (={port}) cannot be listened on: "
                f"{error.strerror or error}; choose another port, or 0 for a free one, "
                "and an address of this machine."
            ) from None

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = str(self.server_address[0]), self.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        query = f"?token={quote(self.token)}" if self.token else ""
        return f"http://{shown}:{port}/{query}"

    def data(self) -> tuple[bytes, str]:
        """Return the JSON of the page and its tag; read anew when the record grew."""
        with self._lock:
            state = _state(self.folder)
            if self._known is None or self._known[0] != state:
                run = read_run(self.folder)
                data = {**page_data(run.report), "finished": run.finished, "live": True}
                data.pop("written")  # the same record has the same tag
                text = script_json(data | {"written": _newest(state)}).encode()
                self._known = state, text, f'"{hashlib.sha256(text).hexdigest()[:32]}"'
            return self._known[1], self._known[2]

    def page(self) -> bytes:
        """Return the page, which asks for newer data by itself."""
        return page(read_run(self.folder).report, live=True).encode()

    def may_read(self, host: str, tokens: Iterable[str]) -> bool:
        """Whether a request is from somebody who may see the run.

        Args:
            host: Its `Host`: a page of another site that was pointed at this machine
                would send its own.
            tokens: The tokens in its address.

        Returns:
            With a token, whether one of them is it; else whether `Host` is local.
        """
        if self.token is not None:
            known = self.token.encode()  # as strings they would have to be ASCII
            return any(
                hmac.compare_digest(one.encode("utf-8", "replace"), known)
                for one in tokens
            )
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return name.lower() in _LOCAL


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "gradwatch"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page or its data."""
        address = urlsplit(self.path)
        tokens = parse_qs(address.query).get("token", [])
        if not self.server.may_read(self.headers.get("Host", ""), tokens):
            self._send(HTTPStatus.FORBIDDEN, b"The address lacks the token.\n")
            return
        try:
            if address.path == "/":
                self._send(HTTPStatus.OK, self.server.page(), "text/html")
            elif address.path == "/data":
                text, tag = self.server.data()
                if self.headers.get("If-None-Match") == tag:
                    self._send(HTTPStatus.NOT_MODIFIED, b"", tag=tag)
                else:
                    self._send(HTTPStatus.OK, text, "application/json", tag)
            else:
                self._send(HTTPStatus.NOT_FOUND, b"There is only the page.\n")
        except GradWatchError as error:  # the record is being replaced, say
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str = "text/plain",
        tag: str | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Frame-Options", "DENY")
        if tag is not None:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _state(folder: Path) -> tuple[object, ...]:
    """Return what changes when a record grows."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    state = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # replaced at this moment
            if file.is_file():
                stat = file.stat()
                state.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(state)


def _newest(state: tuple[object, ...]) -> str:
    times = [one[2] for one in state if isinstance(one, tuple)]
    if not times:
        return ""
    newest = datetime.fromtimestamp(max(times) / 1e9, timezone.utc)
    return newest.isoformat(timespec="seconds")
