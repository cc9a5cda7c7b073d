"""Whom a policy must come from is told in one way to every program, and what means nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from attestation.errors import PolicyError
from attestation.release.trust import PolicyTrust, TrustOptions
from core.program.files import state_directory
from tests.attestation.policies import KEY, OTHER_KEY


def _options(**given: Any) -> TrustOptions:
    return TrustOptions(policy=Path("policy.toml"), **given)


def test_nobody_in_particular_is_trusted_by_default() -> None:
    assert _options().policy_trust == PolicyTrust(state_dir=state_directory())
    assert not _options().policy_trust.pins_signer


def test_options_are_read_as_they_are_spelled(tmp_path: Path) -> None:
    signers = (str(KEY.signer), str(OTHER_KEY.signer))
    given = _options(policy_signer=signers, min_policy_version=3, state_dir=tmp_path)
    assert given.policy_trust == PolicyTrust((KEY.signer, OTHER_KEY.signer), 3, tmp_path)


def test_an_identity_of_sigstore_pins_as_a_key_does(tmp_path: Path) -> None:
    options = _options(
        policy_sigstore_root=tmp_path,
        policy_sigstore_identity="who",
        policy_sigstore_issuer="by whom",
        min_policy_version=1,
    )
    sigstore = options.policy_trust.sigstore
    assert options.policy_trust.pins_signer
    assert sigstore is not None
    assert (sigstore.trusted_root, sigstore.identity, sigstore.issuer) == (tmp_path, "who", "by whom")


_MEANINGLESS: Mapping[str, tuple[dict[str, Any], str]] = {
    "a signer that is none": ({"policy_signer": ("ed25519:ab",)}, "64 lower-case hexadecimal"),
    "an empty signer": ({"policy_signer": ("",)}, "64 lower-case hexadecimal"),
    "a number for a signer": ({"policy_signer": (7,)}, "64 lower-case hexadecimal"),
    "an identity without its issuer": ({"policy_sigstore_identity": "who"}, "need each other"),
    "an empty identity": ({"policy_sigstore_identity": ""}, "need each other"),
    "an issuer alone": ({"policy_sigstore_issuer": "by whom"}, "need each other"),
    "a root alone": ({"policy_sigstore_root": Path("r")}, "need each other"),
    "a least version of nobody's": ({"min_policy_version": 1}, "means nothing without a pinned signer"),
    "a least version of nothing": ({"policy_signer": (str(KEY.signer),), "min_policy_version": 0}, "greater than"),
}


@pytest.mark.parametrize(("given", "fault"), _MEANINGLESS.values(), ids=_MEANINGLESS.keys())
def test_options_that_mean_nothing_are_refused(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        _options(**given)


def test_a_least_version_of_nobodys_policies_is_refused_in_code_too() -> None:
    with pytest.raises(PolicyError, match="means nothing without a pinned signer"):
        PolicyTrust(min_version=1)
