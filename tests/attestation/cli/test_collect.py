"""A guest shows what it proves, in a document on which a policy can be tried and which is never accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from attestation.bundle import parse_bundle
from attestation.cli.main import app
from attestation.errors import RefusedError
from attestation.guest import machine
from attestation.statement import parse_statement
from attestation.types import CheckStatus
from attestation.verification import verify
from tests.attestation import machines
from tests.attestation.guest.fake_tsm import FakeKernel
from tests.attestation.samples import NOW

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which a fake kernel of the forged AMD machine hands out reports."""
    root = tmp_path / "report"
    root.mkdir()

    def kernel(path: Path) -> FakeKernel:
        amd = machines.AMD
        return FakeKernel(path, lambda inblob, vmpl: amd.report(inblob, vmpl=vmpl), table=amd.table(amd.report()))

    monkeypatch.setattr(machine, "ConfigfsTree", kernel)
    return root


def _collect(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["collect", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_guest_shows_its_measurement(guest: Path) -> None:
    code, said = _collect("--tsm-path", guest)
    assert code == 0
    assert machines.AMD.policy().measurements[0] in said
    assert "UNVERIFIED" in said


def test_a_policy_can_be_tried_on_what_was_collected_and_never_accepts_it(guest: Path, tmp_path: Path) -> None:
    code, _ = _collect("--tsm-path", guest, "--out", tmp_path / "collected.json")
    assert code == 0
    bundle = parse_bundle((tmp_path / "collected.json").read_bytes())
    collateral = {**machines.snp_document().collateral, **bundle.document.collateral}
    with pytest.raises(RefusedError) as refusal:
        verify(bundle.document, machines.SNP_POLICY, collateral, expected=bundle.nonce, now=NOW)
    failed = {check.name for check in refusal.value.checks if check.status is CheckStatus.FAIL}
    assert failed == {"devices", "lifetime", "post-quantum", "components", "api keys", "models"}


def test_a_collected_statement_is_over_when_it_begins(guest: Path, tmp_path: Path) -> None:
    _collect("--tsm-path", guest, "--out", tmp_path / "collected.json")
    bundle = parse_bundle((tmp_path / "collected.json").read_bytes())
    assert parse_statement(bundle.document.statement).not_after <= bundle.fetched_at


def test_a_machine_without_a_tee_says_so(tmp_path: Path) -> None:
    code, said = _collect("--tsm-path", tmp_path / "absent")
    assert code == 1
    assert said.strip()


def test_a_file_that_cannot_be_written_is_a_usage_error(guest: Path, tmp_path: Path) -> None:
    code, _ = _collect("--tsm-path", guest, "--out", tmp_path)
    assert code == 2
