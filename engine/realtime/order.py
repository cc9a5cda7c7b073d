"""In which order do texts go out? In that of what was said, each whole before the next begins.

Apps put texts one behind the other as they come, and many take the first `completed` for that of the item they sent
first. So what is known of a later item waits until the one before it has had its last event.
"""

from __future__ import annotations

from collections.abc import Callable


class Order:
    """The items that have not had their last event yet. send: takes what may go out."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._held: dict[str, list[bytes]] = {}
        """The first of them is sent at once."""
        self._ended: set[str] = set()

    @property
    def settled(self) -> bool:
        return not self._held

    def begin(self, item_id: str) -> None:
        """Say that an item comes behind all others."""
        self._held[item_id] = []

    def say(self, item_id: str, event: bytes) -> None:
        if next(iter(self._held)) == item_id:
            self._send(event)
        else:
            self._held[item_id].append(event)

    def end(self, item_id: str, event: bytes | None = None) -> None:
        """event: the item's last; None for one that is given up."""
        if event is not None:
            self.say(item_id, event)
        self._ended.add(item_id)
        while self._held and (first := next(iter(self._held))) in self._ended:
            self._ended.remove(first)
            del self._held[first]
            for waiting in next(iter(self._held.values()), []):
                self._send(waiting)
