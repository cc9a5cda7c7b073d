"""Two stand-ins for vLLM: its HTTP routes in the test's own process, and a program that starts like it and says yes.

The program reads what to do from `behaviour.json` in the directory that the checkpoint's `place` names, because nothing
of a test's environment may reach it, and writes what it was given to `seen.json` there.
"""

from __future__ import annotations

import asyncio
import json
import os
import socketserver
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

Form = dict[str, str | bytes]


@dataclass(slots=True)
class FakeVllm:
    """Answers like vLLM's API server. answer: what `verbose_json` and `json` requests get, by their fields.

    events: what a streamed request gets. cancelled: how many requests were hung up on while they were `held`.
    greeting: what the first request gets, with which an engine asks whether our plugin is there; it is in no list.
    greeted: whether that request has come.
    written: the content that a chat is answered with, by its body; finish: why it ended. A token is a word.
    bodies: of chats, but for the greeting, and what was counted.
    """

    answer: Callable[[Form], Any] = lambda _: {"text": " hello", "segments": []}
    events: list[bytes] = field(default_factory=list)
    status: int = 200
    health: int = 200
    hold: bool = False
    hold_stream: bool = False
    metrics: str = ""
    models: list[str] = field(default_factory=lambda: ["served"])
    forms: list[Form] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    held: int = 0
    cancelled: int = 0
    greeting: Any = field(default_factory=lambda: {"segments": [{"text": "<|en|>", "start": 0.0, "end": 18.0}]})
    greeted: bool = False
    written: Callable[[dict[str, Any]], str | None] = lambda _: '{"summary":"hm","topics":["hm"]}'
    finish: str = "stop"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    counted: list[dict[str, Any]] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self, socket: Path) -> AsyncIterator[None]:
        """Serve on a Unix socket."""
        app = web.Application(client_max_size=2 << 20)
        app.router.add_post("/v1/audio/transcriptions", self._take)
        app.router.add_post("/v1/audio/translations", self._take)
        app.router.add_post("/v1/chat/completions", self._write)
        app.router.add_post("/tokenize", self._count)
        app.router.add_get("/{tail:.*}", self._tell)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            yield
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        form = await self._read(request)
        if not self.greeted:
            self.greeted = True
            return web.json_response(self.greeting)
        self.forms.append(form)
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if self.hold:
            await self._wait()
        if self.status != 200:
            return web.json_response({"error": {"message": "secret words"}}, status=self.status)
        return await self._stream(request) if "stream" in form else web.json_response(self.answer(form))

    async def _write(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.hold:
            await self._wait()
        if self.status != 200:
            return web.json_response({"error": {"message": "secret words"}}, status=self.status)
        return web.json_response(chat(self.written(body), self.finish))

    async def _count(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.counted.append(body)
        return web.json_response({"count": len(str(body["messages"]).split()), "tokens": []})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for data in self.events:
            await response.write(data)
        if self.hold_stream:
            await self._wait()
        return response

    async def _wait(self) -> None:
        self.held += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _tell(self, request: web.Request) -> web.Response:
        if request.path == "/metrics":
            return web.Response(text=self.metrics)
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": name} for name in self.models]})
        return web.Response(status=self.health)

    @staticmethod
    async def _read(request: web.Request) -> Form:
        form: Form = {}
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            form[part.name or ""] = bytes(await part.read()) if part.name == "file" else await part.text()
        return form


def chat(content: str | None, finish: str = "stop") -> dict[str, Any]:
    """An answer to a chat, as vLLM writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


def event(**fields: Any) -> bytes:
    """One event of a stream, as vLLM writes it."""
    return f"data: {json.dumps({'object': 'transcription.chunk', 'choices': [], **fields})}\n\n".encode()


def delta(text: str, **choice: Any) -> bytes:
    return event(choices=[{"delta": {"content": text}, **choice}])


DONE = b"data: [DONE]\n\n"


def write_program(path: Path) -> Path:
    """Make an executable that behaves as `main` says."""
    path.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable} -B
            import importlib.util
            spec = importlib.util.spec_from_file_location("fake_vllm", {__file__!r})
            module = importlib.util.module_from_spec(spec)
            import sys
            sys.modules["fake_vllm"] = module
            spec.loader.exec_module(module)
            module.main()
            """)
    )
    path.chmod(0o755)
    return path


def place() -> Path:
    """Where a test tells us what to do: the checkpoint itself is a copy, out of its reach."""
    return Path((Path(sys.argv[2]) / "place").read_text())


def main() -> None:
    """Serve `/health` on the socket asked for."""
    checkpoint = place()
    behaviour = json.loads((checkpoint / "behaviour.json").read_text())
    sys.stderr.write(behaviour.get("prints", ""))
    limits = Path("/proc/self/limits").read_text() if Path("/proc/self/limits").exists() else ""
    loaded = {path.name: path.read_text() for path in Path(sys.argv[2]).iterdir()}
    seen = {"arguments": sys.argv[1:], "environment": dict(os.environ), "limits": limits, "pid": os.getpid()}
    seen["loaded"] = loaded
    written = checkpoint / "seen.json.new"
    written.write_text(json.dumps(seen))
    written.rename(checkpoint / "seen.json")  # whoever waits for it finds it whole, even if we are killed meanwhile
    if behaviour.get("ends"):
        sys.exit(3)
    if behaviour.get("deaf"):
        time.sleep(3600)
    [socket] = [argument.removeprefix("--uds=") for argument in sys.argv if argument.startswith("--uds=")]
    # Like vLLM's engine process: it holds the output open, and hears of no polite request to end.
    if behaviour.get("child") and os.fork() == 0:
        (checkpoint / "child.pid").write_text(str(os.getpid()))
        time.sleep(3600)
    socketserver.ThreadingUnixStreamServer(socket, Handler).serve_forever()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Say how it is; hang, as vLLM may while its process lives on, for as long as a file `hangs` is there."""
        checkpoint = place()
        if (checkpoint / "hangs").exists():
            time.sleep(3600)
        ill = self.path != "/health" or (checkpoint / "ill").exists()
        self.send_response(503 if ill else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    greeted = False

    def do_POST(self) -> None:
        """Have our plugin, and die in the middle of a request, when a clip arrives; write what any chat is answered."""
        if self.path in ("/tokenize", "/v1/chat/completions"):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({"count": 9} if self.path == "/tokenize" else chat('{"summary":"hm","topics":["hm"]}'))
            return
        if Handler.greeted:
            os._exit(9)
        Handler.greeted = True
        self.rfile.read(int(self.headers["Content-Length"]))
        stock = json.loads((place() / "behaviour.json").read_text()).get("stock")
        name = " hm" if stock else "<|en|>"
        self._answer({"segments": [{"text": name, "start": 0.0, "end": 18.0}]})

    def _answer(self, value: Any) -> None:
        answer = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Nothing."""
