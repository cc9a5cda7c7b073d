"""How does a container of dstack get evidence? From the guest agent, over a Unix socket that is mounted into it.

::

    POST http://dstack/GetQuote {"report_data": "<128 hex>"}
        {"quote": "<hex>", "event_log": "<JSON>", "report_data": "<128 hex>", "vm_config": "<JSON>"}
        On SEV-SNP the quote is empty, or, from dstack 0.6 on, the status is an error's.

    POST http://dstack/Attest {"report_data": "<128 hex>"}                        asked there only
        {"attestation": "<hex>"}
        SCALE:   00 (version 0)   03 (SEV-SNP)   81 12 (length 1184)   report (1184)   certificates ...

dstack calls SEV-SNP experimental. Two attestations of a real machine are in this form, from which alone it was read;
any other, such as the MessagePack of version 1, is refused. Of what follows the report nothing is needed: AMD has the
certificates, and the documents stand in the report by their hash (HOST_DATA). Neither is the event log carried on: what
counts of it is in the registers.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StringConstraints, TypeAdapter

from attestation.errors import FetchError
from attestation.guest.agent import CONNECT_S, DEADLINE_S, LENIENT, MAX_ANSWER_BYTES, Agent
from attestation.guest.devices import AttachedDevices
from attestation.guest.reports import MachineReport
from attestation.snp.abi import REPORT_BYTES
from attestation.types import REPORT_DATA_BYTES, EvidenceKind, EvidenceSource, ReportData
from core.program.http.client import open_unix_session

DEFAULT_SOCKET: Final = Path("/var/run/dstack.sock")

_NAME: Final = "dstack"
_SNP_IN_SCALE: Final = bytes.fromhex("00038112")

_Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$", max_length=MAX_ANSWER_BYTES)]


@dataclass(frozen=True, slots=True)
class _Quote:
    __pydantic_config__ = LENIENT
    quote: _Hex


@dataclass(frozen=True, slots=True)
class _Attestation:
    __pydantic_config__ = LENIENT
    attestation: Annotated[_Hex, Field(min_length=2)]


_QUOTE: Final = TypeAdapter(_Quote)
_ATTESTATION: Final = TypeAdapter(_Attestation)


class DstackReports:
    """Implements `attestation.guest.reports.Reports`."""

    source = EvidenceSource.DSTACK

    def __init__(self, socket: Path = DEFAULT_SOCKET, *, deadline_s: float = DEADLINE_S) -> None:
        session = partial(open_unix_session, socket, connect_timeout_s=CONNECT_S, idle_timeout_s=deadline_s)
        absent = f"nobody answers at {socket}; it takes the guest's own, mounted into the container"
        self._agent = Agent(_NAME, "http://dstack", session, absent, deadline_s)

    async def find_kind(self) -> EvidenceKind:
        return (await self.collect(ReportData(secrets.token_bytes(REPORT_DATA_BYTES)))).kind  # nothing tells otherwise

    async def collect(self, report_data: ReportData) -> MachineReport:
        question = {"report_data": report_data.hex()}
        answer = await self._agent.ask("/GetQuote", body=question)
        if answer.status == 200 and (quote := self._agent.read(_QUOTE, answer.body).quote):
            return MachineReport(EvidenceKind.TDX, bytes.fromhex(quote))
        answer = await self._agent.ask("/Attest", body=question)
        if answer.status != 200:
            raise FetchError(f"{_NAME}: neither a quote nor an attestation (status {answer.status})")
        attestation = bytes.fromhex(self._agent.read(_ATTESTATION, answer.body).attestation)
        end = len(_SNP_IN_SCALE) + REPORT_BYTES
        if not attestation.startswith(_SNP_IN_SCALE) or len(attestation) < end:
            raise FetchError(
                f"{_NAME}: an attestation that is not of SEV-SNP in the form known here (SCALE, version 0)"
            )
        return MachineReport(EvidenceKind.SNP, attestation[len(_SNP_IN_SCALE) : end])

    async def find_devices(self) -> AttachedDevices | None:
        return await AttachedDevices.find()
