"""A request's body, read to its end even when the answer does not need it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class Intake:
    """Wraps ASGI's ``receive`` and knows whether the body has ended.

    An answer sent while the client still sends makes the server close the connection, and the
    client may see that instead of the answer; so a refusal drains the body first.

    Args:
        receive: as the server gives it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        """Returns the next message."""
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body")
        return message

    async def drain(self) -> None:
        """Reads and drops what is left of the body."""
        while not self._ended:
            await self.receive()
