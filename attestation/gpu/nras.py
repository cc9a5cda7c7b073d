"""What does NVIDIA itself say of the devices? An optional second opinion, from its Remote Attestation Service (NRAS).

The service is sent the evidence and answers with signed tokens, one for all devices and one for each (a detached EAT
bundle, RFC 9711 section 4.2.18; JWS, RFC 7515; ES384, RFC 7518)::

    [["JWT", overall], {"GPU-0": device, "GPU-1": device, ...}]

    header   {"alg": "ES384", "kid": "..."}
    overall  iss nbf exp eat_nonce x-nvidia-overall-att-result submods: {"GPU-0": ["DIGEST", ["SHA-256", hex]], ...}
    device   iss nbf exp eat_nonce measres secboot dbgstat hwmodel x-nvidia-gpu-driver-version ...

No JWT library: one algorithm and two decoders are less than a library's options to switch all the others off. `none`,
HS256 and keys inside a header are not refused by name, there is no code for them.

Who vouches for the signing keys is only the connection to NVIDIA: they are replaced daily, and the root of their
certificates is nowhere published with them. So the key set (`gpu-nras-keys`), alone among the collateral, does not
authenticate itself: the caller must have got it from NVIDIA over TLS, and never from the machine that is judged.

`secboot` and `dbgstat` are not measured apart: NRAS derives them from the measurements. Asking NRAS tells NVIDIA which
devices are used, and when.

About GPUs it is asked for claims of version 4.0, as evidence with versioned opaque data demands and older evidence
allows; about switches for those of 3.0, which are their latest. The form and the claims were read from real answers of
versions 2.0 and 3.0; what 4.0 adds only from NVIDIA's documentation and verifier.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from pydantic import Field

from attestation.errors import EvidenceError
from attestation.gpu.evidence import DeviceAnswer, Kind
from attestation.types import Check, Collateral, CollateralKey, CollateralKind, Nonce, failed, passed, skipped
from core.program import strictjson
from core.program.validation import MAX_UNIX_S, STRICT, Label, encode_base64

ISSUER = "https://nras.attestation.nvidia.com"
CLAIMS_VERSIONS: Mapping[Kind, str] = {"gpu": "4.0", "switch": "3.0"}
KEYS = CollateralKey(CollateralKind.GPU_NRAS_KEYS, "jwks")

MAX_ANSWER_BYTES = 512 * 1024
MAX_KEYS_BYTES = 512 * 1024
"""The key set has about 80 KiB: 32 keys with their certificates."""
MAX_DEVICES = 64
COORDINATE_BYTES = 48
CLOCK_SKEW = timedelta(minutes=5)
"""How far NVIDIA's clock may be ahead of ours: its tokens are new when we get them."""

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_TELLABLE = re.compile(r"[ -~]{1,80}")
_MAX_TOLD = 8

Versions = Annotated[tuple[Label, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class NrasPolicy:
    """What NRAS must say; the lists are compared with its own words, and None accepts any.

    hwmodels, driver_versions, vbios_versions: of GPUs. switch_hwmodels, switch_bios_versions: of NVSwitches.
    allow_missing: accept devices of which NRAS says nothing; the checks are then skipped.
    """

    __pydantic_config__ = STRICT

    hwmodels: Versions | None = None
    driver_versions: Versions | None = None
    vbios_versions: Versions | None = None
    switch_hwmodels: Versions | None = None
    switch_bios_versions: Versions | None = None
    allow_missing: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    overall: _Token
    devices: Mapping[str, _Token]

    @property
    def tokens(self) -> tuple[_Token, ...]:
        return self.overall, *self.devices.values()


def request(kind: Kind, devices: Sequence[DeviceAnswer], nonce: Nonce) -> bytes:
    """The JSON that asks about devices of one kind, of which there is at least one; all are of its generation."""
    evidence = [
        {"evidence": encode_base64(device.evidence), "certificate": encode_base64(device.certificate)}
        for device in devices
    ]
    version = CLAIMS_VERSIONS[kind]
    body = {"nonce": nonce.hex(), "evidence_list": evidence, "arch": devices[0].arch, "claims_version": version}
    return json.dumps(body).encode()


def key(kind: Kind, nonce: Nonce) -> CollateralKey:
    return CollateralKey(CollateralKind.GPU_NRAS, f"{kind}/{nonce.hex()}")


def needs(kinds: Iterable[Kind], nonce: Nonce) -> tuple[CollateralKey, ...]:
    """What `judge` will look up. nonce: of the devices."""
    return (*(key(kind, nonce) for kind in kinds), KEYS)


def expires_at(collateral: Collateral, kind: Kind, nonce: Nonce) -> datetime | None:
    """When the first token of an answer that `judge` accepts expires; None when there is none."""
    try:
        answer = _parse(collateral.get(key(kind, nonce), b""))
        return min(datetime.fromtimestamp(_seconds(token, "exp"), UTC) for token in answer.tokens)
    except EvidenceError:
        return None


def judge(
    collateral: Collateral, policy: NrasPolicy, *, kind: Kind, nonce: Nonce, count: int, now: datetime
) -> tuple[Check, ...]:
    """Whether NRAS accepts the devices of a kind. count: how many there are; all of them must be spoken of."""
    lines = _lines(collateral, policy, kind=kind, nonce=nonce, count=count, now=now)
    data = collateral.get(key(kind, nonce))
    if data is None:
        detail = "no answer of NRAS is at hand"
        if policy.allow_missing:
            return tuple(skipped(f"nras {kind} {line}", f"{detail}; the policy allows that") for line in lines)
        return _unread(kind, lines, detail)
    try:
        answer = _parse(data)
    except EvidenceError as exc:
        return _unread(kind, lines, str(exc))
    return tuple(_line(f"nras {kind} {line}", answer, look) for line, look in lines.items())


_Look = Callable[[_Answer], str]
"""Says what is in order, or raises EvidenceError with what is not."""


def _lines(
    collateral: Collateral, policy: NrasPolicy, *, kind: Kind, nonce: Nonce, count: int, now: datetime
) -> Mapping[str, _Look | None]:
    """What is looked at, by name and in order; None where the policy has no rule."""
    common: dict[str, _Look | None] = {
        "answer": lambda answer: f"one token about all and {len(answer.devices)} about single devices",
        "signature": lambda answer: _signatures(answer, collateral.get(KEYS)),
        "issuer": _issuer,
        "lifetime": lambda answer: _lifetime(answer, now),
        "nonce": lambda answer: _nonces(answer, nonce),
        "devices": lambda answer: _devices(answer, count),
        "result": lambda answer: _result(answer, kind),
    }
    return common | {line: _among(claim, allowed) for line, (claim, allowed) in _lists(policy, kind).items()}


def _lists(policy: NrasPolicy, kind: Kind) -> Mapping[str, tuple[str, tuple[str, ...] | None]]:
    if kind == "switch":
        return {
            "hwmodel": ("hwmodel", policy.switch_hwmodels),
            "bios": ("x-nvidia-switch-bios-version", policy.switch_bios_versions),
        }
    return {
        "hwmodel": ("hwmodel", policy.hwmodels),
        "driver": ("x-nvidia-gpu-driver-version", policy.driver_versions),
        "vbios": ("x-nvidia-gpu-vbios-version", policy.vbios_versions),
    }


def _line(name: str, answer: _Answer, look: _Look | None) -> Check:
    if look is None:
        return skipped(name, "the policy does not ask")
    try:
        return passed(name, look(answer))
    except EvidenceError as exc:
        return failed(name, str(exc))


def _unread(kind: Kind, lines: Iterable[str], detail: str) -> tuple[Check, ...]:
    first, *rest = lines
    not_judged = (skipped(f"nras {kind} {line}", "there is no answer to judge") for line in rest)
    return (failed(f"nras {kind} {first}", detail), *not_judged)


def _signatures(answer: _Answer, keys: bytes | None) -> str:
    if keys is None:
        raise EvidenceError("NVIDIA's key set is not at hand")
    published = _published_keys(keys)
    for token in answer.tokens:
        _check_signature(token, published)
    return "every token is signed with ES384 by a key that NVIDIA publishes"


def _check_signature(token: _Token, published: Sequence[Mapping[str, Any]]) -> None:
    if token.header.get("alg") != "ES384" or "crit" in token.header:
        raise EvidenceError("a token is not signed with ES384 alone")
    named = [jwk for jwk in published if jwk.get("kid") == token.header.get("kid")]
    if len(named) != 1 or not isinstance(token.header.get("kid"), str):
        raise EvidenceError("a token is signed with a key that is not in NVIDIA's key set: it may be of another day")
    if len(token.signature) != 2 * COORDINATE_BYTES:
        raise EvidenceError("a token's signature is not of ES384")
    halves = (token.signature[:COORDINATE_BYTES], token.signature[COORDINATE_BYTES:])
    signature = encode_dss_signature(*(int.from_bytes(half) for half in halves))
    try:
        public_key = _public_numbers(named[0]).public_key()
        public_key.verify(signature, token.text.rpartition(".")[0].encode("ascii"), ECDSA(SHA384()))
    except ValueError:
        raise EvidenceError("a key of NVIDIA's key set is not a point of P-384") from None
    except InvalidSignature:
        raise EvidenceError("a token's signature does not verify") from None


def _published_keys(data: bytes) -> Sequence[Mapping[str, Any]]:
    match _json(data, MAX_KEYS_BYTES, "NVIDIA's key set"):
        case {"keys": [*keys]} if all(isinstance(jwk, dict) for jwk in keys):
            return keys
    raise EvidenceError("NVIDIA's key set is not a JWKS")


def _public_numbers(jwk: Mapping[str, Any]) -> EllipticCurvePublicNumbers:
    """The key by its own members (RFC 7518 section 6.2.1); what its certificates say is not needed."""
    purpose = (jwk.get("kty"), jwk.get("crv"), jwk.get("use", "sig"), jwk.get("alg", "ES384"))
    x, y = (_base64url(jwk.get(name)) for name in ("x", "y"))
    if purpose != ("EC", "P-384", "sig", "ES384") or not len(x) == len(y) == COORDINATE_BYTES:
        raise EvidenceError("a key of NVIDIA's key set is not for ES384")
    return EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), SECP384R1())


def _issuer(answer: _Answer) -> str:
    if any(token.claims.get("iss") != ISSUER for token in answer.tokens):
        raise EvidenceError(f"a token was not issued by {ISSUER}")
    return f"issued by {ISSUER}"


def _lifetime(answer: _Answer, now: datetime) -> str:
    start = max(_seconds(token, "nbf") for token in answer.tokens)
    end = min(_seconds(token, "exp") for token in answer.tokens)
    if start > (now + CLOCK_SKEW).timestamp():
        raise EvidenceError(f"a token is not valid before {_date(start)}")
    if end <= now.timestamp():
        raise EvidenceError(f"a token expired at {_date(end)}")
    return f"in force until {_date(end)}"


def _seconds(token: _Token, claim: str) -> int:
    value = token.claims.get(claim)
    if type(value) is not int or not 0 <= value <= MAX_UNIX_S:
        raise EvidenceError(f"a token has no {claim} in whole seconds")
    return value


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _nonces(answer: _Answer, nonce: Nonce) -> str:
    said = [token.claims.get("eat_nonce") for token in answer.tokens]
    if None in said:
        raise EvidenceError("a token does not say which nonce it answers")
    if any(one != nonce.hex() for one in said):
        raise EvidenceError("a token answers another nonce than ours")
    return "every token answers our nonce"


def _devices(answer: _Answer, count: int) -> str:
    """The overall token commits to each device token, so none can be dropped, added or taken from elsewhere."""
    digests = {
        name: ["DIGEST", ["SHA-256", sha256(token.text.encode("ascii")).hexdigest()]]
        for name, token in answer.devices.items()
    }
    if answer.overall.claims.get("submods") != digests:
        raise EvidenceError("the token about all devices does not commit to exactly these device tokens")
    if len(digests) != count:
        raise EvidenceError(f"NRAS speaks of {len(digests)} devices, and there are {count}")
    return f"all {count} devices, each token committed to by the one about all"


def _result(answer: _Answer, kind: Kind) -> str:
    faults = [f"{_told(name)}: {fault}" for name, token in answer.devices.items() for fault in _faults(token, kind)]
    overall, version = answer.overall.claims, CLAIMS_VERSIONS[kind]
    if overall.get("x-nvidia-overall-att-result") is not True:
        faults.insert(0, "overall: not a success")
    if (found := overall.get("x-nvidia-ver")) != version:  # of another version we do not know what it must say
        faults.insert(0, f"overall: claims of version {_told(found)}, and {version} was asked for")
    if faults:
        more = [f"and {len(faults) - _MAX_TOLD} more"] if len(faults) > _MAX_TOLD else []
        raise EvidenceError("; ".join([*faults[:_MAX_TOLD], *more]))
    return "success, for all devices and for each"


def _faults(token: _Token, kind: Kind) -> Sequence[str]:
    """What NRAS says against a device. Beside the claims that must be there, none of its own may be false."""
    claims = token.claims
    required = {"measres": "success", "dbgstat": "disabled"}
    true = ("secboot", f"x-nvidia-{kind}-attestation-report-nonce-match")
    own = {name: value for name, value in claims.items() if name.startswith("x-nvidia-")}
    empty = tuple(f"x-nvidia-mismatch-{what}-records" for what in ("measurement", "opaque-data"))
    return [
        *(f"{name} is not {value}" for name, value in required.items() if claims.get(name) != value),
        *(f"{name} is not true" for name in true if claims.get(name) is not True),
        *(f"{_told(name)} is false" for name, value in own.items() if value is False and name not in true),
        *(f"{_told(name)} is not valid and good" for name, value in own.items() if not _is_good_chain(name, value)),
        *(f"{name} is not empty" for name in empty if own.get(name) not in (None, [])),
        *(["NRAS tells of an error"] if own.get("x-nvidia-error-details") is not None else []),
        *(["NRAS warns of it"] if own.get("x-nvidia-attestation-warning") is not None else []),
    ]


def _is_good_chain(name: str, value: object) -> bool:
    if not name.endswith("-cert-chain"):
        return True
    match value:
        case {"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good"}:
            return True
    return False


def _among(claim: str, allowed: tuple[str, ...] | None) -> _Look | None:
    if allowed is None:
        return None

    def look(answer: _Answer) -> str:
        said = {name: token.claims.get(claim) for name, token in answer.devices.items()}
        foreign = [f"{_told(name)}: {_told(value)}" for name, value in said.items() if value not in allowed]
        if foreign:
            raise EvidenceError(f"not among those that the policy names: {', '.join(foreign[:_MAX_TOLD])}")
        return ", ".join(sorted({str(value) for value in said.values()}))

    return look


def _told(text: object) -> str:
    return text if isinstance(text, str) and _TELLABLE.fullmatch(text) else "(unprintable)"


def _parse(data: bytes) -> _Answer:
    match _json(data, MAX_ANSWER_BYTES, "the answer of NRAS"):
        case [["JWT", str(overall)], dict(devices)] if 0 < len(devices) <= MAX_DEVICES:
            return _Answer(_token(overall), {name: _token(text) for name, text in devices.items()})
    raise EvidenceError("the answer of NRAS is not a token about all devices and one about each")


def _token(text: object) -> _Token:
    """A JWS in compact form (RFC 7515 section 3.1), read and not yet believed."""
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) != 3:
        raise EvidenceError("a token of NRAS does not have three parts")
    header, claims = (_json(_base64url(part), MAX_ANSWER_BYTES, "a token of NRAS") for part in parts[:2])
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise EvidenceError("a token of NRAS does not consist of objects")
    return _Token(str(text), header, claims, _base64url(parts[2]))


def _json(data: bytes, max_bytes: int, what: str) -> Any:
    try:
        return strictjson.loads(data, max_bytes=max_bytes)
    except ValueError as exc:
        raise EvidenceError(f"{what}: {exc}") from None


def _base64url(text: object) -> bytes:
    """Canonical base64url without padding (RFC 7515 section 2)."""
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise EvidenceError("NRAS: not base64url")
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise EvidenceError("NRAS: not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode("ascii") != text:
        raise EvidenceError("NRAS: not canonical base64url")
    return decoded
