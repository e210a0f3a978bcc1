"""The place in Gradio's queue of the request that is being answered."""

from dataclasses import dataclass

from gradio.context import LocalContext
from gradio.queueing import Event

from limits.addresses import address_of


@dataclass(frozen=True)
class Place:
    """The place of the request that is being answered.

    Attributes:
        event: Gradio's; None outside the queue, where a caller always waits.
    """

    event: Event | None = None

    @staticmethod
    def current() -> "Place":
        """Return the place of the request that this thread answers."""
        blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        if blocks is None or event_id is None:
            return Place()
        return Place(blocks._queue.event_ids_to_events.get(event_id))

    @property
    def address(self) -> str:
        """Of the visitor."""
        return address_of(self.event.request.scope) if self.event else ""

    def wanted(self) -> bool:
        """Whether the visitor still waits for the answer."""
        return self.event is None or self.event.alive
