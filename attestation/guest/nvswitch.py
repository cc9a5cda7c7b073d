"""What do the NVSwitches between the GPUs say of themselves? NVIDIA's program `nvattest`, the only door to them.

::

    nvattest collect-evidence --device nvswitch --nonce <hex> --format json --log-level off

    {"result_code": 0, "result_message": "Ok",
     "evidences": [{"arch": "LS10", "nonce": "<hex>", "evidence": "<base64>", "certificate": "<base64>", ...}, ...]}

(NVIDIA Attestation CLI, Command Reference.) Only one mode of the GPUs needs it, Protected PCIe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from attestation.errors import FetchError
from attestation.gpu.evidence import MAX_SWITCHES, Architecture, DeviceAnswer
from attestation.types import Nonce
from core.program import strictjson
from core.program.validation import Base64, Label, validate

PROGRAM = "nvattest"
DEADLINE_S = 20.0
MAX_OUTPUT_BYTES = 1024 * 1024
"""Four switches take some 40 KiB."""

_LENIENT = ConfigDict(strict=True, extra="ignore")
"""The program adds members from version to version; what it says is judged by signatures, not by its form."""


@dataclass(frozen=True, slots=True)
class _SwitchMember:
    __pydantic_config__ = _LENIENT
    arch: Architecture
    nonce: Label
    evidence: Base64
    certificate: Base64


@dataclass(frozen=True, slots=True)
class _Output:
    __pydantic_config__ = _LENIENT
    result_code: Annotated[int, Field(ge=0, le=0)]
    evidences: Annotated[tuple[_SwitchMember, ...], Field(min_length=1, max_length=MAX_SWITCHES)]


_OUTPUT = TypeAdapter(_Output)


async def collect_switches(
    nonce: Nonce, *, program: str = PROGRAM, deadline_s: float = DEADLINE_S
) -> tuple[DeviceAnswer, ...]:
    """Evidence of every switch over `nonce`. Raises FetchError."""
    found = shutil.which(program)
    if found is None:
        raise FetchError("nvattest: the switches must be attested, and there is no such program")
    command = (found, "collect-evidence", "--device", "nvswitch", "--nonce", nonce.hex(), "--format", "json")
    return _answers(await _output_of(*command, "--log-level", "off", deadline_s=deadline_s), nonce)


async def _output_of(*command: str, deadline_s: float) -> bytes:
    """What a program prints before it ends well. Raises FetchError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
        )
    except OSError as exc:
        raise FetchError(f"nvattest: cannot be started ({exc.strerror})") from exc
    try:
        async with asyncio.timeout(deadline_s):
            output = await _read_bounded(process)
            code = await process.wait()
    except TimeoutError as exc:
        raise FetchError("nvattest: did not end in time") from exc
    finally:
        await _end(process)
    if code != 0:
        raise FetchError(f"nvattest: ended with code {code}")
    return output


async def _read_bounded(process: Process) -> bytes:
    output = bytearray()
    while process.stdout is not None and (piece := await process.stdout.read(1 << 16)):
        output += piece
        if len(output) > MAX_OUTPUT_BYTES:
            raise FetchError(f"nvattest: printed more than {MAX_OUTPUT_BYTES} bytes")
    return bytes(output)


async def _end(process: Process) -> None:
    if process.returncode is None:
        # Not Process.kill: it polls first, and so may take the exit status that asyncio waits for.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


def _answers(output: bytes, nonce: Nonce) -> tuple[DeviceAnswer, ...]:
    try:
        members = validate(_OUTPUT, strictjson.loads(output, max_bytes=MAX_OUTPUT_BYTES))
    except ValueError as exc:
        raise FetchError(f"nvattest: {exc}") from exc
    if any(member.nonce != nonce.hex() for member in members.evidences):
        raise FetchError("nvattest: evidence over another nonce than ours")
    return tuple(DeviceAnswer(member.arch, nonce, member.evidence, member.certificate) for member in members.evidences)
