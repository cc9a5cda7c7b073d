"""How does a request of an app become its answer, however the app is connected? The steps around the relay.

1. What would be refused later is refused by the head, before the body is asked for (`accept`).
2. The body is kept while it is sent, and the answer is opened (`carrying`).
3. A whole answer is held until its end has authenticated; a stream of events flows event by event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from attestation.receipt import RECEIPT_HEADER
from proxy.engines.lease import Engines, Lease
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed import sse
from proxy.sealed.envelope import Headers, inner_head, released_headers
from proxy.sealed.receipts import Witness
from proxy.sealed.relay import Relay
from proxy.sealed.spool import Allowance, RetainedBody, Source
from proxy.telemetry import SpanName, Telemetry


@dataclass(frozen=True, slots=True)
class AppRequest:
    """A request of an app.

    path: as the app sent it, query included. content_length: None where the app does not say. read: the next piece of
    the body, and no bytes at its end, however often it is asked. keeps_receipt: whoever sends it keeps the receipt that
    it asks for, of a delivery that is whole.
    """

    request_id: str
    method: str
    path: str
    headers: Headers
    content_length: int | None
    read: Source
    keeps_receipt: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the app gets. body: all of it, or complete events as they come; then iterating raises ProxyError."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | AsyncIterator[bytes]
    witness: Witness | None = None


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that is no stream. headers: by their names in lower case. witness: as of a `Delivery`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    witness: Witness | None


class Courier:
    """Carries requests to engines and their answers back. api_key: replaces the Authorization of apps."""

    def __init__(
        self,
        engines: Engines,
        relay: Relay,
        telemetry: Telemetry,
        *,
        allowance: Allowance | None = None,
        api_key: SecretStr | None = None,
    ) -> None:
        self._engines = engines
        self._relay = relay
        self._telemetry = telemetry
        self._api_key = api_key
        self.allowance = allowance or Allowance()

    async def accept(self, request: AppRequest) -> Lease:
        """The lease of an engine that takes such a request. Raises ProxyError."""
        if any(coding.lower() != "identity" for coding in request.headers.getall("content-encoding", ())):
            raise ProxyError(ErrorCode.UNSUPPORTED_CONTENT_ENCODING)
        keeps_receipts = request.keeps_receipt or self._relay.keeps_receipts
        if request.headers.getall(RECEIPT_HEADER, ()) and not keeps_receipts:
            raise ProxyError(ErrorCode.INVALID_REQUEST)  # it would be lost
        with self._telemetry.spans.step(SpanName.LEASE):
            lease = await self._engines.lease()
        limit_bytes = lease.statement.max_request_bytes
        if (request.content_length or 0) > limit_bytes:
            raise ProxyError(ErrorCode.FILE_TOO_LARGE, numbers={"limit_bytes": limit_bytes})
        return lease

    @asynccontextmanager
    async def carrying(self, lease: Lease, request: AppRequest) -> AsyncIterator[Delivery]:
        """Send a request and have its answer while the context is open. Raises ProxyError."""
        replaced = {"x-request-id": request.request_id}
        if self._api_key is not None:
            replaced["authorization"] = f"Bearer {self._api_key.get_secret_value()}"
        head = inner_head(request.method, request.path, request.headers, replaced)
        with RetainedBody(request.read, self.allowance) as body:
            try:
                async with self._relay.answering(lease, head, body, keeps=not request.keeps_receipt) as answer:
                    content = answer.content if isinstance(answer.content, bytes) else _events(answer.content)
                    yield Delivery(answer.status, released_headers(answer.headers), content, answer.witness)
            finally:
                self._telemetry.uploaded(body.received_bytes)

    async def fetch(self, lease: Lease, request: AppRequest) -> WholeAnswer:
        """The answer to a request that asks for no stream. Raises ProxyError, also for one that is a stream."""
        async with self.carrying(lease, request) as delivery:
            if not isinstance(delivery.body, bytes):
                raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
            headers = {name.lower(): value for name, value in delivery.headers}
            return WholeAnswer(delivery.status, headers, delivery.body, delivery.witness)


async def _events(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    stream = sse.EventStream()
    async for data in content:
        if events := stream.feed(data):
            yield events
    if events := stream.finish():
        yield events
