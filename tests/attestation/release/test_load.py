"""With a pinned signer a policy is used only if it is signed, in force, and not older than the last one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestation.errors import PolicyError
from attestation.policy import MAX_POLICY_BYTES, read_policy
from attestation.release.load import check_policy, load_policy, refuse_unreleasable
from attestation.release.rollback import MARKS_FILE
from attestation.release.signature import signature_path
from attestation.release.trust import PolicyTrust, SigstoreTrust
from tests.attestation.policies import INSECURE, INSECURE_ROOTS, KEY, NOW, OTHER_KEY, SNP, release, written
from tests.places import ROOT

NOBODY = PolicyTrust()
RELEASED = SNP + release(7, "2026-06-01T12:00:01Z")


@pytest.fixture
def trust(tmp_path: Path) -> PolicyTrust:
    return PolicyTrust(signers=(KEY.signer,), state_dir=tmp_path / "state")


def _load(path: Path, trust: PolicyTrust) -> int | None:
    policy = load_policy(path, trust, now=NOW)
    assert policy == read_policy(path)
    return policy.release.version if policy.release else None


def test_a_signed_policy_in_force_is_used(tmp_path: Path, trust: PolicyTrust) -> None:
    assert _load(written(tmp_path, RELEASED, key=KEY), trust) == 7


def test_post_quantum_keys_can_be_asked_for_whatever_the_policy_says(tmp_path: Path, trust: PolicyTrust) -> None:
    path = written(tmp_path, RELEASED, key=KEY)
    asked = replace(trust, require_pq=True)
    for read in (load_policy, check_policy):
        assert not read(path, trust, now=NOW).statement.require_pq
        policy = read(path, asked, now=NOW)
        assert policy.statement.require_pq
        assert policy.digest == read_policy(path).digest


def test_any_one_of_the_pinned_signers_is_enough(tmp_path: Path) -> None:
    trust = PolicyTrust(signers=(OTHER_KEY.signer, KEY.signer), state_dir=tmp_path)
    assert _load(written(tmp_path, RELEASED, key=KEY), trust) == 7


def test_without_a_pinned_signer_no_signature_is_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path, INSECURE)
    signature_path(path).write_bytes(b"rubbish")
    assert _load(path, NOBODY) is None
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


def test_an_expiry_binds_an_unsigned_policy_too(tmp_path: Path) -> None:
    path = written(tmp_path, RELEASED)
    assert _load(path, NOBODY) == 7
    with pytest.raises(PolicyError, match="expired at 2026-06-01T12:00:01Z"):
        load_policy(path, NOBODY, now=NOW + timedelta(seconds=1))


_REFUSED = {
    "no release": (SNP, "it is signed and has no table `release`"),
    "expired now": (SNP + release(1, "2026-06-01T12:00:00Z"), "it expired at 2026-06-01T12:00:00Z"),
    "insecure": (INSECURE + release(), "it is signed and accepts development evidence"),
    "insecure roots": (SNP + INSECURE_ROOTS + release(), "it is signed and names insecure roots"),
    "no policy": ("version = 1", "names no evidence"),
}


@pytest.mark.parametrize(("text", "fault"), _REFUSED.values(), ids=_REFUSED.keys())
def test_a_signed_policy_that_may_not_be_used_is_refused(
    text: str, fault: str, tmp_path: Path, trust: PolicyTrust
) -> None:
    path = written(tmp_path, text, key=KEY)
    for read in (check_policy, load_policy):
        with pytest.raises(PolicyError, match=fault):
            read(path, trust, now=NOW)
    assert not (tmp_path / "state").exists()


def test_every_reason_is_told_at_once(tmp_path: Path) -> None:
    trust = PolicyTrust(signers=(KEY.signer,), min_version=8, state_dir=tmp_path)
    path = written(tmp_path, SNP + INSECURE_ROOTS + release(7, "2026-01-01T00:00:00Z"), key=KEY)
    with pytest.raises(PolicyError, match=r"^policy: version 7; at least 8 .*; it expired .*; .* insecure roots$"):
        load_policy(path, trust, now=NOW)


def test_nobody_signs_what_nobody_would_use(tmp_path: Path) -> None:
    refuse_unreleasable(read_policy(written(tmp_path, RELEASED)), now=NOW)
    for text, fault in list(_REFUSED.values())[:-1]:
        policy = read_policy(written(tmp_path, text))
        with pytest.raises(PolicyError, match=fault):
            refuse_unreleasable(policy, now=NOW)


_UNSIGNED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no signature": (lambda path: signature_path(path).unlink(), r"policy.toml.sig: No such file"),
    "another's signature": (
        lambda path: signature_path(path).write_bytes(OTHER_KEY.sign(path.read_bytes())), "not pinned",
    ),
    "a file changed since": (lambda path: path.write_bytes(path.read_bytes() + b"\n"), "not of this file"),
    "a file that cannot be read as a policy": (lambda path: path.write_bytes(b"\xff"), "not of this file"),
    "a signature too long": (
        lambda path: signature_path(path).write_bytes(KEY.sign(path.read_bytes()) + b" " * 9999), "longer than",
    ),
    "no policy": (lambda path: path.unlink(), "policy.toml: No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "fault"), _UNSIGNED.values(), ids=_UNSIGNED.keys())
def test_what_is_not_signed_is_refused(
    change: Callable[[Path], object], fault: str, tmp_path: Path, trust: PolicyTrust
) -> None:
    path = written(tmp_path, RELEASED, key=KEY)
    change(path)
    with pytest.raises(PolicyError, match=fault):
        load_policy(path, trust, now=NOW)
    assert not (tmp_path / "state").exists()


def test_a_policy_of_any_length_is_read_no_further_than_its_limit(tmp_path: Path, trust: PolicyTrust) -> None:
    path = written(tmp_path, "#" * (MAX_POLICY_BYTES + 1), key=KEY)
    with pytest.raises(PolicyError, match="longer than"):
        load_policy(path, trust, now=NOW)


# Versions.


def test_an_older_version_is_refused_once_a_newer_one_was_used(tmp_path: Path, trust: PolicyTrust) -> None:
    assert _load(written(tmp_path, SNP + release(2), key=KEY), trust) == 2
    assert _load(written(tmp_path, SNP + release(3), key=KEY), trust) == 3
    older = written(tmp_path, SNP + release(2), key=KEY)
    for read in (check_policy, load_policy):
        with pytest.raises(PolicyError, match="version 2; version 3 was accepted here before"):
            read(older, trust, now=NOW)


def test_a_version_that_was_given_out_twice_is_refused(tmp_path: Path, trust: PolicyTrust) -> None:
    load_policy(written(tmp_path, SNP + release(2), key=KEY), trust, now=NOW)
    with pytest.raises(PolicyError, match="with other content"):
        load_policy(written(tmp_path, SNP + release(2) + "# changed\n", key=KEY), trust, now=NOW)


def test_checking_remembers_nothing(tmp_path: Path, trust: PolicyTrust) -> None:
    check_policy(written(tmp_path, SNP + release(9), key=KEY), trust, now=NOW)
    assert _load(written(tmp_path, SNP + release(8), key=KEY), trust) == 8


def test_a_least_version_is_held_without_any_memory(tmp_path: Path) -> None:
    trust = PolicyTrust(signers=(KEY.signer,), min_version=7)
    assert _load(written(tmp_path, SNP + release(7), key=KEY), trust) == 7
    with pytest.raises(PolicyError, match="version 6; at least 7"):
        load_policy(written(tmp_path, SNP + release(6), key=KEY), trust, now=NOW)


@pytest.mark.parametrize("place", [None, "file"])
def test_without_memory_a_least_version_is_needed(place: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state_dir = tmp_path / place if place else None
    path = written(tmp_path, RELEASED, key=KEY)
    for read in (check_policy, load_policy):
        with pytest.raises(PolicyError, match=r"cannot be remembered .*--min-policy-version"):
            read(path, PolicyTrust(signers=(KEY.signer,), state_dir=state_dir), now=NOW)
    assert _load(path, PolicyTrust(signers=(KEY.signer,), min_version=1, state_dir=state_dir)) == 7


def test_what_is_remembered_counts_where_nothing_more_can_be(tmp_path: Path) -> None:
    """The lock cannot be taken, as on a file system that became read-only; the marks can still be read."""
    trust = PolicyTrust(signers=(KEY.signer,), min_version=1, state_dir=tmp_path / "state")
    load_policy(written(tmp_path, SNP + release(3), key=KEY), trust, now=NOW)
    (tmp_path / "state" / "policy-versions.lock").unlink()
    (tmp_path / "state" / "policy-versions.lock").mkdir()
    with pytest.raises(PolicyError, match="version 3 was accepted"):
        load_policy(written(tmp_path, SNP + release(2), key=KEY), trust, now=NOW)
    assert _load(written(tmp_path, SNP + release(4), key=KEY), trust) == 4
    with pytest.raises(PolicyError, match="cannot be remembered"):
        load_policy(tmp_path / "policy.toml", PolicyTrust((KEY.signer,), state_dir=tmp_path / "state"), now=NOW)


def test_marks_that_cannot_be_read_refuse_whatever_the_least_version(tmp_path: Path) -> None:
    (tmp_path / MARKS_FILE).write_bytes(b"{")
    trust = PolicyTrust(signers=(KEY.signer,), min_version=1, state_dir=tmp_path)
    with pytest.raises(PolicyError, match=MARKS_FILE):
        load_policy(written(tmp_path, RELEASED, key=KEY), trust, now=NOW)


# What is loaded.


def test_sigstore_is_not_loaded_unless_it_is_pinned() -> None:
    program = "import attestation.release.load, attestation.cli.policy, sys; print('sigstore' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert output.strip() == b"False"


def test_without_the_extra_a_pinned_identity_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "attestation.release.provenance", raising=False)
    monkeypatch.setitem(sys.modules, "sigstore", None)
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    path = written(tmp_path, RELEASED)
    path.with_name("policy.toml.sigstore.json").write_bytes(b"{}")
    trust = PolicyTrust(sigstore=SigstoreTrust(tmp_path, "who", "by whom"))
    with pytest.raises(PolicyError, match=r"pip install 'sottovoce\[sigstore\]'"):
        load_policy(path, trust, now=NOW)
