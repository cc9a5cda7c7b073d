"""The servers that `benchmarks.overhead` measures, each in a process of its own.

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

from attestation.http import Address, listening
from attestation.program import until_stopped
from benchmarks.null_speech import NullDecoder, NullTranscriber
from engine.app import EngineParts, running_engine
from engine.application import SpeechApplication
from engine.exchange import Head
from engine.gateway import outer_error
from engine.settings import EngineSettings


async def main(kind: str, hold_until: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights").write_bytes(b"none")  # noqa: ASYNC240 - before anything else runs
        settings = EngineSettings(
            listen="127.0.0.1:0",
            status_listen="127.0.0.1:0",
            model=(f"null={directory}",),
            insecure_evidence=True,
            drain_s=0.0,
        )
        parts = EngineParts(transcriber=NullTranscriber(), decoder=NullDecoder(hold_until))
        async with running_engine(settings, parts) as engine:
            if kind == "engine":
                await _announce(engine.address)
            else:
                app = _plain_http(engine.application)
                async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
                    await _announce(address)


async def _announce(address: Address) -> None:
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()
    await until_stopped()


def _plain_http(application: SpeechApplication) -> web.Application:
    async def handle(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = application.open(Head(request.method, request.path_qs, headers))
        try:
            async for data in request.content.iter_any():
                exchange.feed(data)
            answer = await exchange.answer()
            body = answer.body if isinstance(answer.body, bytes) else b"".join([event async for event in answer.body])
        finally:
            exchange.close()
        return web.Response(status=answer.status, headers=dict(answer.headers), body=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
