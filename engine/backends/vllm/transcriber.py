"""A speech backend for GPUs: vLLM as a server of its own, for each model one.

This module holds no model code. vLLM is the one released, with `engine.backends.vllm.inside` installed beside it; it is
started and watched here, or runs already and is attached to, which the statement has to confess: then the engine
cannot say what the server is, nor what it does with what it hears.

Word times and log probabilities of tokens are not to be had of vLLM's routes: `engine.backends.vllm.aligner` finds
them, but for a server that is attached to. A segment's `no_speech_prob` is that of its clip,
and is asked for only where it decides something: of text that the model itself finds likely it is 0.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from core.errors import BackendError
from core.program.http.client import open_session, open_unix_session
from core.transcript.types import Task
from engine.backends.vllm.client import CONNECT_S, SILENCE_S, VllmClient
from engine.backends.vllm.health import HEALTH_PERIOD_S, HealthWatch
from engine.backends.vllm.kept import KeptServers, Patience
from engine.backends.vllm.server import PLUGINS, Serving, VllmServer
from engine.backends.vllm.text_only import LANGUAGES, TextOnlyClient
from engine.backends.weights import DirectoryWeights
from engine.speech.observer import Sample
from engine.speech.transcriber import Capabilities, Component
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta

NAME: Final = "vllm"


class _Vllm:
    """What both kinds have in common: calls, each to the client of its model. Part of `Transcriber`."""

    def _client(self, model: str) -> VllmClient:
        """The client of a server that runs. Raises BackendError."""
        raise NotImplementedError

    async def languages(self, model: str, clip: Clip) -> Mapping[str, float]:
        return await self._client(model).languages(clip)

    async def transcribe(self, model: str, clip: Clip, options: DecodingOptions) -> ClipTranscript:
        return await self._client(model).transcribe(clip, options)

    async def stream(
        self, model: str, clip: Clip, options: DecodingOptions
    ) -> AsyncGenerator[TextDelta | ClipTranscript, None]:
        async with aclosing(self._client(model).stream(clip, options)) as pieces:
            async for piece in pieces:
                yield piece

    async def metrics(self, model: str) -> tuple[Sample, ...]:
        """Those of a server's own metrics that may be published, in windows. Raises BackendError."""
        return await self._client(model).metrics()


class VllmTranscriber(_Vllm):
    """Implements `engine.speech.transcriber.Transcriber` with servers of its own.

    models, program, patience: as of `engine.backends.vllm.kept.KeptServers`.
    """

    sampling: Final = frozenset(
        {"seed", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"}
    )

    def __init__(
        self,
        models: Mapping[str, DirectoryWeights],
        *,
        program: Path | None = None,
        serving: Serving | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._serving = serving or Serving()
        connect = TextOnlyClient if self._serving.text_only else VllmClient
        self._servers = KeptServers[VllmClient](models, connect, self._serving, program=program, patience=patience)

    @property
    def component(self) -> Component:
        return Component(NAME, self._serving.arguments, plugins=PLUGINS)

    @property
    def capabilities(self) -> Capabilities:
        return _capabilities(self._serving.max_num_seqs, self.sampling, text_only=self._serving.text_only)

    @property
    def ready(self) -> bool:
        return self._servers.ready

    def server(self, model: str) -> VllmServer[VllmClient]:
        """The server of a model, for tests that look at its processes. Raises BackendError."""
        return self._servers.server(model)

    async def start(self) -> None:
        await self._servers.start()

    async def close(self) -> None:
        await self._servers.close()

    def _client(self, model: str) -> VllmClient:
        return self.server(model).client


class AttachedVllm(_Vllm):
    """Implements `engine.speech.transcriber.Transcriber` with a vLLM server that runs already.

    Who started it, with which flags, patches and plugins, is unknown here: a policy is right to refuse it.

    model: the id of the one model that is served. uds: its Unix socket, or url: its address on this machine.
    text_only: that its model is of another family than Whisper (`engine.backends.vllm.text_only`).
    slots: how many clips it is given at once; it may have been started for more or fewer.
    start_timeout_s: how long to wait for it to answer.
    """

    def __init__(
        self,
        model: str,
        *,
        uds: Path | None = None,
        url: str | None = None,
        text_only: bool = False,
        slots: int = 256,
        start_timeout_s: float = 60.0,
        health_period_s: float = HEALTH_PERIOD_S,
    ) -> None:
        if (uds is None) == (url is None):
            raise ValueError("a vLLM server is attached to by its socket or by its address")
        if url is not None and not _is_loopback(url):
            raise ValueError("a vLLM server that is attached to has to be on this machine")
        self._model = model
        self._uds = uds
        self._url = url
        self._text_only = text_only
        self._slots = slots
        self._start_timeout_s = start_timeout_s
        self._health_period_s = health_period_s
        self._session: aiohttp.ClientSession | None = None
        self._attached_client: VllmClient | None = None
        self._watch: HealthWatch | None = None

    @property
    def ready(self) -> bool:
        return self._watch is not None and self._watch.healthy

    @property
    def component(self) -> Component:
        """How the server is reached is all that is known of it."""
        return Component(NAME, ("uds",) if self._url is None else ("url",), attached=True)

    @property
    def capabilities(self) -> Capabilities:
        return _capabilities(self._slots, text_only=self._text_only)

    async def start(self) -> None:
        if self._uds is not None:
            self._session = open_unix_session(self._uds, connect_timeout_s=CONNECT_S, idle_timeout_s=SILENCE_S)
        else:
            self._session = open_session(
                tls=None, loopback_only=True, connect_timeout_s=CONNECT_S, idle_timeout_s=SILENCE_S
            )
        base = "http://vllm" if self._url is None else self._url.rstrip("/")
        kind = TextOnlyClient if self._text_only else VllmClient
        client = kind(self._session, self._model, url=base)
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while not await client.healthy():  # noqa: ASYNC110  another process's health is no event of ours
                    await asyncio.sleep(min(self._health_period_s, 1.0))
                served = await client.served_models()
                if served and self._model not in served:
                    client = kind(self._session, served[0], url=base)
                await client.greet()
        except TimeoutError as exc:
            await self.close()
            raise BackendError("the attached vLLM server does not answer") from exc
        except BaseException:
            await self.close()
            raise
        self._attached_client = client
        self._watch = HealthWatch(client, name="the attached vLLM server", period_s=self._health_period_s)

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        if self._session is not None:
            await self._session.close()

    def _client(self, model: str) -> VllmClient:
        if model != self._model:
            raise BackendError("vLLM does not serve this model")
        if self._attached_client is None:
            raise BackendError("no vLLM server is attached")
        return self._attached_client


def _capabilities(slots: int, sampling: frozenset[str] = frozenset(), *, text_only: bool) -> Capabilities:
    if not text_only:
        return Capabilities(slots, sampling)
    return Capabilities(slots, sampling, frozenset({Task.TRANSCRIBE}), LANGUAGES, detects=False)


def _is_loopback(url: str) -> bool:
    """Whether a URL names this machine; the session checks the address itself once more."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"
