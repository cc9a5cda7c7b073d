"""Development evidence has the shape of evidence, and says at every turn that it is none."""

from __future__ import annotations

import pytest
from structlog.testing import LogCapture

from attestation.errors import EvidenceError
from attestation.guest.attester import Attester
from attestation.insecure import WARNING, InsecureAttester, appraise, parse_report
from attestation.types import CheckStatus, EvidenceKind, Nonce, ReportData
from tests.attestation.samples import INSECURE_PREFIX

DATA = ReportData(bytes(range(64)))


async def test_the_report_carries_report_data_and_nothing_else(log: LogCapture) -> None:
    attester: Attester = InsecureAttester()
    evidence = await attester.collect(DATA)
    assert evidence.kind is attester.kind is EvidenceKind.INSECURE
    assert evidence.report == INSECURE_PREFIX + DATA
    assert parse_report(evidence.report) == DATA


async def test_there_are_no_devices() -> None:
    assert await InsecureAttester().collect_devices(Nonce(bytes(32))) == b""


async def test_every_use_is_warned_of(log: LogCapture) -> None:
    for _ in range(2):
        await InsecureAttester().collect(DATA)
    assert [(entry["log_level"], entry["detail"]) for entry in log.entries] == [("warning", WARNING)] * 2


@pytest.mark.parametrize(
    "report",
    [
        b"",
        INSECURE_PREFIX,
        INSECURE_PREFIX + DATA[:-1],
        INSECURE_PREFIX + DATA + b"\0",
        b"X" + INSECURE_PREFIX[1:] + DATA,
        DATA,
    ],
)
def test_a_report_of_another_form_is_refused(report: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_report(report)
    assert appraise(report).reported is None


def test_the_machine_is_never_said_to_be_checked() -> None:
    (check,) = appraise(INSECURE_PREFIX + DATA).checks
    assert check.status is CheckStatus.SKIP
    assert "INSECURE" in check.detail
