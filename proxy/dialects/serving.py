"""How does the proxy serve jobs? What is kept, who works it off, and the routes of every dialect.

Imported only with --jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Final

from aiohttp import web

from proxy.dialects.desk import Desk, Everybody, PlannedLengths
from proxy.dialects.mount import mounted
from proxy.dialects.notices import bodies
from proxy.dialects.off import Jobs
from proxy.dialects.own import api as own
from proxy.dialects.rates import WINDOW_S, RateLimits, Rates, StoredRates
from proxy.dialects.served import JOBS, ServedJobs
from proxy.jobs.channels import Channelwise
from proxy.jobs.errors import StoreError, VaultError
from proxy.jobs.hearing import AttestedEngine
from proxy.jobs.media import MediaSplitter
from proxy.jobs.model import Capabilities
from proxy.jobs.redaction import Redacting
from proxy.jobs.service import Kept, Upkeep, kept, places_of
from proxy.jobs.sources import Sources, sources
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.database import SystemClock
from proxy.jobs.store.retention import DAY_MS, HOUR_MS, Periods
from proxy.jobs.store.windows import StoredWindows
from proxy.jobs.summaries import AttestedAuthor, Extract, Summaries
from proxy.jobs.telemetry import JobsTelemetry
from proxy.jobs.worker import Means, Pace
from proxy.sender import ProxyParts, Sender, StartError
from proxy.settings import ProxySettings

SPEAKER_MODEL: Final = "speakers"
"""As every engine calls in its statement what tells speakers apart."""

RENEWALS: Final = 3
"""Of a lease, before it would run out."""


def periods_of(settings: ProxySettings) -> Periods:
    days = settings.jobs_keep_results_days
    return replace(
        Periods(),
        audio_ms=round(settings.jobs_keep_audio_h * HOUR_MS),
        results_ms=None if days is None else round(days * DAY_MS),
    )


@asynccontextmanager
async def serving_jobs(settings: ProxySettings, sender: Sender, parts: ProxyParts) -> AsyncIterator[Jobs]:
    """Raises StartError."""
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(kept(places_of(settings, parts.environ)))
        except ModuleNotFoundError as exc:
            raise StartError(f"--jobs-database needs the extra `jobs-postgres`: {exc.name} is not installed") from exc
        except (StoreError, VaultError, ValueError) as exc:
            raise StartError(f"--jobs: {exc}") from exc
        telemetry = JobsTelemetry(sender.telemetry.metrics)
        found = await stack.enter_async_context(sources(settings, opened, telemetry, bodies(opened.jobs)))
        yield _jobs(settings, sender, opened, found, telemetry)


def _jobs(settings: ProxySettings, sender: Sender, opened: Kept, found: Sources, telemetry: JobsTelemetry) -> Jobs:
    engine = AttestedEngine(sender.courier, partial(_tells_speakers, sender), partial(_writes_summaries, sender))
    can_redact = find_spec("presidio_analyzer") is not None
    stitcher = Redacting(Channelwise(PartStitcher()))
    extract = _extract()
    here = Capabilities(summary=extract is not None, cut=isinstance(found.splitter, MediaSplitter), redact=can_redact)
    summaries = Summaries(AttestedAuthor(sender.courier), extract)
    means = Means(opened.blobs, engine, found.splitter, stitcher, found.fetcher, summaries)
    served = ServedJobs(
        opened,
        engine,
        here,
        with_accounts=settings.jobs_accounts,
        takes_links=means.fetcher is not None,
        max_file_bytes=settings.jobs_max_file_bytes,
        has_resolver=settings.jobs_link_resolver is not None,
        plain_webhooks=bool(settings.jobs_allow_network),
    )

    def prepare(app: web.Application) -> None:
        app[JOBS] = served

    upkeep = Upkeep(
        opened,
        means,
        telemetry,
        pace=Pace(
            jobs=settings.jobs_at_once,
            parts=settings.jobs_parts_at_once,
            renew_s=settings.jobs_lease_s / RENEWALS,
            max_fetched_bytes=settings.jobs_max_file_bytes,
        ),
        periods=periods_of(settings),
        lease_ms=round(settings.jobs_lease_s * 1000),
    )
    desk = _desk(settings, sender, opened, served, found)
    return Jobs([*own.routes(), *mounted(desk)], prepare, lambda: [*upkeep.work(), *found.work()])


def _tells_speakers(sender: Sender) -> bool:
    """Whether the statement of every engine names what tells speakers apart."""
    held = sender.engines.held
    return bool(held) and all(
        any(
            model.id == SPEAKER_MODEL
            for component in each.result.statement.config.components
            for model in component.models
        )
        for each in held
    )


def _writes_summaries(sender: Sender) -> bool:
    """Whether the statement of every engine names a model that writes summaries."""
    held = sender.engines.held
    return bool(held) and all(each.result.statement.instruct_model is not None for each in held)


def _extract() -> Extract | None:
    """What takes summaries out of texts; None without the extra `summaries`."""
    try:
        from proxy.jobs.extracts import extract  # noqa: PLC0415
    except ImportError:
        return None
    return extract


def _rates(opened: Kept) -> Rates:
    """One proxy counts for itself, many together."""
    if not opened.database.is_postgres:
        return RateLimits()
    return StoredRates(StoredWindows(opened.database, opened.pepper, WINDOW_S * 1000))


def _desk(settings: ProxySettings, sender: Sender, opened: Kept, served: ServedJobs, found: Sources) -> Desk:
    return Desk(
        opened.jobs,
        opened.uploads,
        opened.accounts if served.with_accounts else Everybody(opened.accounts),
        opened.answers,
        SystemClock(),
        signing_key=opened.pepper.digest("upload urls"),
        can=lambda: served.capabilities,
        takes_links=served.takes_links,
        has_resolver=served.has_resolver,
        plain_webhooks=served.plain_webhooks,
        idle_s=settings.idle_timeout_s,
        deposit_url=settings.jobs_deposit_url,
        max_file_bytes=served.max_file_bytes,
        lengths=PlannedLengths(opened.blobs, found.splitter),
        rates=_rates(opened),
        authorization_is_ours=settings.token is not None and settings.api_key is not None,
        is_ready=lambda: bool(sender.engines.held),
    )
