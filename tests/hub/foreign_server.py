"""A server in front of the loopback Hub that answers differently, yet as HTTP and the API allow."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OWN = {"connection", "content-encoding", "content-length", "date", "server", "transfer-encoding"}
_CACHE = "/api/resolve-cache"


@dataclass
class ForeignServer:
    """What it does to answers, and what it saw.

    Attributes:
        target: URL of the loopback Hub.
        redirect: files are behind a relative redirect (307), and large ones on another host (302).
        pages: every request is answered with a web page.
        seen: path and headers of each request, with names in lower case.
    """

    target: str
    redirect: bool = False
    pages: bool = False
    url: str = ""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def on_other_host(self) -> list[dict[str, str]]:
        """Return the headers of the requests that came to ``localhost``, not ``127.0.0.1``."""
        return [headers for _, headers in self.seen if headers["host"].startswith("localhost")]


@contextmanager
def serving(server: ForeignServer) -> Iterator[ForeignServer]:
    """Run the server on loopback."""

    class Handler(_Handler):
        behavior = server

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    behavior: ForeignServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        server = self.behavior
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(headers)
        server.seen.append((self.path, headers))
        if server.pages:
            self._send(200, {"Content-Type": "text/html"}, b"<html></html>")
        elif server.redirect and "/resolve/" in self.path and not self.path.startswith(_CACHE):
            self._send(307, {"Location": _CACHE + self.path}, b"")
        else:
            self._send(*self._forwarded(headers, body))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def log_message(self, *args: object) -> None: ...

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forwarded(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        passed = {k: v for k, v in headers.items() if k not in {*_OWN, "accept-encoding"}}
        target = http.client.HTTPConnection(urlsplit(self.behavior.target).netloc)
        target.request(self.command, self.path.removeprefix(_CACHE), body or None, passed)
        response = target.getresponse()
        content = response.read()
        answered = {k: v for k, v in response.getheaders() if k.lower() not in {"server", "date"}}
        target.close()
        if self.behavior.redirect and "/_lfs/" in answered.get("location", ""):
            parts = urlsplit(answered["location"])
            port = urlsplit(self.behavior.url).port
            query = f"?{parts.query}" if parts.query else ""
            answered["location"] = f"http://localhost:{port}{parts.path}{query}"
        return response.status, answered, content

    def _send(self, status: int, answered: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        length = next((v for k, v in answered.items() if k.lower() == "content-length"), None)
        for name, value in answered.items():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
