"""`sottovoce-attest policy` makes keys, signs what may be signed, and says plainly what a policy asks for."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from attestation.cli.policy import app
from attestation.release.load import load_policy
from attestation.release.signature import signature_path
from attestation.release.trust import PolicyTrust
from tests.attestation.policies import INSECURE, INSECURE_ROOTS, KEY, NOW, OTHER_KEY, SNP, release, written

ACCEPTED, USAGE, REFUSED = 0, 2, 10
RED = r"\x1b\[(?:\d+;)*31m"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sottovoce"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY.encode())
    return path


def _policy(*arguments: str | Path, data: Path | None = None, **variables: str) -> Result:
    environment = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb", **variables}
    if data is not None:
        environment["XDG_DATA_HOME"] = str(data.parent)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)


def _flat(output: str) -> str:
    """What stands in typer's boxes, without them."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())


# Keys.


def test_a_key_is_kept_for_its_owner_alone_and_its_public_half_printed(tmp_path: Path) -> None:
    result = _policy("keygen", tmp_path / "key")
    assert result.exit_code == ACCEPTED
    assert re.fullmatch(r"ed25519:[0-9a-f]{64}\n", result.stdout)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    secret = (tmp_path / "key").read_text().strip().removeprefix("ed25519-secret:")
    assert secret not in result.output
    path = written(tmp_path, SNP + release())
    assert _policy("sign", path, "--key", tmp_path / "key").exit_code == ACCEPTED
    assert _policy("check", path, "--policy-signer", result.stdout.strip(), data=tmp_path / "x").exit_code == ACCEPTED


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    assert _policy("keygen", tmp_path / "a").stdout != _policy("keygen", tmp_path / "b").stdout


def test_a_key_is_never_written_over(key: Path) -> None:
    result = _policy("keygen", key)
    assert result.exit_code == USAGE
    assert key.read_text() == KEY.encode()


# Signing.


def test_what_was_signed_is_accepted_by_who_pins_the_signer(tmp_path: Path, key: Path) -> None:
    path = written(tmp_path, SNP + release(7))
    result = _policy("sign", path, "--key", key)
    assert (result.exit_code, result.stdout) == (ACCEPTED, f"signed by {KEY.signer}\n")
    assert stat.S_IMODE(signature_path(path).stat().st_mode) == 0o644
    assert load_policy(path, PolicyTrust((KEY.signer,), min_version=7), now=NOW).release


def test_a_signature_is_replaced(tmp_path: Path, key: Path) -> None:
    path = written(tmp_path, SNP + release(7), key=OTHER_KEY)
    assert _policy("sign", path, "--key", key).exit_code == ACCEPTED
    assert load_policy(path, PolicyTrust((KEY.signer,), min_version=7), now=NOW).release


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SNP, "no table `release`"),
        (SNP + release(expires="2020-01-01T00:00:00Z"), "expired"),
        (INSECURE + release(), "development evidence"),
        (SNP + INSECURE_ROOTS + release(), "insecure roots"),
        ("version = 1", "names no evidence"),
    ],
    ids=["no release", "expired", "insecure", "insecure roots", "no policy"],
)
def test_what_nobody_would_use_is_not_signed(text: str, fault: str, tmp_path: Path, key: Path) -> None:
    path = written(tmp_path, text)
    result = _policy("sign", path, "--key", key)
    assert result.exit_code == REFUSED
    assert fault in result.stderr
    assert not signature_path(path).exists()


@pytest.mark.parametrize("content", [None, "", "canary", "ed25519-secret:canary", "\xff"])
def test_what_is_no_key_signs_nothing_and_is_not_repeated(content: str | None, tmp_path: Path) -> None:
    path = written(tmp_path, SNP + release())
    if content is not None:
        (tmp_path / "key").write_text(content, "utf-8")
    result = _policy("sign", path, "--key", tmp_path / "key")
    assert result.exit_code == USAGE
    assert "canary" not in result.output
    assert not signature_path(path).exists()


def test_a_signature_that_cannot_be_written_is_a_matter_of_usage(tmp_path: Path, key: Path) -> None:
    path = written(tmp_path, SNP + release())
    signature_path(path).mkdir()
    assert _policy("sign", path, "--key", key).exit_code == USAGE


# Checking.


def _rules(result: Result) -> dict[str, str]:
    return {line[:40].strip(): line[41:] for line in result.stdout.splitlines() if line[40:41] == " "}


def test_everything_that_is_asked_for_is_told_defaults_included(tmp_path: Path, state: Path) -> None:
    result = _policy(
        "check", written(tmp_path, SNP + release(7), key=KEY), "--policy-signer", str(KEY.signer), data=state
    )
    assert result.exit_code == ACCEPTED, result.stderr
    rules = _rules(result)
    assert (rules["signer"], rules["version"], rules["expires"]) == ("as pinned", "7", "2099-01-01T00:00:00Z")
    assert rules["snp.measurements"] == "ab" * 48
    assert (rules["snp.products.0.name"], rules["snp.products.0.min_tcb.microcode"]) == ("Milan", "219")
    assert (rules["snp.allow_smt"], rules["snp.chip_ids"]) == ("no", "not asked")
    assert (rules["tdx"], rules["gpu"], rules["models"]) == ("not asked", "not asked", "none")
    assert rules["statement.log_levels"] == "info, warning, error, critical"
    assert not state.exists()


def test_a_policy_of_nobody_in_particular_says_so(tmp_path: Path, state: Path) -> None:
    assert _rules(_policy("check", written(tmp_path, SNP), data=state))["signer"] == "none is asked for"


def test_what_is_insecure_is_red_and_nothing_else_is(tmp_path: Path, state: Path) -> None:
    coloured = {"NO_COLOR": "", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    roots = _policy("check", written(tmp_path, SNP + INSECURE_ROOTS), data=state, **coloured)
    insecure = _policy("check", written(tmp_path, INSECURE), data=state, **coloured)
    plain = _policy("check", written(tmp_path, SNP), data=state, **coloured)
    assert [line for line in roots.stdout.splitlines() if re.search(RED, line)] == [roots.stdout.splitlines()[0]]
    assert re.match(RED + r"INSECURE ROOTS for snp.*" + "cd" * 32, roots.stdout)
    assert re.match(RED + r"INSECURE policy", insecure.stdout)
    assert not re.search(RED, plain.stdout)


def test_a_refused_policy_is_told_and_leaves_with_its_code(tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, SNP + release(7), key=OTHER_KEY)
    result = _policy("check", path, "--policy-signer", str(KEY.signer), data=state)
    assert result.exit_code == REFUSED
    assert result.stderr.startswith("REFUSED: policy signature: by key")
    assert result.stdout == ""


def test_a_policy_older_than_what_was_used_is_refused_and_checking_remembers_nothing(
    tmp_path: Path, state: Path
) -> None:
    trust = PolicyTrust((KEY.signer,), state_dir=state)
    load_policy(written(tmp_path, SNP + release(7), key=KEY), trust, now=NOW)
    for version, code in ((9, ACCEPTED), (8, ACCEPTED), (6, REFUSED)):
        path = written(tmp_path, SNP + release(version), key=KEY)
        assert _policy("check", path, "--policy-signer", str(KEY.signer), data=state).exit_code == code


def test_a_least_version_is_held(tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, SNP + release(7), key=KEY)
    signer = ("--policy-signer", str(KEY.signer))
    assert _policy("check", path, *signer, "--min-policy-version", "7", data=state).exit_code == ACCEPTED
    assert _policy("check", path, *signer, "--min-policy-version", "8", data=state).exit_code == REFUSED


_USAGE = {
    "a file that is missing": ["check", "none.toml"],
    "a signer that is none": ["check", "POLICY", "--policy-signer", "ed25519:ab"],
    "a least version of nobody's": ["check", "POLICY", "--min-policy-version", "1"],
    "a least version of nothing": ["check", "POLICY", "--policy-signer", str(KEY.signer), "--min-policy-version", "0"],
    "an identity without its issuer": ["check", "POLICY", "--policy-sigstore-identity", "who"],
    "no key": ["sign", "POLICY"],
    "nothing": [],
}


@pytest.mark.parametrize("arguments", _USAGE.values(), ids=_USAGE.keys())
def test_a_wrong_call_is_a_matter_of_usage(arguments: list[str], tmp_path: Path, state: Path) -> None:
    path = written(tmp_path, SNP)
    result = _policy(*(path if argument == "POLICY" else argument for argument in arguments), data=state)
    assert result.exit_code == USAGE, _flat(result.output)
