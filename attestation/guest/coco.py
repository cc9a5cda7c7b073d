"""How does a container of Confidential Containers get evidence? From the REST API of its guest's attestation agent.

The guest's kernel gives no container its configfs. What the guest runs beside the containers (guest-components) does,
under any user id, at 127.0.0.1:8006 inside the pod, if the guest's kernel was started with
`agent.guest_components_rest_api=all`::

    GET /info
        {"version", "tee": "snp" | "tdx" | ..., "additional_tees": ["nvidia"], "feature": "all"}
        Where only resources are served there is no `tee`, and `/aa/...` is not found.

    GET /aa/evidence?encoding=base64&runtime_data=<report_data, URL-safe base64 without padding>
        tdx:  {"quote": "<base64>", "cc_eventlog": "<base64>" | null}
        snp:  {"attestation_report": {...}, "cert_chain": null | [{"cert_type", "data": [byte, ...]}, ...]}
              (`attestation.guest.decomposed`; `cert_type` is "VCEK", "VLEK", "ASK", "ARK", "CRL" or {"OTHER": guid})

    GET /aa/additional-evidence?encoding=base64&runtime_data=<nonce, likewise>
        nothing, or {"nvidia": {"device_evidence_list": [device, ...]}}
        device: {"arch", "uuid", "evidence": "<base64>", "certificate": "<base64>"}
        GPUs and switches in one list, over the first 32 bytes of what was sent.

The 64 bytes become report_data as they are. Whoever is in the pod can ask for evidence over any: what that means stands
in `docs/clouds/confidential-containers.md`. The event log is not carried on: what counts of it is in the registers.

Refused by name: `sample`, which the agent makes up where it finds no TEE.

What the API does not tell of GPUs is whether tools of developers may look into them. NVML does, which a container with
a GPU has: without it, evidence of GPUs is not taken.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter

from attestation.errors import EvidenceError, FetchError
from attestation.gpu.abi import parse_gpu, parse_switch
from attestation.gpu.evidence import (
    MAX_GPUS,
    MAX_SWITCHES,
    SWITCH_ARCHITECTURES,
    Architecture,
    DeviceAnswer,
    encode_devices,
)
from attestation.guest.agent import CONNECT_S, DEADLINE_S, LENIENT, Agent
from attestation.guest.decomposed import DecomposedReport, compose
from attestation.guest.devices import DEADLINE_S as DEVICES_DEADLINE_S
from attestation.guest.devices import AttachedDevices, find_nvml, sound_state
from attestation.guest.driver import DriverThread
from attestation.guest.nvml import MultiGpuMode, Nvml
from attestation.guest.reports import Devices, MachineReport
from attestation.snp.certificate import MAX_CERTIFICATE_BYTES
from attestation.snp.table import certificate_table
from attestation.types import DeviceEvidence, EvidenceKind, EvidenceSource, Nonce, ReportData
from core.program.http.client import open_session
from core.program.validation import Base64, Label

DEFAULT_URL: Final = "http://127.0.0.1:8006"

_NAME: Final = "Confidential Containers"
_ENABLE: Final = "it takes agent.guest_components_rest_api=all on the guest kernel's command line"
_TEES: Final = {"snp": EvidenceKind.SNP, "tdx": EvidenceKind.TDX}
_MADE_UP: Final = "sample"
_NVIDIA: Final = "nvidia"
_MAX_CERTIFICATES: Final = 16

AskDevices = Callable[[Nonce], Awaitable[Sequence[DeviceAnswer]]]
"""Evidence of every GPU and switch over a nonce; raises FetchError."""


@dataclass(frozen=True, slots=True)
class _Info:
    __pydantic_config__ = LENIENT
    feature: Label
    tee: Label | None = None
    additional_tees: Annotated[tuple[Label, ...], Field(max_length=16)] = ()


@dataclass(frozen=True, slots=True)
class _TdxEvidence:
    __pydantic_config__ = LENIENT
    quote: Base64


_DerBytes = Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(max_length=2 * MAX_CERTIFICATE_BYTES)]


@dataclass(frozen=True, slots=True)
class _Certificate:
    __pydantic_config__ = LENIENT
    cert_type: Label | dict[str, Any]
    data: _DerBytes


@dataclass(frozen=True, slots=True)
class _SnpEvidence:
    __pydantic_config__ = LENIENT
    attestation_report: DecomposedReport
    cert_chain: Annotated[tuple[_Certificate, ...], Field(max_length=_MAX_CERTIFICATES)] | None


@dataclass(frozen=True, slots=True)
class _Device:
    __pydantic_config__ = LENIENT
    arch: Architecture
    evidence: Base64
    certificate: Base64


@dataclass(frozen=True, slots=True)
class _Nvidia:
    __pydantic_config__ = LENIENT
    device_evidence_list: Annotated[tuple[_Device, ...], Field(min_length=1, max_length=MAX_GPUS + MAX_SWITCHES)]


@dataclass(frozen=True, slots=True)
class _AdditionalEvidence:
    __pydantic_config__ = LENIENT
    nvidia: _Nvidia


_INFO: Final = TypeAdapter(_Info)
_TDX: Final = TypeAdapter(_TdxEvidence)
_SNP: Final = TypeAdapter(_SnpEvidence)
_ADDITIONAL: Final = TypeAdapter(_AdditionalEvidence)


class CocoReports:
    """Implements `attestation.guest.reports.Reports`. url: of the API, loopback."""

    source = EvidenceSource.COCO

    def __init__(self, url: str = DEFAULT_URL, *, deadline_s: float = DEADLINE_S) -> None:
        session = partial(
            open_session, tls=None, loopback_only=True, connect_timeout_s=CONNECT_S, idle_timeout_s=deadline_s
        )
        self._agent = Agent(_NAME, url, session, f"nothing answers at {url}; {_ENABLE}", deadline_s)

    async def find_kind(self) -> EvidenceKind:
        return _kind(await self._info())

    async def collect(self, report_data: ReportData) -> MachineReport:
        kind = await self.find_kind()  # asked again: an agent that was restarted without its hardware would make it up
        body = await self._evidence("/aa/evidence", report_data)
        if kind is EvidenceKind.TDX:
            return MachineReport(kind, self._agent.read(_TDX, body).quote)
        snp = self._agent.read(_SNP, body)
        return MachineReport(kind, compose(snp.attestation_report), _table(snp.cert_chain or ()))

    async def find_devices(self) -> Devices | None:
        if _NVIDIA not in (await self._info()).additional_tees:
            return await AttachedDevices.find()
        driver = DriverThread("NVML", deadline_s=DEVICES_DEADLINE_S)
        if (nvml := await find_nvml(driver)) is None:
            raise FetchError(
                f"{_NAME}: the guest has GPUs, and whether developers' tools may look into them only NVML tells, which "
                "this container does not have"
            )
        return CocoDevices(self._devices, nvml, driver)

    async def _devices(self, nonce: Nonce) -> tuple[DeviceAnswer, ...]:
        """What GPUs and switches answer, in the agent's order. Raises FetchError."""
        body = await self._evidence("/aa/additional-evidence", nonce)
        if not body:
            raise FetchError(f"{_NAME}: the guest had GPUs, and has no evidence of any now")
        found = self._agent.read(_ADDITIONAL, body).nvidia.device_evidence_list
        return tuple(DeviceAnswer(device.arch, nonce, device.evidence, device.certificate) for device in found)

    async def _evidence(self, path: str, runtime_data: bytes) -> bytes:
        """What the agent answers to so many bytes. Raises FetchError."""
        encoded = base64.urlsafe_b64encode(runtime_data).rstrip(b"=").decode()
        answer = await self._agent.ask(path, query={"encoding": "base64", "runtime_data": encoded})
        if answer.status == 404:
            raise FetchError(f"{_NAME}: the API gives no evidence; {_ENABLE}")
        if answer.status != 200:
            raise FetchError(
                f"{_NAME}: no evidence (status {answer.status}); an agent from before June 2026 knows no base64"
            )
        return answer.body

    async def _info(self) -> _Info:
        answer = await self._agent.ask("/info")
        if answer.status != 200:
            raise FetchError(f"{_NAME}: what answers is not its API (status {answer.status})")
        return self._agent.read(_INFO, answer.body)


def _kind(info: _Info) -> EvidenceKind:
    if info.tee is None:
        raise FetchError(f"{_NAME}: the API gives no evidence (feature {info.feature}); {_ENABLE}")
    if info.tee == _MADE_UP:
        raise FetchError(
            f"{_NAME}: `sample` evidence, which the agent makes up where it finds no TEE, is never accepted"
        )
    if info.tee not in _TEES:
        raise FetchError(f"{_NAME}: the guest runs on {info.tee}; only {' and '.join(_TEES)} are known here")
    return _TEES[info.tee]


def _table(chain: tuple[_Certificate, ...]) -> bytes:
    """The certificates as a host hands them to its guest; those of other types are left out."""
    return certificate_table(
        (entry.cert_type.lower(), bytes(entry.data)) for entry in chain if isinstance(entry.cert_type, str)
    )


class CocoDevices:
    """Implements `attestation.guest.reports.Devices`. ask: for evidence; the state of the GPUs is asked of NVML."""

    def __init__(self, ask: AskDevices, nvml: Nvml, driver: DriverThread) -> None:
        self._ask = ask
        self._nvml = nvml
        self._driver = driver

    async def collect(self, nonce: Nonce) -> DeviceEvidence:
        """Raises RefusedError when the state of the GPUs is not in order, FetchError, EvidenceError."""
        relies_on_switches = (await sound_state(self._driver, self._nvml)).multi_gpu_mode == MultiGpuMode.PPCIE
        answers = await self._ask(nonce)
        gpus = [answer for answer in answers if answer.arch not in SWITCH_ARCHITECTURES]
        switches = [answer for answer in answers if answer.arch in SWITCH_ARCHITECTURES] if relies_on_switches else []
        if (counted := await self._driver.call(self._nvml.count)) != len(gpus):
            raise EvidenceError(f"{_NAME}: evidence of {len(gpus)} GPUs, and NVML counts {counted}")
        if relies_on_switches and not switches:
            raise FetchError(f"{_NAME}: the switches must be attested, and there is no evidence of any")
        _refuse_other_nonces(gpus, switches, nonce)
        return encode_devices(gpus, switches)

    async def admit(self) -> None:
        await self._driver.call(self._nvml.accept_work)


def _refuse_other_nonces(gpus: Sequence[DeviceAnswer], switches: Sequence[DeviceAnswer], nonce: Nonce) -> None:
    """An agent that mixes requests up is found out here, and not by every client."""
    signed = [parse_gpu(gpu.evidence).spdm.nonce for gpu in gpus]
    signed += [parse_switch(switch.evidence).spdm.nonce for switch in switches]
    if not all(hmac.compare_digest(one, nonce) for one in signed):
        raise EvidenceError(f"{_NAME}: devices answered another nonce than was asked for")
