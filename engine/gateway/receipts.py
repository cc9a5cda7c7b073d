"""What does a receipt cover of an exchange, or of a live session? What came sealed, and what goes before itself."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

from attestation.receipt import RECEIPT_HEADER, LiveReceipt, Receipt, ReceiptKey
from engine.gateway.exchange import Answer, Head
from engine.gateway.live import Heard

FIELD_FILLER = "padding"
"""The trailer that fills the chunk before the receipt, so that its length does not tell the answer's."""


def asks(head: Head) -> bool:
    """Whether a receipt is asked for."""
    return head.headers.get(RECEIPT_HEADER) == "1"


class Coverage:
    """One request and its answer. clock: Unix seconds."""

    def __init__(self, key: ReceiptKey, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock
        self._waiting: list[bytes] | None = []  # what came before the head said whether a receipt is wanted
        self._request = hashlib.sha256()
        self._answer = hashlib.sha256()
        self.wanted = False

    def received(self, data: bytes) -> None:
        """Some bytes of the sealed request."""
        if self._waiting is not None:
            self._waiting.append(data)
        elif self.wanted:
            self._request.update(data)

    def decide(self, head: Head) -> None:
        """The head has opened."""
        waiting, self._waiting = self._waiting or [], None
        self.wanted = asks(head)
        for data in waiting if self.wanted else ():
            self._request.update(data)

    def sent(self, data: bytes) -> None:
        """Some bytes of the sealed answer, before the chunk of the receipt."""
        self._answer.update(data)

    def receipt(self, answer: Answer) -> str:
        """The receipt, once all that it covers was sent."""
        done = answer.processed() if answer.processed else None
        return self._key.sign(
            Receipt(
                version=1,
                request_sha256=self._request.hexdigest(),
                answer_sha256=self._answer.hexdigest(),
                status=answer.status,
                model=done.model if done else None,
                audio_seconds=math.ceil(done.audio_s) if done else 0,
                replayed=("idempotent-replay", "true") in answer.headers,
                issued_at=int(self._clock()),
            )
        )


class LiveCoverage:
    """One live session. clock: Unix seconds."""

    def __init__(self, key: ReceiptKey, clock: Callable[[], float]) -> None:
        self._key = key
        self._clock = clock
        self._up, self._frames_up = hashlib.sha256(), 0
        self._down, self._frames_down = hashlib.sha256(), 0
        self._closed = False

    def received(self, message: bytes) -> None:
        """A message that has opened."""
        if not self._closed:
            self._up.update(message)
            self._frames_up += 1

    def close(self) -> None:
        """What comes from now on is not heard any more."""
        self._closed = True

    def sent(self, message: bytes) -> None:
        """A message that goes before the one in which the receipt begins."""
        self._down.update(message)
        self._frames_down += 1

    def receipt(self, code: int, heard: Heard) -> str:
        """The receipt, once all that it covers was sent. code: with which the session ends."""
        return self._key.sign_live(
            LiveReceipt(
                version=1,
                frames_up=self._frames_up,
                up_sha256=self._up.hexdigest(),
                frames_down=self._frames_down,
                down_sha256=self._down.hexdigest(),
                code=code,
                model=heard.model,
                audio_seconds=math.ceil(heard.audio_s),
                issued_at=int(self._clock()),
            )
        )
