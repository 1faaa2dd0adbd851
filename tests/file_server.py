"""A file on a server on 127.0.0.1, with the faults that real ones have."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `content` at every path; used as `with FileServer(content) as server`.

    Faults, which may change while it runs:
    status      instead of 200
    redirect    the target of a 302, for the path /moved
    ranges      whether it knows Range; conditions: whether it knows If-Range
    sent        bytes of a body after which the connection ends, of the next answer or of `every`
    silent      seconds before an answer
    """

    def __init__(self, content):
        self.content, self.tag, self.modified = content, '"1"', ""
        self.status, self.redirect, self.ranges, self.conditions = 200, "", True, True
        self.sent, self.every, self.silent = None, False, 0.0
        self.requests = []  # the headers of each

    def __enter__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *given):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *raised):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def address(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def answer(self, handler):
        asked = dict(handler.headers)
        self.requests.append(asked)
        time.sleep(self.silent)
        if handler.path == "/moved":
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = self.start(asked)
        if start >= len(self.content):
            handler.send_error(416)
            return
        body, last = self.content[start:], len(self.content) - 1
        handler.send_response(206 if start else 200)
        headers = {"ETag": self.tag, "Last-Modified": self.modified, "Content-Length": len(body)}
        headers["Content-Range"] = f"bytes {start}-{last}/{last + 1}" if start else ""
        for name, value in headers.items():
            if value:
                handler.send_header(name, str(value))
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # a client whose disk is full
            handler.wfile.write(body[: self.sent])
        if not self.every:
            self.sent = None

    def start(self, asked):
        """The first byte that is asked for, where this server takes that into account."""
        same = not self.conditions or asked.get("If-Range") == (self.tag or self.modified)
        if not (self.ranges and same and "Range" in asked):
            return 0
        return int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
