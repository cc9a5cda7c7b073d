"""Which vLLM servers run? One for each model, with its files as they were attested, and another when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from core.errors import BackendError
from core.program.run import unwrapped
from engine.backends.keeper import Keeper
from engine.backends.surroundings import find_vllm
from engine.backends.vllm.client import SILENCE_S
from engine.backends.vllm.health import HEALTH_PERIOD_S, PATIENCE_S
from engine.backends.vllm.server import C, Connect, Serving, VllmServer
from engine.backends.weights import DirectoryWeights


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for a server, in seconds.

    start: how long each model may take to load. restart_delay: before a server that died is replaced; doubled while
    none answers a call. health_period: how often it is asked whether it still answers. unhealthy: after so long without
    an answer it is replaced. silence: of a connection.
    """

    start_s: float = 900.0
    restart_delay_s: float = 0.5
    health_period_s: float = HEALTH_PERIOD_S
    unhealthy_s: float = PATIENCE_S
    silence_s: float = SILENCE_S


class KeptServers(Generic[C]):
    """Servers of our own.

    models: for each id the files of a checkpoint as Hugging Face has them, held for as long as servers run.
    program: the `vllm` executable, of an environment in which our distribution is installed too; None for the image's.
    """

    def __init__(
        self,
        models: Mapping[str, DirectoryWeights],
        connect: Connect[C],
        serving: Serving,
        *,
        program: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._connect = connect
        self._serving = serving
        self._program = program
        self._patience = patience or Patience()
        # One after the other on a GPU: what others take of it meanwhile, vLLM counts as its own.
        on_gpu = serving.device != "cpu"
        self._turn: AbstractAsyncContextManager[object] = asyncio.Lock() if on_gpu else nullcontext()
        delay_s = self._patience.restart_delay_s
        self._keepers = {
            model: Keeper(self._launcher(model, weights), name=f"the vLLM server of {model}", delay_s=delay_s)
            for model, weights in models.items()
        }

    @property
    def ready(self) -> bool:
        servers = [keeper.current for keeper in self._keepers.values()]
        return bool(servers) and all(server is not None and server.healthy for server in servers)

    def server(self, model: str) -> VllmServer[C]:
        """The server of a model. Raises BackendError."""
        keeper = self._keepers.get(model)
        if keeper is None:
            raise BackendError("vLLM does not serve this model")
        if keeper.current is None or not keeper.current.alive:
            raise BackendError("the vLLM server is not running")
        return keeper.current

    async def start(self) -> None:
        """Return once all of them serve. Raises BackendError."""
        try:
            await unwrapped(self._start_servers())
        except BackendError as exc:
            await self.close()
            raise BackendError(f"a vLLM server did not start: {exc}") from exc
        except BaseException:
            await self.close()
            raise

    async def _start_servers(self) -> None:
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers.values():
                group.create_task(keeper.start())

    async def close(self) -> None:
        """End them for good; safe to call twice."""
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers.values():
                group.create_task(keeper.close())

    def _launcher(self, model: str, weights: DirectoryWeights) -> Callable[[], Awaitable[VllmServer[C]]]:
        async def launch() -> VllmServer[C]:
            program = find_vllm(self._program)
            async with self._turn:
                await weights.check()
                return await VllmServer.launch(
                    *(program, model, weights.directory, self._serving, self._connect),
                    timeout_s=self._patience.start_s,
                    idle_timeout_s=self._patience.silence_s,
                    health_period_s=self._patience.health_period_s,
                    patience_s=self._patience.unhealthy_s,
                )

        return launch
