"""How does a request of an application in this process get to an engine? One exchange, on the loop that can send.

Whoever asks may be on another thread, and pulls one turn after the other::

    WANTED      the engine takes more: `give` the next piece of the body, no bytes at its end
    Answer      status, headers and a whole body, or None where events follow
    bytes       complete events; `take` lets the next ones come
    END         the answer is over
    CLOSED      the sender was closed in between

An exchange is a task of its own: what was entered in a task must be left in it, and whoever asks may leave at any time.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import structlog

from core.channel.gateway import request_id
from proxy.client.loop_thread import ClosedError, Opened
from proxy.engines.policy_file import PolicyFile
from proxy.engines.report import attestation_report
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed import sse
from proxy.sealed.courier import AppRequest, Delivery
from proxy.sealed.envelope import Headers
from proxy.sender import ProxyParts, Sender, running, sending, warn_of
from proxy.settings import ProxySettings

_log = structlog.get_logger(__name__)

_SERVED: Final = "/v1/"


class Signal(Enum):
    """Turns without content."""

    WANTED = auto()
    END = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an application gets. body: None where events follow."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | None


Turn = Signal | Answer | bytes


class Host:
    """Holds what sends, in one task of one loop, from its first request until it is told to stop."""

    def __init__(self, settings: ProxySettings, file: PolicyFile, parts: ProxyParts) -> None:
        self._settings = settings
        self._file = file
        self._parts = parts
        self._sender: Sender | None = None
        self._stopping = asyncio.Event()
        self._exchanges: set[asyncio.Task[None]] = set()

    async def serve(self, opened: Opened) -> None:
        """Open what sends, tell `opened`, or why that failed, and keep it open until `stop`."""
        try:
            async with (
                sending(self._settings, self._file, self._parts) as sender,
                running(sender.upkeep(self._parts.nap)),
            ):
                warn_of(self._file.policy)
                self._sender = sender
                opened.set_result(None)
                try:
                    await self._stopping.wait()
                finally:
                    self._sender = None
                    await self._end_exchanges()
        except BaseException as exc:
            if opened.done():
                raise
            opened.set_exception(exc)

    def stop(self) -> None:
        """Cancel what is under way and close; on the loop."""
        self._stopping.set()

    async def _end_exchanges(self) -> None:
        """Before their connections close, so that each ends as cancelled and not in an error."""
        for task in self._exchanges:
            task.cancel()
        if self._exchanges:
            await asyncio.wait(self._exchanges)

    async def begin(self, method: str, path: str, headers: Headers, content_length: int | None) -> Exchange:
        """Begin to carry a request. Raises ClosedError when this is closed."""
        if self._sender is None:
            raise ClosedError
        exchange = Exchange(self._sender, self._settings.overall_timeout_s, content_length)
        request = AppRequest(
            request_id=request_id(next(iter(headers.getall("x-request-id", ())), None), secrets.token_bytes(16)),
            method=method,
            path=path,
            headers=headers,
            content_length=content_length,
            read=exchange.read,
        )
        # Not a TaskGroup: an exchange that fails tells its own application, and nobody else.
        task = asyncio.create_task(exchange.run(request))  # noqa: TID251
        exchange.task = task
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        return exchange

    async def report(self) -> dict[str, Any]:
        """What the proxy says at `/attestation`. Raises ClosedError when this is closed."""
        if self._sender is None:
            raise ClosedError
        return attestation_report(self._sender.engines, draining=False)


class Exchange:
    """One request and its answer. task: what carries it."""

    task: asyncio.Task[None]

    def __init__(self, sender: Sender, overall_timeout_s: float, content_length: int | None) -> None:
        self._sender = sender
        self._overall_timeout_s = overall_timeout_s
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._answered = False
        self._content_length = content_length
        self._received_bytes = 0

    async def turn(self) -> Turn:
        """What comes next; there is no other after END and CLOSED, and after an Answer that is whole."""
        return await self._turns.get()

    def give(self, piece: bytes) -> None:
        """Answer WANTED."""
        self._pieces.put_nowait(piece)

    def take(self) -> None:
        """The events of the last turn have been taken."""
        self._room.release()

    async def leave(self) -> None:
        """Whoever asked has gone: cancel what is left of it. Returns when that has ended."""
        self.task.cancel()
        await asyncio.wait({self.task})

    async def read(self) -> bytes:
        """The next piece of the body. Raises ProxyError when it is not as long as it should be."""
        self._turns.put_nowait(Signal.WANTED)
        piece = await self._pieces.get()
        self._received_bytes += len(piece)
        if not piece and self._content_length not in (None, self._received_bytes):
            raise ProxyError(ErrorCode.INVALID_REQUEST)
        return piece

    async def run(self, request: AppRequest) -> None:
        """Carry the request; whatever comes of it becomes turns."""
        try:
            async with asyncio.timeout(self._overall_timeout_s):
                await self._carry(request)
        except TimeoutError:
            self._fail(ProxyError(ErrorCode.TIMEOUT), request)
        except ProxyError as exc:
            self._fail(exc, request)
        except asyncio.CancelledError:
            self._turns.put_nowait(Signal.CLOSED)
            raise
        except Exception as exc:  # noqa: BLE001 - the last frame that can still answer; its message may quote the request
            _log.error("internal_error", error=type(exc).__name__)
            self._fail(ProxyError(ErrorCode.INTERNAL_ERROR), request)
        self._turns.put_nowait(Signal.END)

    async def _carry(self, request: AppRequest) -> None:
        if not request.path.startswith(_SERVED):
            raise ProxyError(ErrorCode.NOT_FOUND)
        courier = self._sender.courier
        lease = await courier.accept(request)
        async with courier.carrying(lease, request) as delivery:
            if isinstance(delivery.body, bytes):
                self._answer(delivery, request, delivery.body)
                return
            self._answer(delivery, request, None)
            async for events in delivery.body:
                await self._room.acquire()
                self._turns.put_nowait(events)

    def _answer(self, delivery: Delivery, request: AppRequest, body: bytes | None) -> None:
        headers = list(delivery.headers)
        if body is None:
            headers.append(("cache-control", "no-store"))
        if not any(name == "x-request-id" for name, _ in headers):
            headers.append(("x-request-id", request.request_id))
        self._answered = True
        self._turns.put_nowait(Answer(delivery.status, headers, body))

    def _fail(self, error: ProxyError, request: AppRequest) -> None:
        """End in `error`: as the answer, or as the last event of one that has begun."""
        _log.info("refused", code=error.code.value)
        if self._answered:
            self._turns.put_nowait(sse.error_event(error))
            return
        headers = [*error.headers().items(), ("x-request-id", request.request_id)]
        self._turns.put_nowait(Answer(error.row.status, headers, error.body()))
