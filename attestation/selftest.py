"""Does the verifier refuse what it should? Good and tampered evidence, shipped with it, judged without any network.

`selftest.json` holds machines that must be accepted, and cases: what was done to one of them, and which checks must
then refuse it, those and no others. Everything is signed with keys that nobody kept, under roots that only the policies
in the file believe::

    {"version": 1,
     "policies":   {"<policy>": ["<line of TOML>", ...]},
     "samples":    [{"name", "policy", "judged_at", "nonce", "nonces", "kind", "statement", "report", "gpus"}, ...],
     "cases":      [{"name", "of": "<sample>", "refused_by": ["<check>", ...], and what differs}, ...],
     "gpus":       {"<gpu>": {"arch", "nonce", "evidence", "certificate"}},
     "collateral": [{"kind", "name", "data"}, ...],                            at hand for all of them
     "blobs":      {"<blob>": "<base64>"}}

Statements, reports, evidence, certificates and data are named, and stand in `blobs`. A case differs from its sample by
any of `policy`, `judged_at`, `nonce`, `nonces`, `kind` and `gpus`; by `instead`, other blobs in place of some; by
`flips`, bits that are turned over (bit 0 is the lowest of the first byte); and by collateral that it `withholds`. A
blob in place of another is what takes a key to make: a report that is validly signed, and still not acceptable.

Every document is judged as of its own moment by `attestation.verification.verify`, as an engine's is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Annotated, Final

from pydantic import AwareDatetime, Field, TypeAdapter

from attestation.document import AttestationDocument
from attestation.errors import EvidenceError, RefusedError
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.policy import parse_policy
from attestation.types import (
    Check,
    Collateral,
    CollateralKey,
    CollateralKind,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    NonceHex,
    StatementBytes,
    failed,
)
from attestation.verification import verify
from core.program import strictjson
from core.program.validation import STRICT, Base64, Label, VersionOne, validate

DATA_FILE: Final = "selftest.json"
MAX_DATA_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """A machine that must be accepted. judged_at: when. nonce: the one that we sent."""

    __pydantic_config__ = STRICT

    name: Label
    policy: Label
    judged_at: AwareDatetime
    nonce: NonceHex
    nonces: tuple[NonceHex, ...]
    kind: EvidenceKind
    statement: Label
    report: Label
    gpus: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What was done to a sample, in the words of `name`, and the checks that must refuse it."""

    __pydantic_config__ = STRICT

    name: Label
    of: Label
    refused_by: Annotated[tuple[Label, ...], Field(min_length=1)]
    policy: Label | None = None
    judged_at: AwareDatetime | None = None
    nonce: NonceHex | None = None
    nonces: tuple[NonceHex, ...] | None = None
    kind: EvidenceKind | None = None
    gpus: tuple[Label, ...] | None = None
    instead: Mapping[str, str] = field(default_factory=dict)
    flips: Mapping[str, tuple[Annotated[int, Field(ge=0)], ...]] = field(default_factory=dict)
    withholds: tuple[Label, ...] = ()

    def of_sample(self, sample: Sample) -> Sample:
        """The sample with what is given here in place of its own."""
        given = {name: getattr(self, name) for name in ("policy", "judged_at", "nonce", "nonces", "kind", "gpus")}
        return replace(sample, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Gpu:
    """As `DeviceAnswer`, with names of blobs."""

    __pydantic_config__ = STRICT

    arch: Architecture
    nonce: NonceHex
    evidence: Label
    certificate: Label


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of collateral. data: the name of a blob."""

    __pydantic_config__ = STRICT

    kind: CollateralKind
    name: Label
    data: Label


@dataclass(frozen=True, slots=True)
class Suite:
    """The data file. Without samples or cases it would prove nothing, so it cannot be read."""

    __pydantic_config__ = STRICT

    version: VersionOne
    policies: Mapping[str, tuple[str, ...]]
    samples: Annotated[tuple[Sample, ...], Field(min_length=1)]
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    gpus: Mapping[str, Gpu]
    collateral: tuple[Piece, ...]
    blobs: Mapping[str, Base64]


SUITE: Final = TypeAdapter(Suite)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the verifier said of a sample, or of a case.

    expected: the names of the checks that must fail; none for a sample. checks: all that were made or skipped; where
        the statement cannot be read, which ends a verification early, one that says so, named "document".
    """

    name: str
    sample: str
    expected: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that failed; none when it was accepted."""
        return tuple(check for check in self.checks if check.failed)

    @property
    def as_expected(self) -> bool:
        return {check.name for check in self.refusals} == set(self.expected)


def shipped_suite() -> Suite:
    """The data that came with this package. Raises EvidenceError when they are not what was shipped."""
    return parse_suite(resources.files("attestation").joinpath(DATA_FILE).read_bytes())


def parse_suite(data: bytes) -> Suite:
    """Read a data file. Raises EvidenceError naming every fault."""
    try:
        suite = validate(SUITE, strictjson.loads(data, max_bytes=MAX_DATA_BYTES))
    except ValueError as exc:
        raise EvidenceError(f"selftest data: {exc}") from exc
    if faults := tuple(_faults(suite)):
        raise EvidenceError(f"selftest data: {'; '.join(faults)}")
    return suite


def run(suite: Suite) -> Iterator[Outcome]:
    """Judge every sample, each followed by its cases. Raises PolicyError for a policy that cannot be used."""
    for sample in suite.samples:
        yield Outcome(sample.name, sample.name, (), _judge(suite, sample, suite.blobs, _at_hand(suite, suite.blobs)))
        for case in (case for case in suite.cases if case.of == sample.name):
            blobs = _tampered(suite.blobs, case)
            at_hand = _at_hand(suite, blobs, withheld=case.withholds)
            checks = _judge(suite, case.of_sample(sample), blobs, at_hand)
            yield Outcome(case.name, sample.name, case.refused_by, checks)


def flipped(data: bytes, bits: Collection[int]) -> bytes:
    """`data` with these bits turned over; bit 0 is the lowest of the first byte."""
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _tampered(blobs: Mapping[str, bytes], case: Case) -> Mapping[str, bytes]:
    changed = {**blobs, **{name: blobs[other] for name, other in case.instead.items()}}
    return {**changed, **{name: flipped(changed[name], bits) for name, bits in case.flips.items()}}


def _at_hand(suite: Suite, blobs: Mapping[str, bytes], *, withheld: Collection[str] = ()) -> Collateral:
    pieces = (piece for piece in suite.collateral if piece.data not in withheld)
    return {CollateralKey(piece.kind, piece.name): blobs[piece.data] for piece in pieces}


def _judge(suite: Suite, sample: Sample, blobs: Mapping[str, bytes], collateral: Collateral) -> tuple[Check, ...]:
    policy = parse_policy("\n".join(suite.policies[sample.policy]).encode())
    document = AttestationDocument(
        nonces=sample.nonces,
        statement=StatementBytes(blobs[sample.statement]),
        evidence=Evidence(sample.kind, blobs[sample.report]),
        device_evidence=_devices([suite.gpus[name] for name in sample.gpus], blobs),
        collateral=collateral,
    )
    try:
        return verify(document, policy, collateral, expected=sample.nonce, now=sample.judged_at).checks
    except RefusedError as exc:
        return exc.checks
    except EvidenceError as exc:
        return (failed("document", str(exc)),)


def _devices(gpus: Collection[Gpu], blobs: Mapping[str, bytes]) -> DeviceEvidence:
    if not gpus:
        return DeviceEvidence(b"")
    answers = [DeviceAnswer(gpu.arch, gpu.nonce, blobs[gpu.evidence], blobs[gpu.certificate]) for gpu in gpus]
    return encode_devices(answers)


def _faults(suite: Suite) -> Iterator[str]:
    """Names that nothing bears, and bits that are not there: each would make a case another one than it says."""
    defined = _defined(suite)
    for kind, named in _references(suite).items():
        for name in sorted(named - defined[kind]):
            yield f"there is no {kind} {name!r}"
    for case in suite.cases:
        for name, bits in case.flips.items():
            if max(bits, default=0) >= 8 * len(suite.blobs.get(case.instead.get(name, name), b"")):
                yield f"{case.name}: {name!r} has not so many bits"


def _defined(suite: Suite) -> Mapping[str, frozenset[str]]:
    return {
        "sample": frozenset(sample.name for sample in suite.samples),
        "policy": frozenset(suite.policies),
        "gpu": frozenset(suite.gpus),
        "collateral": frozenset(piece.data for piece in suite.collateral),
        "blob": frozenset(suite.blobs),
    }


def _references(suite: Suite) -> Mapping[str, frozenset[str]]:
    either: tuple[Sample | Case, ...] = (*suite.samples, *suite.cases)
    return {
        "sample": frozenset(case.of for case in suite.cases),
        "policy": frozenset(one.policy for one in either if one.policy is not None),
        "gpu": frozenset(gpu for one in either for gpu in one.gpus or ()),
        "collateral": frozenset(name for case in suite.cases for name in case.withholds),
        "blob": frozenset(_blob_references(suite)),
    }


def _blob_references(suite: Suite) -> Iterator[str]:
    for sample in suite.samples:
        yield from (sample.statement, sample.report)
    for case in suite.cases:
        yield from (*case.instead.keys(), *case.instead.values(), *case.flips)
    for gpu in suite.gpus.values():
        yield from (gpu.evidence, gpu.certificate)
    yield from (piece.data for piece in suite.collateral)
