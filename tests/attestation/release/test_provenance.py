"""A Sigstore bundle counts only if all of it is of the pinned instance, identity and policy."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import PolicyError
from attestation.release.load import load_policy
from tests.attestation.policies import KEY, NOW, SNP, release, written

pytest.importorskip("sigstore", reason="needs the extra `sigstore`")

from attestation.release.provenance import MAX_TOLD_CHARACTERS, verify_provenance
from attestation.release.trust import PolicyTrust, SigstoreTrust
from tests.attestation.release.sigstore_instance import (
    IDENTITY,
    ISSUER,
    SIGNED_AT,
    SigstoreInstance,
    attested,
    attested_with_time_stamp,
    signed,
    statement,
)

POLICY = (SNP + release(7)).encode()
OTHER_POLICY = (SNP + release(8)).encode()
STATEMENT = json.dumps(statement(POLICY)).encode()
INSTANCE, OTHER_INSTANCE = SigstoreInstance(), SigstoreInstance()
GOOD = {
    "a statement, as Rekor v1 logs it": attested(INSTANCE, STATEMENT),
    "a statement, as Rekor v2 logs it": attested_with_time_stamp(INSTANCE, STATEMENT),
    "a signature over the file": signed(INSTANCE, POLICY),
}
STATED, STAMPED, SIGNED = GOOD.values()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> SigstoreTrust:
    path = tmp_path_factory.mktemp("root") / "trusted_root.json"
    path.write_bytes(INSTANCE.trusted_root())
    return SigstoreTrust(path, IDENTITY, ISSUER)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a bundle is verified without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _verify(bundle: dict[str, Any], trust: SigstoreTrust, policy: bytes = POLICY) -> None:
    verify_provenance(policy, json.dumps(bundle).encode(), trust)


@pytest.mark.parametrize("bundle", GOOD.values(), ids=GOOD.keys())
def test_a_bundle_of_the_pinned_identity_is_accepted(bundle: dict[str, Any], trust: SigstoreTrust) -> None:
    _verify(bundle, trust)
    _verify({**bundle, "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.3"}, trust)


@pytest.mark.parametrize("bundle", GOOD.values(), ids=GOOD.keys())
def test_another_policy_is_refused(bundle: dict[str, Any], trust: SigstoreTrust) -> None:
    with pytest.raises(PolicyError, match=r"not about this policy|digest mismatch"):
        _verify(bundle, trust, OTHER_POLICY)


@pytest.mark.parametrize("bundle", GOOD.values(), ids=GOOD.keys())
@pytest.mark.parametrize(
    ("pinned", "fault"),
    [
        ({"identity": IDENTITY.replace("main", "other")}, "SANs do not match"),
        ({"identity": IDENTITY[:-1]}, "SANs do not match"),
        ({"issuer": "https://issuer.invalid"}, "OIDCIssuerV2 does not match"),
    ],
    ids=["another identity", "the beginning of the identity", "another issuer"],
)
def test_another_signer_is_refused(
    bundle: dict[str, Any], pinned: dict[str, Any], fault: str, trust: SigstoreTrust
) -> None:
    with pytest.raises(PolicyError, match=fault):
        _verify(bundle, replace(trust, **pinned))


@pytest.mark.parametrize("part", ["ca_key", "ct_key", "rekor_key"])
@pytest.mark.parametrize(
    "make", [lambda instance: attested(instance, STATEMENT), lambda instance: signed(instance, POLICY)]
)
def test_a_bundle_with_one_part_of_another_instance_is_refused(
    make: Callable[[SigstoreInstance], dict[str, Any]], part: str, trust: SigstoreTrust
) -> None:
    other = replace(INSTANCE, **{part: getattr(OTHER_INSTANCE, part)})
    faults = {"ca_key": "certificate chain", "ct_key": "SCT verify failed", "rekor_key": "invalid log entry"}
    with pytest.raises(PolicyError, match=faults[part]):
        _verify(make(other), trust)


@pytest.mark.parametrize("part", ["tsa_key", "tsa_ca_key"])
def test_a_time_stamp_of_another_authority_is_refused(part: str, trust: SigstoreTrust) -> None:
    other = replace(INSTANCE, **{part: getattr(OTHER_INSTANCE, part)})
    with pytest.raises(PolicyError, match="not enough sources of verified time"):
        _verify(attested_with_time_stamp(other, STATEMENT), trust)


def test_under_another_trusted_root_nothing_is_accepted(tmp_path: Path, trust: SigstoreTrust) -> None:
    (tmp_path / "root.json").write_bytes(OTHER_INSTANCE.trusted_root())
    for bundle in GOOD.values():
        with pytest.raises(PolicyError, match=r"^Sigstore bundle: "):
            _verify(bundle, replace(trust, trusted_root=tmp_path / "root.json"))


@dataclass(frozen=True)
class _Stated:
    """A statement that the pinned identity did sign, and that says something else than is asked."""

    payload: bytes
    fault: str
    payload_type: str = "application/vnd.in-toto+json"


def _with(**changes: Any) -> bytes:
    return json.dumps({**statement(POLICY), **changes}).encode()


_STATED = {
    "another predicate": _Stated(_with(predicateType="https://example.org/scan/v1"), "is not one of https://slsa.dev"),
    "no predicate": _Stated(_with(predicateType=None), "is not one of https://slsa.dev"),
    "another version of in-toto": _Stated(_with(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto statement"),
    "another kind of payload": _Stated(STATEMENT, "not an in-toto statement", payload_type="text/plain"),
    "no object": _Stated(b"[]", "not an in-toto statement"),
    "no JSON": _Stated(b"{", "not JSON"),
    "a member twice": _Stated(b'{"_type":1,"_type":2}', "names a member twice"),
    "no subject": _Stated(_with(subject=[]), "not about this policy"),
    "subjects that are none": _Stated(_with(subject=[None, {"digest": None}, {"digest": {"sha512": ""}}]), "not about"),
    "a subject of another type": _Stated(_with(subject={"digest": {}}), "not about this policy"),
    "a digest of another kind": _Stated(
        _with(subject=[{"digest": {"sha512": statement(POLICY)["subject"][0]["digest"]["sha256"]}}]), "not about"
    ),
}


@pytest.mark.parametrize("case", _STATED.values(), ids=_STATED.keys())
def test_a_statement_that_says_something_else_is_refused(case: _Stated, trust: SigstoreTrust) -> None:
    with pytest.raises(PolicyError, match=case.fault):
        _verify(attested(INSTANCE, case.payload, payload_type=case.payload_type), trust)


def test_a_statement_may_be_about_other_files_too(trust: SigstoreTrust) -> None:
    subjects = [*statement(OTHER_POLICY)["subject"], *statement(POLICY)["subject"]]
    _verify(attested(INSTANCE, _with(subject=subjects, later="ignored")), trust)


def _entry(bundle: dict[str, Any]) -> Any:
    return bundle["verificationMaterial"]["tlogEntries"][0]


def _flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


def _flipped(bundle: dict[str, Any], *place: str | int) -> dict[str, Any]:
    changed = deepcopy(bundle)
    holder: Any = changed
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = _flip(holder[place[-1]])
    return changed


def _places(value: Any, *place: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where base64 stands in a bundle."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _places(member, *place, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, *place, index)
    elif place[-1] in ("rawBytes", "rootHash", "canonicalizedBody", "payload", "sig", "signature", "digest") or (
        place[-1] in ("signedEntryTimestamp", "signedTimestamp") or "hashes" in place
    ):
        yield place


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, bundle in GOOD.items() for place in _places(bundle)]
)
def test_a_bundle_with_one_bit_changed_is_refused(
    name: str, place: tuple[str | int, ...], trust: SigstoreTrust
) -> None:
    with pytest.raises(PolicyError, match=r"^Sigstore bundle: "):
        _verify(_flipped(GOOD[name], *place), trust)


def test_a_bundle_of_an_older_version_is_refused_though_all_in_it_is_right(trust: SigstoreTrust) -> None:
    older = deepcopy(STATED)
    older["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    material = older["verificationMaterial"]
    material["x509CertificateChain"] = {"certificates": [material.pop("certificate")]}
    with pytest.raises(PolicyError, match=r"not one of version 0\.3"):
        _verify(older, trust)


def test_a_bundle_of_one_signature_with_the_log_entry_of_another_is_refused(trust: SigstoreTrust) -> None:
    mixed = deepcopy(STATED)
    mixed["verificationMaterial"]["tlogEntries"] = [_entry(attested(INSTANCE, STATEMENT))]
    with pytest.raises(PolicyError, match="signatures do not match"):
        _verify(mixed, trust)


def test_a_signature_made_when_the_certificate_was_not_in_force_is_refused(trust: SigstoreTrust) -> None:
    late = deepcopy(STATED)
    body = base64.b64decode(_entry(STATED)["canonicalizedBody"])
    late["verificationMaterial"]["tlogEntries"] = [INSTANCE.promised(body, "dsse", SIGNED_AT + timedelta(hours=1))]
    with pytest.raises(PolicyError, match="certificate chain"):
        _verify(late, trust)


def test_a_time_that_nobody_promised_is_no_time(trust: SigstoreTrust) -> None:
    unpromised = deepcopy(STATED)
    del _entry(unpromised)["inclusionPromise"]
    with pytest.raises(PolicyError, match="inclusion promise or signed timestamp"):
        _verify(unpromised, trust)


_MALFORMED = {
    "nothing": b"",
    "an empty object": b"{}",
    "no object": b"[]",
    "a member twice": b'{"mediaType":"a","mediaType":"b"}',
    "nothing in it": b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}',
    "both kinds": json.dumps({**STATED, "messageSignature": SIGNED["messageSignature"]}).encode(),
    "no log entry": json.dumps(
        {**STATED, "verificationMaterial": {**STATED["verificationMaterial"], "tlogEntries": []}}
    ).encode(),
    "too long": json.dumps(STATED).encode() + b" " * 1024 * 1024,
}


@pytest.mark.parametrize("data", _MALFORMED.values(), ids=_MALFORMED.keys())
def test_what_is_no_bundle_is_refused(data: bytes, trust: SigstoreTrust) -> None:
    with pytest.raises(PolicyError, match=r"^Sigstore bundle: "):
        verify_provenance(POLICY, data, trust)


@given(data=st.data())
def test_no_bundle_does_more_than_be_refused(data: st.DataObject, trust: SigstoreTrust) -> None:
    """Any member replaced by any JSON: the libraries raise much, a caller sees one kind of error and a short text."""
    bundle = deepcopy(data.draw(st.sampled_from(list(GOOD.values()))))
    holder: Any = bundle
    while True:
        key = data.draw(
            st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.integers(0, len(holder) - 1)
        )
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    value: object = data.draw(
        st.none() | st.booleans() | st.integers(-1, 2**53) | st.text(max_size=8) | st.just("A" * 999) | st.just([])
        | st.just({}) | st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode())
    )  # fmt: skip
    before, holder[key] = holder[key], value
    refusal = _refusal(bundle, trust)
    if refusal is None:
        assert value == before or key in _UNSIGNED_MEMBERS, key
    else:
        assert refusal.isprintable()
        assert len(refusal) < MAX_TOLD_CHARACTERS + 100


def _refusal(bundle: dict[str, Any], trust: SigstoreTrust) -> str | None:
    try:
        _verify(bundle, trust)
    except PolicyError as exc:
        return str(exc)
    return None


_UNSIGNED_MEMBERS = ("keyid", "logIndex", "timestampVerificationData", "rfc3161Timestamps", "messageDigest", "keyId")
"""Hints, and a second source of time beside the promise: what they say, or that they are missing, changes nothing."""


@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b'{"mediaType": 1}'], ids=["none", "empty", "no members", "no type"]
)
def test_a_trusted_root_that_is_none_is_refused(content: bytes | None, tmp_path: Path, trust: SigstoreTrust) -> None:
    path = tmp_path / "root.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyError, match=r"^Sigstore trusted root, .*root\.json: "):
        _verify(STATED, replace(trust, trusted_root=path))


def test_the_instance_that_the_library_ships_does_not_vouch_for_ours(trust: SigstoreTrust) -> None:
    import sigstore._store

    (shipped,) = Path(sigstore._store.__path__[0]).glob("*sigstore.dev/trusted_root.json")
    with pytest.raises(PolicyError, match=r"^Sigstore bundle: "):
        _verify(STATED, replace(trust, trusted_root=shipped))


# As a policy is loaded.


def _released(directory: Path, version: int, bundle: dict[str, Any] | None) -> Path:
    path = written(directory, SNP + release(version))
    if bundle is not None:
        path.with_name("policy.toml.sigstore.json").write_text(json.dumps(bundle))
    return path


def test_a_policy_of_the_pinned_identity_is_used_and_its_version_remembered(
    tmp_path: Path, trust: SigstoreTrust
) -> None:
    pinned = PolicyTrust(sigstore=trust, state_dir=tmp_path / "state")
    assert load_policy(_released(tmp_path, 7, STATED), pinned, now=NOW).release
    older = _released(tmp_path, 6, signed(INSTANCE, (SNP + release(6)).encode()))
    with pytest.raises(PolicyError, match="version 7 was accepted here before"):
        load_policy(older, pinned, now=NOW)


def test_a_policy_without_a_bundle_is_refused(tmp_path: Path, trust: SigstoreTrust) -> None:
    with pytest.raises(PolicyError, match=r"policy.toml.sigstore.json: No such file"):
        load_policy(_released(tmp_path, 7, None), PolicyTrust(sigstore=trust, min_version=1), now=NOW)


def test_where_a_key_and_an_identity_are_pinned_both_must_have_signed(tmp_path: Path, trust: SigstoreTrust) -> None:
    both = PolicyTrust((KEY.signer,), sigstore=trust, min_version=1)
    path = _released(tmp_path, 7, STATED)
    with pytest.raises(PolicyError, match=r"policy.toml.sig: No such file"):
        load_policy(path, both, now=NOW)
    path.with_name("policy.toml.sig").write_bytes(KEY.sign(POLICY))
    assert load_policy(path, both, now=NOW).release
    path.with_name("policy.toml.sigstore.json").unlink()
    with pytest.raises(PolicyError, match=r"sigstore.json: No such file"):
        load_policy(path, both, now=NOW)
