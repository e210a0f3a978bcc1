"""Somebody who sends plain HTTP requests to the Space, from an address of their own."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tests.support.running_space import RunningSpace


@dataclass
class Caller:
    """Somebody at an address who sends plain HTTP requests.

    Attributes:
        space: the server.
        address: as the proxy before it would state it.
        streams: that are kept open.
    """

    space: RunningSpace
    address: str
    streams: list[Any] = field(default_factory=list)

    def send(self, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """Send a request and return the open answer."""
        headers = {"X-Forwarded-For": self.address, "Content-Type": kind}
        url = self.space.url + path
        return urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=300)

    def status(self, path: str, body: bytes | None = None, kind: str = "application/json") -> int:
        """Return the status of an answer, without reading it."""
        try:
            with self.send(path, body, kind) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def keep_open(self, path: str) -> int:
        """Begin a stream and leave it open; return the status."""
        try:
            self.streams.append(self.send(path))
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def ask(self, **inputs: Any) -> int:
        """Post to /plan without reading the answer; return the status."""
        return self.status("/gradio_api/call/v2/plan", json.dumps(inputs).encode())

    def join(self, function: int, session: str) -> int:
        """Ask for a place in the page's line without reading the answer; return the status."""
        body = {"fn_index": function, "session_hash": session, "data": [None]}
        return self.status("/gradio_api/queue/join", json.dumps(body).encode())

    def stream(self, **inputs: Any) -> Any:
        """Post to /plan and return the open stream of the answer."""
        with self.send("/gradio_api/call/v2/plan", json.dumps(inputs).encode()) as answer:
            event = json.load(answer)["event_id"]
        return self.send(f"/gradio_api/call/plan/{event}")

    def plan(self, **inputs: Any) -> str:
        """Return the end of the answer of /plan."""
        with self.stream(**inputs) as stream:
            return str(stream.read().decode()).strip().rpartition("event: ")[2]

    def upload(self, name: str, content: bytes) -> int:
        """Upload a file; return the status."""
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--b--\r\n"
        return self.status("/gradio_api/upload", body, "multipart/form-data; boundary=b")
