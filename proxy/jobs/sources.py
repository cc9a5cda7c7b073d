"""What cuts recordings, fetches them, and tells of their jobs? Wired as the settings say."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import structlog

from core.errors import BackendError
from core.media.decode import AudioDecoder
from proxy.jobs.fetch import Limits, LinkFetcher
from proxy.jobs.media import MAX_AUDIO_S, MediaSplitter
from proxy.jobs.outward import LINK_PORTS, Bounds, outward_session
from proxy.jobs.parts import WholeFile
from proxy.jobs.ports import Fetcher, Splitter
from proxy.jobs.resolver import CommandResolver
from proxy.jobs.service import Kept
from proxy.jobs.store.notices import OUTBOX, Notices
from proxy.jobs.webhooks import Bodies, Deliveries, DeliveryObserver, Ways, account_secret
from proxy.settings import ProxySettings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """work: what must run for ever."""

    splitter: Splitter
    fetcher: Fetcher | None
    deliveries: Deliveries

    def work(self) -> list[Coroutine[Any, Any, None]]:
        return [self.deliveries.run()]


@asynccontextmanager
async def sources(
    settings: ProxySettings, kept: Kept, observer: DeliveryObserver, bodies: Mapping[str, Bodies] | None = None
) -> AsyncIterator[Sources]:
    """bodies: what each dialect sends to webhooks, where that is not the default."""
    networks = settings.jobs_allow_network
    async with AsyncExitStack() as stack:
        splitter = await stack.enter_async_context(_splitting(settings, kept))
        links = await stack.enter_async_context(outward_session(Bounds(networks, ports=LINK_PORTS)))
        sealed = await stack.enter_async_context(outward_session(Bounds(networks)))
        plain = await stack.enter_async_context(outward_session(Bounds(networks, public=False)))
        command = settings.jobs_link_resolver
        resolver = CommandResolver(command) if command is not None else None
        fetcher = LinkFetcher(links, limits=Limits(settings.jobs_max_file_bytes), resolver=resolver)
        deliveries = Deliveries(
            kept.outbox,
            kept.jobs,
            ways=Ways(sealed, plain),
            secrets_of=lambda account: [account_secret(kept.pepper, account)],
            clock=_SystemClock(),
            observer=observer,
            bodies=bodies,
            nap=_until_told(kept.database.notices),
        )
        yield Sources(splitter, fetcher if settings.jobs_links else None, deliveries)


@asynccontextmanager
async def _splitting(settings: ProxySettings, kept: Kept) -> AsyncIterator[Splitter]:
    """Where recordings cannot be decoded in a sandbox, none is decoded: an engine takes what is short enough."""
    if not settings.jobs_cut:
        yield WholeFile()
        return
    if sys.platform != "linux" or find_spec("av") is None or find_spec("faster_whisper") is None:
        _log.warning("recordings_not_cut", reason="the extra `media` is not installed, or this is not Linux")
        yield WholeFile()
        return
    decoder = AudioDecoder(max_audio_s=MAX_AUDIO_S)
    try:
        try:
            await decoder.start()
        except BackendError as exc:
            _log.warning("recordings_not_cut", reason=str(exc))
            yield WholeFile()
        else:
            yield MediaSplitter(decoder, kept.blobs, part_s=settings.jobs_part_s)
    finally:
        await decoder.close()


def _until_told(notices: Notices) -> Callable[[float], Awaitable[None]]:
    """Sleeps so long, or until there may be a message to send."""

    async def nap(seconds: float) -> None:
        with notices.waiting(OUTBOX) as event, suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    return nap


class _SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
