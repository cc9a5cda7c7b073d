"""What would keep a proxy from starting is told with what to do about it, and nothing is remembered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.program.run import ExitCode
from core.program.settings import SettingsError, read_settings
from proxy.doctor.configuration import settings_findings, start_faults, start_findings
from proxy.doctor.findings import Finding, Level, exit_code
from proxy.settings import ProxySettings
from tests.attestation.policies import INSECURE, INSECURE_ROOTS, KEY, SNP, release, written
from tests.proxy.certificates import write_certificate

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)

Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Findings by subject. policy: its text. Keyword arguments are settings."""

    def look(policy: str = SNP, environ: dict[str, str] | None = None, **options: Any) -> dict[str, Finding]:
        defaults: dict[str, Any] = {
            "engine": "http://127.0.0.1:9",
            "policy": written(tmp_path, policy),
            "state_dir": tmp_path / "state",
            "collateral_dir": tmp_path / "cache",
        }
        settings = ProxySettings(**(defaults | options))
        return {finding.subject: finding for finding in start_findings(settings, environ or {}, NOW)}

    return look


def test_a_configuration_in_order_is_told_so_line_by_line(look: Look) -> None:
    found = look()
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found.keys() == {"policy", "HTTP proxy", "state directory", "collateral cache"}


def test_every_setting_at_fault_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(ProxySettings, {"engine": "ftp:canary", "token": "canary", "idle_timeout_s": "-1"})
    found = list(settings_findings(caught.value))
    assert {finding.subject for finding in found} == {"--policy", "--engine", "--token", "--idle-timeout-s"}
    assert {finding.level for finding in found} == {Level.FAIL}
    assert all("SOTTOVOCE_" in finding.cure for finding in found)
    assert exit_code(found) is ExitCode.USAGE
    assert "canary" not in str(found)


def test_a_file_of_settings_at_fault_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("canary")
    with pytest.raises(SettingsError) as caught:
        read_settings(ProxySettings, {"config": str(tmp_path / "settings.toml")})
    (found,) = settings_findings(caught.value)
    assert (found.subject, found.code) == ("--config", ExitCode.USAGE)
    assert "canary" not in str(found)


@pytest.mark.parametrize(
    ("policy", "options", "subject"),
    [
        ("version = 2", {}, "policy"),
        (SNP + release(1, "2026-01-01T00:00:00Z"), {}, "policy"),
        (SNP + release(), {"policy_signer": (KEY.signer,)}, "policy"),  # which is not signed
        (INSECURE, {"engine": "http://192.0.2.1"}, "policy"),
    ],
    ids=["unusable", "expired", "unsigned", "development evidence elsewhere"],
)
def test_a_policy_that_cannot_be_used_fails(policy: str, options: dict[str, Any], subject: str, look: Look) -> None:
    if "policy_signer" in options:
        options = {"policy_signer": (str(KEY.signer),)}
    found = look(policy, **options)[subject]
    assert (found.level, found.code) == (Level.FAIL, ExitCode.USAGE)
    assert found.cure


@pytest.mark.parametrize("policy", [INSECURE, SNP + INSECURE_ROOTS], ids=["development evidence", "other roots"])
def test_a_policy_that_proves_less_is_warned_of(policy: str, look: Look) -> None:
    assert look(policy)["policy"].level is Level.WARN


@pytest.mark.parametrize(("expires", "level"), [("2026-06-10", Level.WARN), ("2026-07-10", Level.OK)])
def test_a_policy_that_soon_expires_is_warned_of(expires: str, level: Level, look: Look) -> None:
    assert look(SNP + release(7, f"{expires}T00:00:00Z"))["policy expiry"].level is level


def test_a_signed_policy_is_looked_at_and_its_version_not_remembered(tmp_path: Path, look: Look) -> None:
    written(tmp_path, SNP + release(7), key=KEY)
    found = look(SNP + release(7), policy_signer=(str(KEY.signer),))
    assert found["policy"].level is Level.OK
    assert not (tmp_path / "state").exists()


def test_a_certificate_without_its_key_fails(tmp_path: Path, look: Look) -> None:
    cert, key, other = (tmp_path / name for name in ("cert", "key", "other"))
    write_certificate(cert, other, "proxy.example")
    write_certificate(cert, key, "proxy.example")
    assert look(tls_cert=cert, tls_key=key)["TLS for apps"].level is Level.OK
    found = look(tls_cert=cert, tls_key=other)["--tls-cert and --tls-key"]
    assert (found.level, found.code) == (Level.FAIL, ExitCode.USAGE)


def test_a_file_of_roots_that_is_none_fails(tmp_path: Path, look: Look) -> None:
    (tmp_path / "roots").write_text("none")
    assert look(ca_file=tmp_path / "roots")["--ca-file"].code is ExitCode.USAGE


def test_an_http_proxy_that_is_none_fails(look: Look) -> None:
    found = look(environ={"HTTP_PROXY": "ftp://canary"}, engine="http://engine.example")["HTTP proxy"]
    assert found.level is Level.FAIL
    assert "canary" not in found.detail
    assert look(environ={"HTTP_PROXY": "way:3128"}, engine="http://engine.example")["HTTP proxy"].level is Level.OK


def test_a_place_that_cannot_be_written_to_is_warned_of(tmp_path: Path, look: Look) -> None:
    (tmp_path / "file").write_text("in the way")
    assert look(state_dir=tmp_path / "file" / "state")["state directory"].level is Level.WARN


def test_only_what_keeps_a_proxy_from_starting_is_a_fault(tmp_path: Path) -> None:
    options: dict[str, Any] = {"engine": "http://127.0.0.1:9", "state_dir": tmp_path / "file" / "state"}
    (tmp_path / "file").write_text("in the way")
    sound = ProxySettings(policy=written(tmp_path, INSECURE), **options)
    assert start_faults(sound, {}, NOW) == []
    broken = ProxySettings(policy=written(tmp_path, "canary"), **options)
    (fault,) = start_faults(broken, {}, NOW)
    assert fault.startswith("policy: ")
    assert "canary" not in fault
