"""The REST API of Confidential Containers on a real socket, as guest-components' `api-server-rest` answers.

Its answers, statuses and texts are those of `router.rs`; what the attestation agent behind it makes of reports is
written down here once more, so that what puts them together is not tested against itself.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from attestation.gpu.evidence import DeviceAnswer
from attestation.types import Nonce
from core.program.http.listener import listening
from tests.attestation.servers import LOOPBACK, constant_answer

TURIN = 0x1A

NUMBERS = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "vmpl": (0x030, 4),
    "sig_algo": (0x034, 4),
    "plat_info": (0x040, 8),
    "key_info": (0x048, 4),
}
ARRAYS = {
    "family_id": (0x010, 16),
    "image_id": (0x020, 16),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "host_data": (0x0C0, 32),
    "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}
TCBS = {"current_tcb": 0x038, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}


def decomposed(report: bytes) -> dict[str, Any]:
    """A report as the Rust crate `sev` 6.3.1 reads it, and serde writes it."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(report[offset : offset + size], "little")

    version = number(0, 4)
    turin = version > 2 and report[0x188] >= TURIN
    return {
        **{name: number(*place) for name, place in NUMBERS.items()},
        **{name: list(report[offset : offset + size]) for name, (offset, size) in ARRAYS.items()},
        **{name: _tcb(report[offset : offset + 8], turin=turin) for name, offset in TCBS.items()},
        **dict(
            zip(("cpuid_fam_id", "cpuid_mod_id", "cpuid_step"), _from(3, version, report[0x188:0x18B]), strict=True)
        ),
        "current": dict(zip(("build", "minor", "major"), report[0x1E8:0x1EB], strict=True)),
        "committed": dict(zip(("build", "minor", "major"), report[0x1EC:0x1EF], strict=True)),
        "launch_mit_vector": number(0x1F8, 8) if version > 4 else None,
        "current_mit_vector": number(0x200, 8) if version > 4 else None,
        "signature": {"r": list(report[0x2A0:0x2E8]), "s": list(report[0x2E8:0x330])},
    }


def _from(first: int, version: int, values: bytes) -> list[int | None]:
    return list(values) if version >= first else [None] * len(values)


def _tcb(data: bytes, *, turin: bool) -> dict[str, int | None]:
    if turin:
        fmc, bootloader, tee, snp = data[:4]
    else:
        fmc, bootloader, tee, snp = None, data[0], data[1], data[6]
    return {"fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": data[7]}


def chain(**certificates: bytes) -> list[dict[str, Any]]:
    """What the host handed out, by role."""
    return [{"cert_type": role.upper(), "data": list(data)} for role, data in certificates.items()]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class FakeCoco:
    """The agent of one guest. report, quote, devices: what its hardware answers to so many bytes.

    changed: called with the path and the answer's JSON, to tell lies. asked: the runtime data so far. raw: answers in
    place of all of that, by path. statuses: likewise, of an error.
    """

    tee: str | None = "snp"
    feature: str = "all"
    additional_tees: Sequence[str] = ()
    report: Callable[[bytes], bytes] = lambda _: b""
    certificates: list[dict[str, Any]] | None = None
    devices: Callable[[Nonce], Sequence[DeviceAnswer]] = lambda _: ()
    changed: Callable[[str, Any], Any] = lambda _, answer: answer
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        if path in self.statuses:
            return web.Response(status=self.statuses[path], text="get evidence failed")
        if path in self.raw:
            return web.Response(body=self.raw[path], content_type="application/octet-stream")
        if path == "/info":
            return web.json_response(self.changed(path, self._info()))
        if not path.startswith("/aa/"):
            return web.Response(status=404, text="URL NOT FOUND")
        if self.tee is None:
            return web.Response(status=404, text="Attestation Feature Not Enabled")
        return self._attested(path, request.rel_url.query)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"version": "v0.20.0", "feature": self.feature}
        if self.tee is not None:
            info["tee"] = self.tee
        if self.additional_tees:
            info["additional_tees"] = list(self.additional_tees)
        return info

    def _attested(self, path: str, query: Any) -> web.Response:
        if "runtime_data" not in query:
            return web.Response(status=400, text="BAD REQUEST")
        text = query["runtime_data"]
        if query.get("encoding") == "base64":
            if "=" in text or len(text) % 4 == 1:
                return web.Response(status=400, text="BAD REQUEST")
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        elif "encoding" in query:
            return web.Response(status=400, text="BAD REQUEST")
        else:
            data = text.encode()
        self.asked.append((path, data))
        if len(data) > 64:
            return web.Response(status=500, text="rpc status: get evidence failed")
        if path == "/aa/additional-evidence":
            body = self._additional(Nonce(data[:32].ljust(32, b"\x00")))
        elif path == "/aa/evidence":
            body = json.dumps(self.changed(path, self._evidence(data.ljust(64, b"\x00")))).encode()
        else:
            return web.Response(status=404, text="URL NOT FOUND")
        return web.Response(body=body, content_type="application/octet-stream")

    def _evidence(self, report_data: bytes) -> dict[str, Any]:
        if self.tee == "tdx":
            return {"cc_eventlog": encoded(b"event log"), "quote": encoded(self.report(report_data))}
        if self.tee == "sample":
            return {"svn": "1", "report_data": encoded(report_data)}
        return {"attestation_report": decomposed(self.report(report_data)), "cert_chain": self.certificates}

    def _additional(self, nonce: Nonce) -> bytes:
        answers = self.devices(nonce)
        if not answers:
            return b""
        listed = [
            {
                "arch": answer.arch.value,
                "uuid": "unknown",
                "evidence": encoded(answer.evidence),
                "certificate": encoded(answer.certificate),
            }
            for answer in answers
        ]
        whole = {"nvidia": {"device_evidence_list": listed}}
        return json.dumps(self.changed("/aa/additional-evidence", whole)).encode()


@asynccontextmanager
async def serving(coco: FakeCoco) -> AsyncIterator[FakeCoco]:
    app = web.Application()
    app.router.add_route("GET", "/{path:.*}", coco.answer)
    async with listening(app, [LOOPBACK], error_response=constant_answer) as (address,):
        coco.url = f"http://{address}"
        yield coco
