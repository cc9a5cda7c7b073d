"""The servers that `benchmarks.overhead` and `benchmarks.compare` measure, each in a process of its own.

`engine` is the whole engine with null speech. `direct` is the engine's inner application behind plain HTTP: the
baseline, wired here and only here, for the shipped engine has no way to serve a request outside the envelope. Each
prints its port on standard output and serves until it is told to stop.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from benchmarks.null_speech import NullDecoder, NullTranscriber
from core.program.http.listener import Address, listening
from core.program.logs import LogFormat, LogLevel, configure_logging
from core.program.memory import keep_freed_memory
from core.program.run import until_stopped
from engine.api import SpeechApplication
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from engine.gateway.exchange import Head
from engine.gateway.outer import outer_error
from engine.settings import MAX_REQUEST_BYTES, EngineSettings


async def main(kind: str, hold_until: int = 0, max_requests: int = 256) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights").write_bytes(b"none")  # noqa: ASYNC240 - before anything else runs
        settings = EngineSettings(
            listen="127.0.0.1:0",
            status_listen="127.0.0.1:0",
            model=(f"null={directory}",),
            insecure_evidence=True,
            max_requests=max_requests,
            max_upload_bytes=96 * MAX_REQUEST_BYTES,  # the load is one source's, which may not fill all of it
            drain_s=0.0,
        )
        parts = EngineParts(backend=Backend(NullTranscriber()), decoder=NullDecoder(hold_until))
        async with running_engine(settings, parts) as engine:
            if kind == "engine":
                await announced(engine.address)
            else:
                app = _plain_http(engine.application)
                async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
                    await announced(address)


async def announced(address: Address) -> None:
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()
    await until_stopped()


def _plain_http(application: SpeechApplication) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = await application.open(Head(request.method, request.path_qs, headers), source=request.remote or "")
        try:
            async for data in request.content.iter_any():
                exchange.feed(data)
            answer = await exchange.answer()
            if isinstance(answer.body, bytes):
                return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)
            response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
            await response.prepare(request)
            async for event in answer.body:
                await response.write(event)
            return response
        finally:
            exchange.close()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


if __name__ == "__main__":
    configure_logging(LogFormat.AUTO, LogLevel.ERROR)  # on standard error: the port is all that goes to the other
    keep_freed_memory()
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
