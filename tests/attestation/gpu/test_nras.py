"""A second opinion counts when NVIDIA signed all of it, today, about our nonce and exactly our devices."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256, sha384
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from attestation.gpu import nras
from attestation.gpu.evidence import Architecture, DeviceAnswer, Kind
from attestation.gpu.nras import NrasPolicy
from attestation.types import Check, CheckStatus, Collateral, CollateralKey, CollateralKind, Nonce
from core.program.validation import validate
from tests.attestation.gpu.forge_rim import (
    ISSUER,
    NOW,
    TODAY,
    YESTERDAY,
    TokenSigner,
    base64url,
    common_claims,
    device_claims,
    jwks,
    nras_answer,
    nras_bundle,
    token,
)

NONCE = Nonce(bytes(range(32)))
OTHER_NONCE = Nonce(bytes(32))
KEYS = jwks(YESTERDAY, TODAY)
GOOD = nras_answer(NONCE, count=2)

ASKING = NrasPolicy(
    hwmodels=("GH100 A01 GSP BROM", "GB100 A01 GSP BROM"),
    driver_versions=("550.144.03",),
    vbios_versions=("96.00.5E.00.01",),
    switch_hwmodels=("LS_10 A01 SOE BROM",),
    switch_bios_versions=("96.10.55.00.01",),
)
LINES = ["answer", "signature", "issuer", "lifetime", "nonce", "devices", "result", "hwmodel", "driver", "vbios"]
SWITCH_LINES = [*LINES[:8], "bios"]


def _judge(
    answer: bytes | None = GOOD,
    keys: bytes | None = KEYS,
    policy: NrasPolicy = ASKING,
    *,
    kind: Kind = "gpu",
    count: int = 2,
    now: datetime = NOW,
) -> tuple[Check, ...]:
    collateral = {nras.key(kind, NONCE): answer, nras.KEYS: keys}
    present: Collateral = {key: data for key, data in collateral.items() if data is not None}
    return nras.judge(present, policy, kind=kind, nonce=NONCE, count=count, now=now)


def _of(checks: tuple[Check, ...], status: CheckStatus) -> list[str]:
    return [check.name.split()[-1] for check in checks if check.status is status]


def _fails_only(checks: tuple[Check, ...], line: str, reason: str) -> None:
    assert _of(checks, CheckStatus.FAIL) == [line], checks
    (detail,) = [check.detail for check in checks if check.failed]
    assert reason in detail
    assert detail.isprintable()


def test_devices_that_nvidia_accepts_pass_every_check() -> None:
    checks = _judge()
    assert [check.name for check in checks] == [f"nras gpu {line}" for line in LINES]
    assert _of(checks, CheckStatus.PASS) == LINES


def test_switches_that_nvidia_accepts_pass_every_check() -> None:
    checks = _judge(nras_answer(NONCE, kind="switch", count=4), kind="switch", count=4)
    assert [check.name for check in checks] == [f"nras switch {line}" for line in SWITCH_LINES]
    assert _of(checks, CheckStatus.PASS) == SWITCH_LINES


def test_what_the_policy_does_not_ask_is_skipped_and_not_passed() -> None:
    assert _of(_judge(policy=NrasPolicy()), CheckStatus.SKIP) == ["hwmodel", "driver", "vbios"]
    switches = _judge(nras_answer(NONCE, kind="switch"), policy=NrasPolicy(), kind="switch", count=1)
    assert _of(switches, CheckStatus.SKIP) == ["hwmodel", "bios"]


def test_what_will_be_looked_up_is_known_beforehand() -> None:
    gpu = CollateralKey(CollateralKind.GPU_NRAS, f"gpu/{NONCE.hex()}")
    switch = CollateralKey(CollateralKind.GPU_NRAS, f"switch/{NONCE.hex()}")
    keys = CollateralKey(CollateralKind.GPU_NRAS_KEYS, "jwks")
    assert nras.needs(["gpu"], NONCE) == (gpu, keys)
    assert nras.needs(["gpu", "switch"], NONCE) == (gpu, switch, keys)


def test_the_question_is_the_evidence_of_every_device() -> None:
    asked: tuple[tuple[Kind, Architecture, str], ...] = (
        ("gpu", Architecture.HOPPER, "4.0"),
        ("gpu", Architecture.BLACKWELL, "4.0"),
        ("switch", Architecture.LS10, "3.0"),
    )
    for kind, architecture, version in asked:
        device = DeviceAnswer(architecture, NONCE, b"ev", b"cert")
        assert json.loads(nras.request(kind, [device, device], NONCE)) == {
            "nonce": NONCE.hex(),
            "arch": architecture,
            "claims_version": version,
            "evidence_list": [{"evidence": "ZXY=", "certificate": "Y2VydA=="}] * 2,
        }


# --- each fault fails its check


def _device(**claims: Any) -> bytes:
    return nras_answer(NONCE, count=2, device=_named(claims))


def _overall(**claims: Any) -> bytes:
    return nras_answer(NONCE, count=2, overall=_named(claims))


def _named(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """Python's names as those of claims."""
    return {name.replace("_", "-") if name.startswith("x_") else name: value for name, value in claims.items()}


def _tokens() -> dict[str, str]:
    bundle: tuple[list[str], dict[str, str]] = json.loads(GOOD)
    return bundle[1]


def _bundle(devices: Mapping[str, str]) -> bytes:
    """An overall token that commits to other device tokens."""
    return nras_bundle(devices, NONCE)


def _swapped(change: Callable[[dict[str, str]], dict[str, str]]) -> bytes:
    """The good overall token, around other device tokens."""
    overall, devices = json.loads(GOOD)
    return json.dumps([overall, change(devices)]).encode()


def _resigned(sign: Callable[[str], str]) -> bytes:
    """The good answer, with the overall token's `header.claims.signature` made anew by `sign` from its claims."""
    overall, devices = json.loads(GOOD)
    return json.dumps([["JWT", sign(overall[1].split(".")[1])], devices]).encode()


def _head(**header: Any) -> str:
    return base64url(json.dumps(header).encode())


def _hmac_token(payload: str) -> str:
    """HS256 with the public key as its secret: a verifier that lets the token choose takes it."""
    signed = f"{_head(alg='HS256', kid=TODAY.kid)}.{payload}"
    return f"{signed}.{base64url(hmac.digest(json.dumps(TODAY.jwk).encode(), signed.encode(), 'sha256'))}"


def _der_token(payload: str) -> str:
    signed = f"{_head(alg='ES384', kid=TODAY.kid)}.{payload}"
    return f"{signed}.{base64url(TODAY.key.sign(signed.encode(), ec.ECDSA(SHA384())))}"


_NO_KID = json.loads(GOOD)[0][1].split(".")[1]
_CLAIMS = json.loads(base64.urlsafe_b64decode(_NO_KID + "=" * (-len(_NO_KID) % 4)))
_IMPOSTOR = TokenSigner(TODAY.kid, ec.generate_private_key(ec.SECP384R1()))
_AT = int(NOW.timestamp())
_MISMATCH = {
    "id": 37,
    "name": "FSP_UCODE_MIN_SVN",
    "goldenType": "MIN_SVN",
    "goldenValue": 5,
    "runtimeType": "MIN_SVN",
    "runtimeValue": 4,
}
_GOOD_CHAIN = {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}

FAULTS: Mapping[str, tuple[bytes, str, str]] = {
    "alg none": (_resigned(lambda payload: f"{_head(alg='none', kid=TODAY.kid)}.{payload}."), "signature", "ES384"),
    "alg none without kid": (_resigned(lambda payload: f"{_head(alg='none')}.{payload}."), "signature", "ES384"),
    "HS256": (_resigned(_hmac_token), "signature", "ES384"),
    "ES256": (_resigned(lambda _: token(_CLAIMS, alg="ES256")), "signature", "ES384"),
    "alg in another case": (_resigned(lambda _: token(_CLAIMS, alg="es384")), "signature", "ES384"),
    "several algs": (_resigned(lambda _: token(_CLAIMS, alg=["ES384"])), "signature", "ES384"),
    "a critical header": (_resigned(lambda _: token(_CLAIMS, crit=["b64"], b64=False)), "signature", "ES384 alone"),
    "a DER signature": (_resigned(_der_token), "signature", "not of ES384"),
    "no kid": (_resigned(lambda _: token(_CLAIMS, kid=None)), "signature", "not in NVIDIA's key set"),
    "another kid": (_resigned(lambda _: token(_CLAIMS, kid="mine")), "signature", "not in NVIDIA's key set"),
    "a key in the header": (
        _resigned(lambda _: token(_CLAIMS, _IMPOSTOR, kid="mine", jwk=_IMPOSTOR.jwk)),
        "signature",
        "not in NVIDIA's key set",
    ),
    "an impostor's signature": (_resigned(lambda _: token(_CLAIMS, _IMPOSTOR)), "signature", "does not verify"),
    "the kid of another key": (_resigned(lambda _: token(_CLAIMS, kid=YESTERDAY.kid)), "signature", "not verify"),
    "another issuer": (_overall(iss="https://nras.attestation.nvidia.com.evil"), "issuer", ISSUER),
    "another issuer of a device": (_device(iss=f"{ISSUER}/"), "issuer", ISSUER),
    "no issuer": (_device(iss=None), "issuer", ISSUER),
    "expired": (_overall(exp=_AT), "lifetime", "expired at 2026-06-01 12:00:00 UTC"),
    "a device expired": (_device(exp=_AT - 1), "lifetime", "expired"),
    "no expiry": (_device(exp=None), "lifetime", "no exp"),
    "an expiry in words": (_device(exp="tomorrow"), "lifetime", "no exp"),
    "an expiry in fractions": (_device(exp=_AT + 0.5), "lifetime", "no exp"),
    "an expiry that is true": (_device(exp=True), "lifetime", "no exp"),
    "an expiry beyond time": (_device(exp=2**53 - 1), "lifetime", "no exp"),
    "not yet valid": (_overall(nbf=_AT + 301), "lifetime", "not valid before 2026-06-01 12:05:01 UTC"),
    "a device not yet valid": (_device(nbf=_AT + 301), "lifetime", "not valid before"),
    "no beginning": (_overall(nbf=None), "lifetime", "no nbf"),
    "another nonce": (_overall(eat_nonce=OTHER_NONCE.hex()), "nonce", "another nonce"),
    "another nonce of a device": (_device(eat_nonce=OTHER_NONCE.hex()), "nonce", "another nonce"),
    "no nonce": (_device(eat_nonce=None), "nonce", "does not say which nonce"),
    "a nonce among others": (_overall(eat_nonce=[NONCE.hex()]), "nonce", "another nonce"),
    "a device dropped": (_swapped(lambda d: {"GPU-0": d["GPU-0"]}), "devices", "exactly these"),
    "a device added": (_swapped(lambda d: {**d, "GPU-2": d["GPU-1"]}), "devices", "exactly these"),
    "a device renamed": (_swapped(lambda d: {"GPU-0": d["GPU-0"], "GPU-9": d["GPU-1"]}), "devices", "exactly these"),
    "devices exchanged": (
        _swapped(lambda d: {"GPU-0": d["GPU-1"], "GPU-1": d["GPU-0"]}),
        "devices",
        "exactly these",
    ),
    "a device of another answer": (
        _swapped(lambda d: {**d, "GPU-1": token({**device_claims(NONCE), "ueid": "7"})}),
        "devices",
        "exactly these",
    ),
    "no submods": (_overall(submods=None), "devices", "exactly these"),
    "digests of another algorithm": (
        _overall(submods={n: ["DIGEST", ["SHA-384", sha384(t.encode()).hexdigest()]] for n, t in _tokens().items()}),
        "devices",
        "exactly these",
    ),
    "digests in capitals": (
        _overall(
            submods={n: ["DIGEST", ["SHA-256", sha256(t.encode()).hexdigest().upper()]] for n, t in _tokens().items()}
        ),
        "devices",
        "exactly these",
    ),
    "one device of two": (_bundle({"GPU-0": _tokens()["GPU-0"]}), "devices", "speaks of 1 devices, and there are 2"),
    "three devices of two": (_bundle({**_tokens(), "GPU-2": _tokens()["GPU-0"]}), "devices", "speaks of 3 devices"),
    "no overall success": (_overall(x_nvidia_overall_att_result=False), "result", "overall: not a success"),
    "an overall success in words": (_overall(x_nvidia_overall_att_result="true"), "result", "overall: not a success"),
    "an overall success of 1": (_overall(x_nvidia_overall_att_result=1), "result", "overall: not a success"),
    "other measurements": (_device(measres="fail"), "result", "GPU-0: measres is not success; GPU-1: measres"),
    "no measurements": (_device(measres=None), "result", "measres is not success"),
    "no secure boot": (_device(secboot=False), "result", "secboot is not true"),
    "secure boot in words": (_device(secboot="true"), "result", "secboot is not true"),
    "debugging": (_device(dbgstat="enabled"), "result", "dbgstat is not disabled"),
    "the report has another nonce": (
        _device(x_nvidia_gpu_attestation_report_nonce_match=False),
        "result",
        "nonce-match is not true",
    ),
    "no word of the report's nonce": (
        _device(x_nvidia_gpu_attestation_report_nonce_match=None),
        "result",
        "nonce-match is not true",
    ),
    "anything else false": (_device(x_nvidia_gpu_arch_check=False), "result", "x-nvidia-gpu-arch-check is false"),
    "a revoked chain": (
        _device(x_nvidia_gpu_driver_rim_cert_chain={**_GOOD_CHAIN, "x-nvidia-cert-ocsp-status": "revoked"}),
        "result",
        "x-nvidia-gpu-driver-rim-cert-chain is not valid and good",
    ),
    "a chain of no form": (_device(x_nvidia_gpu_driver_rim_cert_chain="valid"), "result", "not valid and good"),
    "an older version of claims": (
        _overall(x_nvidia_ver="3.0"),
        "result",
        "overall: claims of version 3.0, and 4.0 was asked for",
    ),
    "a later version of claims": (_overall(x_nvidia_ver="4.1"), "result", "claims of version 4.1, and 4.0"),
    "no version of claims": (_overall(x_nvidia_ver=None), "result", "claims of version (unprintable), and 4.0"),
    "a version that is a number": (_overall(x_nvidia_ver=4.0), "result", "claims of version (unprintable), and 4.0"),
    "mismatches of opaque data": (
        _device(x_nvidia_mismatch_opaque_data_records=[_MISMATCH]),
        "result",
        "GPU-0: x-nvidia-mismatch-opaque-data-records is not empty",
    ),
    "mismatches of measurements": (
        _device(x_nvidia_mismatch_measurement_records=[{"index": 9, "measurementSource": "driverRim"}]),
        "result",
        "GPU-0: x-nvidia-mismatch-measurement-records is not empty",
    ),
    "mismatches of another form": (
        _device(x_nvidia_mismatch_opaque_data_records={}),
        "result",
        "x-nvidia-mismatch-opaque-data-records is not empty",
    ),
    "mismatches by their number": (
        _device(x_nvidia_mismatch_opaque_data_records=0),
        "result",
        "x-nvidia-mismatch-opaque-data-records is not empty",
    ),
    "an error": (
        _device(x_nvidia_error_details={"code": 4010, "message": "NONCE_NOT_MATCHING"}),
        "result",
        "GPU-0: NRAS tells of an error",
    ),
    "an empty error": (_device(x_nvidia_error_details={}), "result", "NRAS tells of an error"),
    "a warning": (_device(x_nvidia_attestation_warning="certificate on hold"), "result", "NRAS warns"),
    "another model": (_device(hwmodel="AD102"), "hwmodel", "GPU-0: AD102, GPU-1: AD102"),
    "no model": (_device(hwmodel=None), "hwmodel", "GPU-0: (unprintable)"),
    "an unprintable model": (_device(hwmodel="\u202e\x1b[2J"), "hwmodel", "(unprintable)"),
    "another driver": (_device(x_nvidia_gpu_driver_version="1"), "driver", "GPU-0: 1"),
    "another VBIOS": (_device(x_nvidia_gpu_vbios_version=["96.00.5E.00.01"]), "vbios", "(unprintable)"),
}


@pytest.mark.parametrize(("answer", "line", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_fails_exactly_its_check(answer: bytes, line: str, reason: str) -> None:
    checks = _judge(answer)
    _fails_only(checks, line, reason)
    assert [check.name for check in checks] == [f"nras gpu {name}" for name in LINES]


def test_every_check_has_a_fault() -> None:
    assert {line for _, line, _ in FAULTS.values()} == set(LINES) - {"answer"}


SWITCH_FAULTS: Mapping[str, tuple[Mapping[str, Any], str, str]] = {
    "another model": ({"hwmodel": "LS_9"}, "hwmodel", "SWITCH-0: LS_9"),
    "another BIOS": ({"x-nvidia-switch-bios-version": "1"}, "bios", "SWITCH-0: 1"),
    "another nonce": ({"x-nvidia-switch-attestation-report-nonce-match": False}, "result", "nonce-match is not true"),
}


@pytest.mark.parametrize(("claims", "line", "reason"), SWITCH_FAULTS.values(), ids=SWITCH_FAULTS.keys())
def test_each_fault_of_a_switch_fails_exactly_its_check(claims: Mapping[str, Any], line: str, reason: str) -> None:
    checks = _judge(nras_answer(NONCE, kind="switch", device=claims), kind="switch", count=1)
    _fails_only(checks, line, reason)


def test_what_is_said_of_gpus_is_not_taken_for_switches() -> None:
    answer = nras_answer(NONCE, kind="gpu", overall={"x-nvidia-ver": "3.0"})
    checks = _judge(answer, kind="switch", count=1)
    assert _of(checks, CheckStatus.FAIL) == ["result", "hwmodel", "bios"]


def test_granular_claims_that_are_all_good_pass() -> None:
    said = {
        "x-nvidia-gpu-arch-check": True,
        "x-nvidia-gpu-driver-rim-cert-chain": {**_GOOD_CHAIN, "x-nvidia-cert-revocation-reason": None},
        "x-nvidia-attestation-warning": None,
        "x-nvidia-mismatch-measurement-records": None,
        "x-nvidia-mismatch-opaque-data-records": [],
        "x-nvidia-attester-claims": {"FSP_UCODE_MIN_SVN": 0},
        "x-nvidia-error-details": None,
    }
    assert _of(_judge(nras_answer(NONCE, count=2, device=said)), CheckStatus.PASS) == LINES


def test_many_faults_are_told_in_few_words() -> None:
    answer = nras_answer(NONCE, count=20, device={"measres": "fail", "secboot": False})
    _fails_only(_judge(answer, count=20), "result", "and 32 more")


def test_a_claim_of_any_name_is_told_safely() -> None:
    answer = nras_answer(NONCE, count=2, device={"x-nvidia-\x1b[2J": False})
    _fails_only(_judge(answer), "result", "(unprintable) is false")


def test_claims_about_switches_are_those_that_were_asked_for() -> None:
    answer = nras_answer(NONCE, kind="switch", overall={"x-nvidia-ver": "4.0"})
    _fails_only(_judge(answer, kind="switch", count=1), "result", "claims of version 4.0, and 3.0 was asked for")


# --- the keys


def _keys(**changes: Any) -> bytes:
    return json.dumps({"keys": [{**TODAY.jwk, **changes}]}).encode()


KEY_FAULTS: Mapping[str, tuple[bytes | None, str]] = {
    "none at hand": (None, "key set is not at hand"),
    "of another day": (jwks(YESTERDAY), "may be of another day"),
    "empty": (b'{"keys": []}', "may be of another day"),
    "no JSON": (b"keys", "not JSON"),
    "no set": (b"[]", "not a JWKS"),
    "no list": (b'{"keys": {}}', "not a JWKS"),
    "no objects": (b'{"keys": ["key"]}', "not a JWKS"),
    "too long": (b" " * (nras.MAX_KEYS_BYTES + 1), "longer than"),
    "one kid twice": (jwks(TODAY, TODAY), "not in NVIDIA's key set"),
    "of another type": (_keys(kty="RSA"), "not for ES384"),
    "of another curve": (_keys(crv="P-256"), "not for ES384"),
    "for encryption": (_keys(use="enc"), "not for ES384"),
    "for another algorithm": (_keys(alg="ES256"), "not for ES384"),
    "without a coordinate": (_keys(y=None), "not base64url"),
    "with a short coordinate": (_keys(x="AAAA"), "not for ES384"),
    "off the curve": (_keys(x=base64url(bytes(47) + b"\1")), "not a point of P-384"),
    "of an impostor": (_keys(**{name: _IMPOSTOR.jwk[name] for name in "xy"}), "does not verify"),
}


@pytest.mark.parametrize(("keys", "reason"), KEY_FAULTS.values(), ids=KEY_FAULTS.keys())
def test_keys_that_are_not_those_of_the_day_fail_the_signature(keys: bytes | None, reason: str) -> None:
    _fails_only(_judge(keys=keys), "signature", reason)


def test_keys_as_nvidia_publishes_them_are_read() -> None:
    published = {name: value for name, value in TODAY.jwk.items() if name not in ("use", "alg")} | {"x5c": ["MIID"]}
    assert _of(_judge(keys=json.dumps({"keys": [published]}).encode()), CheckStatus.PASS) == LINES


def test_tokens_of_several_keys_of_the_day_are_accepted() -> None:
    devices = {"GPU-0": token(device_claims(NONCE) | {"ueid": "0"}, YESTERDAY), "GPU-1": _tokens()["GPU-1"]}
    assert _of(_judge(nras_bundle(devices, NONCE)), CheckStatus.PASS) == LINES
    assert _of(_judge(nras_bundle(devices, NONCE), jwks(TODAY)), CheckStatus.FAIL) == ["signature"]


# --- no answer, and answers of no form


def _claims_text(text: str) -> bytes:
    """An overall token whose claims are this text."""
    signed = f"{_head(alg='ES384', kid=TODAY.kid)}.{base64url(text.encode())}"
    return json.dumps([["JWT", f"{signed}.{'A' * 128}"], {"GPU-0": "a.b.c"}]).encode()


FORMS: Mapping[str, tuple[bytes, str]] = {
    "no bytes": (b"", "not JSON"),
    "no JSON": (b"JWT", "not JSON"),
    "an object": (b"{}", "not a token about all"),
    "one element": (b'[["JWT", "a.b.c"]]', "not a token about all"),
    "three elements": (json.dumps([*json.loads(GOOD), {}]).encode(), "not a token about all"),
    "another word than JWT": (json.dumps([["CWT", "a.b.c"], {"GPU-0": "a.b.c"}]).encode(), "not a token about all"),
    "no devices": (nras_bundle({}, NONCE), "not a token about all"),
    "a list of devices": (json.dumps([json.loads(GOOD)[0], ["a.b.c"]]).encode(), "not a token about all"),
    "too many devices": (_bundle({f"GPU-{n}": "a.b.c" for n in range(65)}), "not a token about all"),
    "a device twice": (GOOD.replace(b'"GPU-1": "', b'"GPU-0": "'), "names a member twice"),
    "a device that is no text": (_swapped(lambda _: {"GPU-0": 1}), "three parts"),  # type: ignore[dict-item]
    "two parts": (_swapped(lambda _: {"GPU-0": "a.b"}), "three parts"),
    "four parts": (_swapped(lambda _: {"GPU-0": "a.b.c.d"}), "three parts"),
    "padding": (_swapped(lambda _: {"GPU-0": "e30=.e30.AAAA"}), "not base64url"),
    "another alphabet": (_swapped(lambda _: {"GPU-0": "e+/0.e30.AAAA"}), "not base64url"),
    "a lone character": (_swapped(lambda _: {"GPU-0": "e.e30.AAAA"}), "not base64url"),
    "bits left over": (_swapped(lambda _: {"GPU-0": "e31.e30.AAAA"}), "not canonical"),
    "no claims": (_claims_text(""), "not JSON"),
    "claims in a list": (_claims_text("[]"), "not consist of objects"),
    "a claim twice": (_claims_text('{"iss": 1, "iss": 2}'), "names a member twice"),
    "NaN": (_claims_text('{"exp": NaN}'), "not JSON"),
    "too long": (GOOD + b" " * nras.MAX_ANSWER_BYTES, "longer than"),
}


@pytest.mark.parametrize(("answer", "reason"), FORMS.values(), ids=FORMS.keys())
def test_an_answer_of_no_form_fails_and_nothing_else_is_judged(answer: bytes, reason: str) -> None:
    checks = _judge(answer)
    _fails_only(checks, "answer", reason)
    assert _of(checks, CheckStatus.SKIP) == LINES[1:]


def test_no_answer_fails_and_is_skipped_where_the_policy_allows_it() -> None:
    _fails_only(_judge(None), "answer", "no answer of NRAS is at hand")
    assert _of(_judge(None, policy=NrasPolicy(allow_missing=True)), CheckStatus.SKIP) == LINES


def test_an_answer_to_another_nonce_is_not_looked_up() -> None:
    collateral = {nras.key("gpu", OTHER_NONCE): nras_answer(OTHER_NONCE), nras.KEYS: KEYS}
    _fails_only(
        nras.judge(collateral, ASKING, kind="gpu", nonce=NONCE, count=1, now=NOW), "answer", "no answer of NRAS"
    )


@pytest.mark.parametrize("name", ["alg none", "revoked", "expired"])
def test_no_policy_allows_a_bad_answer(name: str) -> None:
    answer = {**{name: fault[0] for name, fault in FAULTS.items()}, "revoked": FAULTS["a revoked chain"][0]}[name]
    assert _of(_judge(answer, policy=NrasPolicy(allow_missing=True)), CheckStatus.FAIL)


# --- time


def test_a_token_may_be_a_little_ahead_of_our_clock() -> None:
    assert _of(_judge(nras_answer(NONCE, count=2, now=NOW + timedelta(minutes=5))), CheckStatus.PASS) == LINES


def test_an_answer_expires_with_its_first_token() -> None:
    collateral: Collateral = {nras.key("gpu", NONCE): _device(exp=_AT + 60), nras.KEYS: KEYS}
    assert nras.expires_at(collateral, "gpu", NONCE) == NOW + timedelta(seconds=60)
    assert nras.expires_at(collateral, "switch", NONCE) is None
    assert nras.expires_at({nras.key("gpu", NONCE): _device(exp=None)}, "gpu", NONCE) is None


# --- the policy


def test_a_policy_is_read_from_its_table() -> None:
    adapter = TypeAdapter(NrasPolicy)
    assert validate(adapter, {}) == NrasPolicy()
    assert validate(adapter, {"hwmodels": ["GH100"], "driver_versions": ["1", "2"]}) == NrasPolicy(
        hwmodels=("GH100",), driver_versions=("1", "2")
    )
    wrong: Mapping[str, Any] = {"hwmodels": [], "vbios_versions": [""], "driver_versions": "550", "allow_hs256": True}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            validate(adapter, {name: value})


# --- damage


def test_every_flipped_bit_of_an_answer_fails() -> None:
    answer = nras_answer(NONCE)
    for bit in range(0, 8 * len(answer), 61):
        flipped = bytearray(answer)
        flipped[bit // 8] ^= 1 << bit % 8
        assert _of(_judge(bytes(flipped), count=1), CheckStatus.FAIL)


def test_every_truncation_fails() -> None:
    for length in range(0, len(GOOD), 5):
        assert _of(_judge(GOOD[:length]), CheckStatus.FAIL) == ["answer"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted({**common_claims(NONCE), **device_claims(NONCE), "submods": 0})), _JSON, _JSON)
def test_claims_of_any_type_are_judged_and_never_raise(name: str, value: Any, header: Any) -> None:
    """Signed by nobody: what is said of them does not matter, that something is said does."""
    claims = {**device_claims(NONCE), name: value}
    try:
        text = ".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "ES384", "kid": header}, claims))
    except ValueError:
        return
    answer = json.dumps([["JWT", f"{text}.AAAA"], {"GPU-0": f"{text}.AAAA"}]).encode()
    checks = _judge(answer, count=1)
    assert len(checks) == len(LINES)
    assert all(check.detail.isprintable() and len(check.detail) < 2000 for check in checks)
    assert _of(checks, CheckStatus.FAIL)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_fail_with_a_reason(answer: bytes, keys: bytes) -> None:
    assert _of(_judge(answer, keys), CheckStatus.FAIL)
    assert _of(_judge(GOOD, keys), CheckStatus.FAIL) == ["signature"]


@given(_JSON)
def test_any_key_set_is_judged_and_never_raises(value: Any) -> None:
    try:
        keys = json.dumps({"keys": [value, {"kid": TODAY.kid, "kty": value}]}).encode()
    except ValueError:
        return
    assert _of(_judge(keys=keys), CheckStatus.FAIL) == ["signature"]
