"""The HTTP side of the page: routes, limits, and who may ask; the standard library's server.

No part of a request becomes a path, and the page loads nothing but itself.
"""

from __future__ import annotations

import hashlib
import io
import ipaddress
import json
import logging
import re
import select
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hrpose.web.service import PoseService, RequestError

MAX_BODY = 20_000_000
"""Bytes of an upload."""

MAX_PHOTOS, MAX_VIDEOS = 8, 2
"""Uploads at once: one image in work, the others waiting. One more is answered with 503."""

MAX_CONNECTIONS = 256
RETRY_AFTER = 2
"""Seconds."""

TOO_MANY = (
    f"HTTP/1.1 503 Too many connections\r\nRetry-After: {RETRY_AFTER}\r\nConnection: close\r\n"
    "Content-Type: application/json\r\n\r\n"
    '{"error": "too many connections; try again soon"}'
).encode()
"""Answer to a connection beyond MAX_CONNECTIONS."""

PAGE = Path(__file__).with_name("page.html")


class TimedSocket(io.RawIOBase):
    """Reads a socket until a deadline, however slowly its bytes come."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection, self.deadline = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Errors: TimeoutError"""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class PoseServer(ThreadingHTTPServer):
    """Serves the page and its API; one request a connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # connections that wait to be accepted

    def __init__(
        self, address: tuple[str, int], service: PoseService, seconds: float = 20.0
    ) -> None:
        """address: host and port; port 0: any   seconds: for a client to send a request

        Errors: OSError for an address that cannot be listened at
        """
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.service, self.seconds, self.host = service, seconds, address[0].lower()
        self.page = PAGE.read_bytes()
        self.policy = content_policy(PAGE.read_text(encoding="utf-8"))
        self.photos = threading.BoundedSemaphore(MAX_PHOTOS)
        self.videos = threading.BoundedSemaphore(MAX_VIDEOS)
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, PoseHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.connections.acquire(blocking=False):
            request.settimeout(1)
            request.sendall(TOO_MANY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self.connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server."""

    def server_close(self) -> None:
        super().server_close()
        self.service.close()


def content_policy(page: str) -> str:
    """Content-Security-Policy: this script, this style, this server, and nothing else."""
    hashes = []
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes.append(f"{tag}-src 'sha256-{digest}'")
    return (
        f"default-src 'none'; {'; '.join(hashes)}; img-src blob: data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class PoseHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PoseServer
    protocol_version, default_request_version = "HTTP/1.1", "HTTP/1.0"
    server_version, sys_version = "hrpose", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(TimedSocket(self.connection, self.server.seconds))
        self.command, self.requestline, self.request_version = "", "", "HTTP/1.1"

    def handle(self) -> None:
        self.close_connection = True
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if self.raw_requestline and self.parse_request():
                self.answer()
        except RequestError as error:
            self.send_error(error.status, str(error))
        except TimeoutError:
            self.send_error(408, f"the request took more than {self.server.seconds:g} seconds")
        except ConnectionError:  # the client went away
            return
        except Exception as error:
            reason = f"the network failed: {type(error).__name__}: {error}"
            logging.getLogger(__name__).error(reason)
            self.send_error(500, reason)
        self._linger()

    def answer(self) -> None:
        """Errors: RequestError for a request that is refused"""
        self._check_sender()
        path = self.path.partition("?")[0]
        methods = ROUTES.get(path)
        if methods is None:
            raise RequestError(404, f"there is only {', '.join(ROUTES)} here")
        method = "GET" if self.command == "HEAD" else self.command
        if method not in methods:
            raise RequestError(405, f"{path} takes {', '.join(methods)}")
        methods[method](self)

    def _check_sender(self) -> None:
        """Pages of other sites must not ask: not by a name that they point here, nor by Origin.

        A number as host cannot be such a name.
        """
        host = self.headers.get("Host", "")
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if name not in ("localhost", self.server.host) and not is_address(name):
            raise RequestError(403, "the Host is not this server's: open it by number or localhost")
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise RequestError(403, "the Origin is another site's; only the page here may ask")

    def send_page(self) -> None:
        self.send(200, "text/html; charset=utf-8", self.server.page)

    def send_health(self) -> None:
        self.send_json(200, {"status": "ok", **self.server.service.describe()})

    def send_poses(self) -> None:
        find = self.server.service.find_poses
        self.send_json(200, self._serve_upload(find, self.server.photos))

    def send_video(self) -> None:
        draw = self.server.service.draw_video
        self.send(200, "video/webm", self._serve_upload(draw, self.server.videos))

    def _serve_upload(
        self, serve: Callable[[bytes, Callable[[], bool]], Any], places: threading.Semaphore
    ) -> Any:
        """What `serve` makes of the body, if there is a place left.   Errors: RequestError"""
        length = self._body_length()
        if not places.acquire(blocking=False):
            raise RequestError(503, "as many uploads as are taken are in work; try again soon")
        try:
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError
            return serve(body, self._is_connected)
        finally:
            places.release()

    def _body_length(self) -> int:
        length = self.headers.get("Content-Length")
        if length is None:
            raise RequestError(411, "the request has no Content-Length; send the bytes of a file")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise RequestError(400, "Content-Length is no number")
        if int(length) == 0:
            raise RequestError(400, "the body is empty; send the bytes of a file")
        if int(length) > MAX_BODY:
            raise RequestError(413, f"the body has {length} bytes; at most {MAX_BODY} are taken")
        return int(length)

    def _is_connected(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Any refusal: a sentence as JSON."""
        self.send_json(code, {"error": message or self.responses[code][0]})

    def send_json(self, status: int, content: dict[str, Any]) -> None:
        self.send(status, "application/json", json.dumps(content, allow_nan=False).encode())

    def send(self, status: int, kind: str, content: bytes) -> None:
        path = getattr(self, "path", "").partition("?")[0]
        headers = {
            "Content-Type": kind,
            "Content-Length": f"{len(content)}",
            "Connection": "close",
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            **({"Allow": ", ".join(ROUTES[path])} if status == 405 else {}),
            **({"Retry-After": f"{RETRY_AFTER}"} if status == 503 else {}),
        }
        self.connection.settimeout(self.server.seconds)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except TimeoutError as error:  # another answer would follow in the midst of this one
            raise ConnectionAbortedError("the client does not read its answer") from error

    def _linger(self) -> None:
        """Read what the client still sends: if it is not read, it may not get the answer."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.rfile.raw.deadline = time.monotonic() + min(5, self.server.seconds)  # type: ignore
            while self.rfile.read1(65536):  # type: ignore[attr-defined]
                pass
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


ROUTES: dict[str, dict[str, Callable[[PoseHandler], None]]] = {
    "/": {"GET": PoseHandler.send_page},
    "/api/health": {"GET": PoseHandler.send_health},
    "/api/poses": {"POST": PoseHandler.send_poses},
    "/api/video": {"POST": PoseHandler.send_video},
}
"""Path -> method -> answer"""
