"""What must the other end prove? A policy: reference values as frozen data, read from a TOML file.

::

    version = 1

    [snp]                             # the machine: one of these two tables at least, `attestation.snp.policy` and
    [tdx]                             # `attestation.tdx.policy`; an engine must satisfy the one of its own kind
    [gpu]                             # its devices: `attestation.gpu.policy`

    [insecure]                        # or, beside none of these, development evidence
    accept = true

    [statement]                       # every line is optional; these are the defaults
    max_lifetime_s = 90000
    max_evidence_age_s = 21600
    log_levels = ["info", "warning", "error", "critical"]
    allow_attached = []               # names of components that may have run before the engine came
    allow_request_log = false
    allow_options = []                # names of `insecure`/`allow` options that the engine may have in force
    allow_plugins = ["sottovoce"]
    require_api_keys = false
    require_pq = false                # post-quantum keys, ML-KEM-768 with X25519
    evidence_from = ["configfs", "coco", "dstack"]
    # arguments = { vllm = ["..."] }  # without this line every argument is accepted and the check is skipped

    [[models]]                        # without any, every model is accepted and the check is skipped
    id = "openai/whisper-large-v3"
    weights_sha256 = ["<64 hex>"]
    # aliases = ["whisper-1"]         # without this line any but the id of another model here

    [release]                         # what a signed policy must say; see `attestation.release.load`
    version = 7
    expires = "2027-01-31T00:00:00Z"

    [insecure_roots]                  # DANGER: SHA-256 of root certificates that replace the vendor's, kind by kind
    snp = ["<64 hex>"]                # also tdx, gpu_device, gpu_rim

A policy that names no evidence cannot be built, for it would accept everything or nothing. `docs/policy.md` explains
every key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, TypeAdapter

from attestation.collateral.roots import VENDOR_ROOTS, Roots
from attestation.errors import PolicyError
from attestation.evidence import KINDS
from attestation.gpu.policy import GpuPolicy
from attestation.types import EvidenceKind, EvidenceSource
from core.program.settings import ConfigFileError, parse_toml
from core.program.validation import STRICT, Label, Sha256Hex, VersionOne, once, validate

INSECURE_ROOTS_WARNING = "INSECURE roots: the policy believes others than AMD, Intel and NVIDIA."

MAX_POLICY_BYTES = 1024 * 1024

ReleaseVersion = Annotated[int, Field(ge=1, le=2**53 - 1)]

_RFC3339_UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class StatementPolicy:
    """What the engine may confess and still be accepted.

    max_lifetime_s: how far ahead `not_after` may lie; a day and an hour by default.
    max_evidence_age_s: how long after a verification its evidence may be relied upon, whatever `not_after` says; a
        quarter of a day by default, so that a machine whose firmware is revoked is asked again the same day.
    allow_attached: the components that may have run before the engine came, so that nothing is known of them.
    require_pq: refuse an engine that could be sealed to with X25519 alone: what is recorded now may be opened one day.
    evidence_from: who in the guest may have handed out the evidence; an insecure policy implies `insecure`.
    arguments: by component the only ones that it may have been started with; None accepts any, and any component.
    """

    __pydantic_config__ = STRICT

    max_lifetime_s: Annotated[int, Field(gt=0)] = 90_000
    max_evidence_age_s: Annotated[int, Field(gt=0, le=31_536_000)] = 21_600  # a year says nothing of today already
    log_levels: tuple[Label, ...] = ("info", "warning", "error", "critical")
    allow_attached: tuple[Label, ...] = ()
    allow_request_log: bool = False
    allow_options: tuple[Label, ...] = ()
    allow_plugins: tuple[Label, ...] = ("sottovoce",)  # our own, part of the measured image
    require_api_keys: bool = False
    require_pq: bool = False
    evidence_from: Annotated[tuple[EvidenceSource, ...], Field(min_length=1)] = tuple(EvidenceSource)
    arguments: Mapping[Label, tuple[Label, ...]] | None = None


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model that may be served, and the digests its files may have.

    aliases: the only other names that it may answer to; None accepts any that is no other model's of the policy.
    """

    __pydantic_config__ = STRICT

    id: Label
    weights_sha256: Annotated[tuple[Sha256Hex, ...], Field(min_length=1)]
    aliases: tuple[Label, ...] | None = None


_Fingerprints = Annotated[tuple[Sha256Hex, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class InsecureRoots:
    """SHA-256 fingerprints of root certificates that are believed in place of the vendor's; None keeps the vendor's."""

    __pydantic_config__ = STRICT

    snp: _Fingerprints | None = None
    tdx: _Fingerprints | None = None
    gpu_device: _Fingerprints | None = None
    gpu_rim: _Fingerprints | None = None

    @property
    def named(self) -> dict[str, frozenset[str]]:
        """The fingerprints of each kind that is replaced."""
        given = {root.name: getattr(self, root.name) for root in fields(self)}
        return {name: frozenset(fingerprints) for name, fingerprints in given.items() if fingerprints is not None}


def _utc_time(value: object) -> datetime:
    if not isinstance(value, str) or not _RFC3339_UTC.fullmatch(value):
        raise ValueError('must be a time in UTC, such as "2027-01-31T00:00:00Z"')
    return datetime.fromisoformat(value)


@dataclass(frozen=True, slots=True)
class Release:
    """Which version of a signed policy this is, and the moment from which it may no longer be used (aware)."""

    __pydantic_config__ = STRICT

    version: ReleaseVersion
    expires: Annotated[datetime, PlainValidator(_utc_time)]


@dataclass(frozen=True, slots=True)
class _PolicyFile:
    """Every table but those of machines."""

    __pydantic_config__ = STRICT

    version: VersionOne
    gpu: GpuPolicy | None = None
    statement: StatementPolicy = field(default_factory=StatementPolicy)
    # Of two tables for one model a reader would have to pick one, silently.
    models: Annotated[
        tuple[ModelPolicy, ...],
        once("a model is named twice; give all its digests in one table", lambda model: model.id),
    ] = ()
    insecure_roots: InsecureRoots | None = None
    release: Release | None = None


def _with_tables_of_machines() -> TypeAdapter[Any]:
    tables = [(kind.value, rules.policy | None, field(default=None)) for kind, rules in KINDS.items()]
    return TypeAdapter(make_dataclass("PolicyFile", tables, bases=(_PolicyFile,), frozen=True, slots=True))


_POLICY_FILE = _with_tables_of_machines()


@dataclass(frozen=True, slots=True)
class Policy:
    """Reference values to appraise an engine against.

    machine: of each kind of evidence that is accepted its table, as its row of `KINDS` has it.
    digest: SHA-256 of the file it was read from, hexadecimal; what logs and status pages call it by.
    Raises PolicyError when its tables contradict each other, or name no evidence.
    """

    machine: Mapping[EvidenceKind, object]
    statement: StatementPolicy
    models: tuple[ModelPolicy, ...]
    digest: str
    gpu: GpuPolicy | None = None
    insecure_roots: InsecureRoots | None = None
    release: Release | None = None

    def __post_init__(self) -> None:
        others = {name for name in ("gpu", "insecure_roots") if getattr(self, name) is not None}
        tables = {*self.machine, *others}
        if faults := tuple(_contradictions(tables, self.insecure_roots.named if self.insecure_roots else ())):
            raise PolicyError("policy: " + "; ".join(faults))

    @property
    def kinds(self) -> frozenset[EvidenceKind]:
        """The kinds of evidence accepted."""
        return frozenset(self.machine)

    @property
    def is_insecure(self) -> bool:
        return EvidenceKind.INSECURE in self.machine

    @property
    def has_insecure_roots(self) -> bool:
        return self.insecure_roots is not None

    @property
    def roots(self) -> Roots:
        """The root certificates to believe: the vendors', but for the kinds that `insecure_roots` names."""
        return VENDOR_ROOTS if self.insecure_roots is None else replace(VENDOR_ROOTS, **self.insecure_roots.named)


_TABLE_OF_ROOT: Mapping[str, str] = {
    **dict.fromkeys(("gpu_device", "gpu_rim"), "gpu"),
    **{root: kind for kind, rules in KINDS.items() for root in rules.roots},
}


def _contradictions(tables: Collection[str], roots: Collection[str]) -> Iterator[str]:
    """What is wrong with a policy that has these tables, and these keys in `insecure_roots`."""
    if KINDS.keys().isdisjoint(tables):
        yield "it names no evidence to accept; an empty policy cannot be used"
        if "gpu" in tables:
            yield "`gpu` speaks of the devices of a machine; name the machine's own evidence too"
    others = {*KINDS, "gpu", "insecure_roots"} - {EvidenceKind.INSECURE}
    if EvidenceKind.INSECURE in tables and others.intersection(tables):
        yield "it names `insecure` beside other evidence, which would then prove nothing"
    if "insecure_roots" in tables and not roots:
        yield "insecure_roots: names no root"
    for root in roots:
        if (table := _TABLE_OF_ROOT.get(root, root)) not in tables:
            yield f"insecure_roots.{root}: the policy has no table `{table}`"


def parse_policy(data: bytes) -> Policy:
    """Build a policy from the bytes of its file. Raises PolicyError naming every fault."""
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy: longer than {MAX_POLICY_BYTES} bytes")
    try:
        raw = parse_toml(data)
    except ConfigFileError as exc:
        raise PolicyError(f"policy: {exc}") from None
    try:
        members = validate(_POLICY_FILE, raw)
    except ValueError as exc:
        roots = raw.get("insecure_roots")
        known = [root for root in _TABLE_OF_ROOT if root in roots] if isinstance(roots, dict) else []
        raise PolicyError("policy: " + "; ".join((str(exc), *_contradictions(raw, known)))) from exc
    return Policy(
        machine={kind: rules for kind in KINDS if (rules := getattr(members, kind)) is not None},
        statement=members.statement,
        models=members.models,
        digest=hashlib.sha256(data).hexdigest(),
        gpu=members.gpu,
        insecure_roots=members.insecure_roots,
        release=members.release,
    )


def read_policy(path: Path) -> Policy:
    """Read a policy file that nobody has to have signed. Raises PolicyError."""
    return parse_policy(read_policy_file(path))


def read_policy_file(path: Path, *, max_bytes: int = MAX_POLICY_BYTES) -> bytes:
    """The bytes of a policy, or of a file beside it; one more than `max_bytes` if it is longer. Raises PolicyError."""
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as exc:
        raise PolicyError(f"policy: {path}: {exc.strerror}") from exc
