"""The program is a real process here, which does what a test wants of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import FetchError
from attestation.gpu.evidence import MAX_SWITCHES, Architecture, DeviceAnswer
from attestation.guest.nvswitch import MAX_OUTPUT_BYTES, _answers, collect_switches
from attestation.types import Nonce
from tests.vectors import vector
from tests.waiting import GIVE_UP_S, time_passes

NONCE = Nonce(bytes(range(32)))
SWITCH = {
    "version": "1.0",
    "arch": "LS10",
    "nonce": NONCE.hex(),
    "evidence": base64.b64encode(b"report").decode(),
    "certificate": base64.b64encode(b"chain").decode(),
}
OUTPUT = {"result_code": 0, "result_message": "Ok", "evidences": [SWITCH, SWITCH]}

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a program of a body in Python, and gives its path."""

    def make(body: str) -> str:
        path = tmp_path / "nvattest"
        path.write_text(f"#!{sys.executable} -SE\nimport json, os, sys, time\nhere = {str(tmp_path)!r}\n{body}\n")
        path.chmod(0o700)
        return str(path)

    return make


def printing(output: Any) -> str:
    return f"print({json.dumps(output)!r})"


async def test_every_switch_is_asked_over_the_nonce(program: Program, tmp_path: Path) -> None:
    record = "open(here + '/seen', 'w').write(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))\n"
    switches = await collect_switches(NONCE, program=program(record + printing(OUTPUT)))
    assert switches == (DeviceAnswer(Architecture.LS10, NONCE, b"report", b"chain"),) * 2
    arguments, environment, directory = json.loads((tmp_path / "seen").read_text())
    assert " ".join(arguments) == (
        f"collect-evidence --device nvswitch --nonce {NONCE.hex()} --format json --log-level off"
    )
    assert set(environment) <= {"PATH", "LC_ALL", "LC_CTYPE"}
    assert directory == "/"


async def test_real_evidence_of_four_switches_is_read(program: Program) -> None:
    evidences = json.loads(vector("nvidia/nvtrust_ppcie_4xLS10_evidence.json"))
    nonce = Nonce(bytes.fromhex(evidences[0]["nonce"]))
    body = printing({"result_code": 0, "result_message": "Ok", "evidences": evidences})
    switches = await collect_switches(nonce, program=program(body))
    assert {(switch.arch, switch.evidence[4:36]) for switch in switches} == {(Architecture.LS10, nonce)}
    assert all(switch.certificate.count(b"BEGIN CERTIFICATE") == 5 for switch in switches)


def _nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["result_code", "evidences", *SWITCH]) | st.text()
    return st.lists(values) | st.dictionaries(names, values)


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def changed(**members: Any) -> str:
    return printing({**OUTPUT, "evidences": [SWITCH, {**SWITCH, **members}]})


FAULTY = {
    "nothing": "",
    "no JSON": "print('Evidence collection was successful.')",
    "a list": printing([OUTPUT]),
    "a failure": printing({**OUTPUT, "result_code": 7}),
    "no result": printing({"evidences": [SWITCH]}),
    "a result that is no number": printing({**OUTPUT, "result_code": False}),
    "no evidence": printing({"result_code": 0}),
    "nothing for evidence": printing({**OUTPUT, "evidences": None}),
    "no switch": printing({**OUTPUT, "evidences": []}),
    "too many switches": printing({**OUTPUT, "evidences": [SWITCH] * (MAX_SWITCHES + 1)}),
    "a report that is no base64": changed(evidence="report"),
    "no certificate": changed(certificate=None),
    "another nonce": changed(nonce=bytes(32).hex()),
    "no nonce": changed(nonce=None),
    "an architecture that we do not know": changed(arch="LS11"),
    "a member twice": f"print({json.dumps(OUTPUT)[:-1]!r} + ', \"result_code\": 0}}')",
    "an unhappy end": printing(OUTPUT) + "\nsys.exit(3)",
    "a violent end": printing(OUTPUT) + "\nsys.stdout.flush()\nos.abort()",
}


@pytest.mark.parametrize("body", FAULTY.values(), ids=FAULTY)
async def test_whatever_else_it_prints_is_refused(program: Program, body: str) -> None:
    with pytest.raises(FetchError, match="nvattest: "):
        await collect_switches(NONCE, program=program(body))


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _nested, max_leaves=6).map(_as_json)
)
def test_no_output_is_anything_but_evidence_or_refused(output: bytes) -> None:
    with suppress(FetchError):
        _answers(output, NONCE)


@given(st.data())
def test_no_changed_output_is_anything_but_evidence_or_refused(data: st.DataObject) -> None:
    output = bytearray(json.dumps(OUTPUT).encode())
    output[data.draw(st.integers(0, len(output) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FetchError):
        assert len(_answers(bytes(output), NONCE)) == 2


async def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(FetchError, match="no such program"):
        await collect_switches(NONCE, program="sottovoce-no-such-program")


async def test_a_file_that_cannot_run_is_told(program: Program, tmp_path: Path) -> None:
    Path(path := program("")).write_text("#!/no/such/interpreter\n")
    with pytest.raises(FetchError, match="cannot be started"):
        await collect_switches(NONCE, program=path)


LATE = {
    "it hangs": "open(here + '/began', 'w').write(str(os.getpid()))\ntime.sleep(600)",
    "it has said all and stays": "os.close(1)\nopen(here + '/began', 'w').write(str(os.getpid()))\ntime.sleep(600)",
}


@pytest.mark.parametrize("body", LATE.values(), ids=LATE)
async def test_one_that_does_not_end_is_killed(program: Program, tmp_path: Path, body: str) -> None:
    os.mkfifo(tmp_path / "began")
    asking = asyncio.ensure_future(collect_switches(NONCE, program=program(body), deadline_s=3600))  # noqa: TID251
    pid = int(await asyncio.to_thread((tmp_path / "began").read_text))
    time_passes(3600)
    with pytest.raises(FetchError, match="did not end in time"):
        await asking
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_one_that_prints_without_end_is_killed(program: Program) -> None:
    flood = f"while True: os.write(1, bytes({MAX_OUTPUT_BYTES // 4}))"
    async with asyncio.timeout(GIVE_UP_S):
        with pytest.raises(FetchError, match="printed more than"):
            await collect_switches(NONCE, program=program(flood))


async def test_one_that_nobody_waits_for_any_more_is_killed(program: Program, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "began")
    path = program("open(here + '/began', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    asking = asyncio.ensure_future(collect_switches(NONCE, program=path))  # noqa: TID251
    pid = int(await asyncio.to_thread((tmp_path / "began").read_text))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
