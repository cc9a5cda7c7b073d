"""How does a stock `vllm serve` run so that it keeps what it hears to itself?

One process group per model, started from a clean environment, answering on a Unix socket only its owner can reach.
What it prints is read and thrown away, but for the cause of its end, which is told in sentences of ours. Its
temporary files, of which there should be none, would be in memory. It ends with the engine, and leaves no core.

Flags and figures: `vllm serve --help=all`; a clip needs 1500 of the encoder's tokens at once, so that
`max_num_batched_tokens` says how many clips are heard in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import aiohttp

from core.errors import BackendError
from core.program.http.client import open_unix_session
from engine.backends.surroundings import PATIENT, SEARCH_PATH, gpus
from engine.backends.vllm.client import CONNECT_S, SILENCE_S, VllmConnection
from engine.backends.vllm.directories import Directories
from engine.backends.vllm.health import HEALTH_PERIOD_S, PATIENCE_S, HealthWatch
from engine.backends.vllm.inside.entry_points import PLUGIN
from engine.backends.vllm.output import read_causes
from engine.speech.whisper import DECODER_TOKENS

START_PERIOD_S = 0.25
"""How often a server that starts is asked whether it serves."""
CLOSE_S = 10.0
"""How long the API server may take to end its engine process in good order, before both are killed."""

C = TypeVar("C", bound=VllmConnection)
Connect = Callable[[aiohttp.ClientSession, str], C]
"""The client of a model, by that name, over a session with its server."""

PLUGINS = (PLUGIN,)
"""The plugins that vLLM loads, for the statement: `VLLM_PLUGINS` lets no other name in, and where that variable decides
nothing, our own ends the process that has others installed beside it (`engine.backends.vllm.inside.entry_points`)."""

QUIET = {
    # Above INFO: there vLLM names the language of each request, and at DEBUG its prompt.
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_PLUGINS": ",".join(PLUGINS),
    # Likewise for torch, which would import every device backend that is installed.
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    # A clip is 30 s of PCM, less than a megabyte; the header of a crafted one must not claim more.
    "VLLM_MAX_AUDIO_CLIP_FILESIZE_MB": "1",
    "VLLM_MAX_AUDIO_DECODE_DURATION_S": "31",
}
"""The part of vLLM's environment that decides what it tells and to whom; the statement confesses it."""

STRUCTURED = '{"backend":"xgrammar","disable_any_whitespace":true}'
"""One that is named refuses what it does not know of a schema; `auto` would choose request by request."""

GPU_SHARE = 0.9
"""The part of a GPU's memory that all servers together take, if nothing else is said."""


def gpu_share(models: int, left: float = GPU_SHARE) -> float:
    """What each of the servers of several models takes of the one GPU that they share. left: what there is for all."""
    return math.floor(round(100 * left / models, 6)) / 100


@dataclass(frozen=True, slots=True)
class Serving:
    """How vLLM runs each of its models; the terms are vLLM's.

    text_only: of another family than Whisper (`engine.backends.vllm.text_only`), whose length is its own.
    max_model_len: how many tokens are read and written at a time; None for as many as the model can.
    structured: answers can be held to a schema, and have no blanks that it does not ask for.
    dtype: auto keeps a checkpoint's float16 as it is, where bfloat16 would round it.
    max_num_seqs: how many clips are decoded at once; large-v3 keeps 63 GiB for 256 of them, and there is no room for
    twice as many on one GPU. gpu_memory_utilization: the share of a GPU that one server takes, see `gpu_share`.
    kv_cache_gib: memory for clips, on a CPU only. audio_workers: threads that make spectrograms; with them one API
    server a model is enough (no `--api-server-count`), as clips come decoded, and several on one socket are untried.
    """

    device: str = "cuda"
    text_only: bool = False
    max_model_len: int | None = None
    structured: bool = False
    dtype: str = "auto"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 32_768
    max_num_queued_reqs: int = 2_048
    gpu_memory_utilization: float = GPU_SHARE
    kv_cache_gib: int = 1
    audio_workers: int = 8

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags common to all models."""
        return (
            f"--dtype={self.dtype}",
            f"--max-model-len={self._length}",
            f"--max-num-seqs={self.max_num_seqs}",
            f"--max-num-batched-tokens={self.max_num_batched_tokens}",
            f"--max-num-queued-reqs={self.max_num_queued_reqs}",
            # Sampling defaults are ours, not the checkpoint's.
            "--generation-config=vllm",
            # What one recording left behind must neither stay nor be felt by the next.
            "--no-enable-prefix-caching",
            "--mm-processor-cache-gb=0",
            "--disable-uvicorn-access-log",
            "--uvicorn-log-level=warning",
            "--disable-fastapi-docs",
            *((f"--structured-outputs-config={STRUCTURED}",) if self.structured else ()),
            *(
                ("--enforce-eager",)
                if self.device == "cpu"
                else (f"--gpu-memory-utilization={self.gpu_memory_utilization}",)
            ),
        )

    @property
    def _length(self) -> int | str:
        return self.max_model_len or ("auto" if self.text_only else DECODER_TOKENS)

    @property
    def variables(self) -> dict[str, str]:
        """The variables that tune vLLM, beside `QUIET`."""
        workers = {"VLLM_MAX_AUDIO_PREPROCESS_WORKERS": str(self.audio_workers)}
        if self.device != "cpu":
            return workers
        # `--enforce-eager` leaves some small functions to compile, which takes longer than they ever save.
        return workers | {"VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib), "TORCHDYNAMO_DISABLE": "1"}

    @property
    def arguments(self) -> tuple[str, ...]:
        """All of it for the statement; only the paths of checkpoint and socket are left out."""
        return (*self.flags, *(f"{name}={value}" for name, value in (QUIET | self.variables).items()))


class VllmServer(Generic[C]):
    """One `vllm serve`, from its start to its end. Implements `engine.backends.keeper.ModelServer`."""

    def __init__(self, process: Process, directories: Directories, session: aiohttp.ClientSession, client: C) -> None:
        self._process = process
        self._directories = directories
        self._session = session
        # Ends with the process it reads from; `close` awaits it.
        self._reader = asyncio.create_task(read_causes(process))  # noqa: TID251
        self.client = client
        self._watch: HealthWatch | None = None

    @property
    def served(self) -> bool:
        return self.client.served

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def healthy(self) -> bool:
        """Whether it lives and answers; false until it serves."""
        return self.alive and self._watch is not None and self._watch.healthy

    @property
    def pid(self) -> int:
        """The process id of the API server, which is also the process group's."""
        return self._process.pid

    @property
    def directories(self) -> Directories:
        return self._directories

    @classmethod
    async def launch(
        cls,
        program: Path,
        model: str,
        checkpoint: Path,
        serving: Serving,
        connect: Connect[C],
        *,
        timeout_s: float,
        idle_timeout_s: float = SILENCE_S,
        health_period_s: float = HEALTH_PERIOD_S,
        patience_s: float = PATIENCE_S,
    ) -> VllmServer[C]:
        """Start vLLM and return once it serves. Raises BackendError."""
        try:
            directories = Directories.make()
        except OSError as exc:
            raise BackendError("there is no room in memory for a server's files") from exc
        try:
            process = await _spawn(program, model, checkpoint, serving, directories)
        except OSError as exc:
            directories.remove()
            raise BackendError("no process could be started for vLLM") from exc
        except BaseException:
            directories.remove()
            raise
        session = open_unix_session(directories.socket, connect_timeout_s=CONNECT_S, idle_timeout_s=idle_timeout_s)
        server = cls(process, directories, session, connect(session, model))
        try:
            async with asyncio.timeout(timeout_s):
                await server._until_healthy()
                await server.client.greet()
        except TimeoutError as exc:
            await server.close()
            raise BackendError("vLLM did not load its model in time") from exc
        except BaseException:
            await server.close()
            raise
        server._watch = HealthWatch(
            server.client,
            name=f"the vLLM server of {model}",
            period_s=health_period_s,
            patience_s=patience_s,
            give_up=server._kill,
        )
        return server

    async def wait(self) -> None:
        await self._process.wait()

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        await self._session.close()
        await self._end()
        await asyncio.to_thread(self._directories.remove)

    async def _until_healthy(self) -> None:
        while not await self.client.healthy():
            if not self.alive:
                raise BackendError("vLLM ended before it had loaded its model")
            await asyncio.sleep(START_PERIOD_S)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _end(self) -> None:
        """End the whole process group: in good order if that is soon, so that vLLM gives shared memory back.

        The group is gone when nobody holds the other end of its output any more.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait([self._reader], timeout=CLOSE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reader


async def _spawn(program: Path, model: str, checkpoint: Path, serving: Serving, directories: Directories) -> Process:
    command = (
        *(sys.executable, "-P", "-s", "-B", "-m", "engine.backends.vllm.launcher", str(os.getpid())),
        *(str(program), "serve", str(checkpoint), f"--served-model-name={model}", f"--uds={directories.socket}"),
        *serving.flags,
    )
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env=environment(program, directories) | serving.variables,
        cwd="/",
        start_new_session=True,
    )


def environment(program: Path, directories: Directories) -> dict[str, str]:
    """All that vLLM sees of the environment, but for what tunes it."""
    caches = str(directories.caches)
    return {
        **gpus(),
        **QUIET,
        **PATIENT,
        "PATH": os.pathsep.join([str(program.parent), SEARCH_PATH]),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(directories.temporary),
        "VLLM_RPC_BASE_PATH": str(directories.private / "rpc"),
        # Compiled kernels and the like; nothing from before is trusted, nothing stays.
        "HOME": caches,
        "XDG_CACHE_HOME": caches,
        "VLLM_CACHE_ROOT": caches,
        "VLLM_CONFIG_ROOT": caches,
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
        # Its parts talk over the loopback interface where they must.
        "VLLM_HOST_IP": "127.0.0.1",
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
