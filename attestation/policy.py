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
    allow_attached_backend = false
    allow_request_log = false
    allow_options = []                # names of `insecure`/`allow` options that the engine may have in force
    allow_plugins = ["sottovoce"]
    require_api_keys = false
    # backend_arguments = ["..."]     # without this line every argument is accepted and the check is skipped

    [[models]]                        # without any, every model is accepted and the check is skipped
    id = "openai/whisper-large-v3"
    weights_sha256 = ["<64 hex>"]

    [release]                         # what a signed policy must say; see `attestation.release`
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
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter

from attestation.errors import PolicyError
from attestation.gpu.policy import GpuPolicy
from attestation.roots import VENDOR_ROOTS, Roots
from attestation.snp.policy import SnpPolicy
from attestation.tdx.policy import TdxPolicy
from attestation.types import EvidenceKind
from attestation.validation import STRICT, Label, OnlyTrue, Sha256Hex, VersionOne, validate

INSECURE_ROOTS_WARNING = "INSECURE roots: the policy believes others than AMD, Intel and NVIDIA."

MAX_POLICY_BYTES = 1024 * 1024

ReleaseVersion = Annotated[int, Field(ge=1, le=2**53 - 1)]

_RFC3339_UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class InsecurePolicy:
    """Accept development evidence. `accept` is spelled out so that an empty table does not do it by accident."""

    __pydantic_config__ = STRICT

    accept: OnlyTrue


@dataclass(frozen=True, slots=True)
class StatementPolicy:
    """What the engine may confess and still be accepted.

    max_lifetime_s: how far ahead `not_after` may lie; a day and an hour by default.
    max_evidence_age_s: how long after a verification its evidence may be relied upon, whatever `not_after` says; a
        quarter of a day by default, so that a machine whose firmware is revoked is asked again the same day.
    backend_arguments: the only ones that the backend may have been started with; None accepts any.
    """

    __pydantic_config__ = STRICT

    max_lifetime_s: Annotated[int, Field(gt=0)] = 90_000
    max_evidence_age_s: Annotated[int, Field(gt=0, le=31_536_000)] = 21_600  # a year says nothing of today already
    log_levels: tuple[Label, ...] = ("info", "warning", "error", "critical")
    allow_attached_backend: bool = False
    allow_request_log: bool = False
    allow_options: tuple[Label, ...] = ()
    allow_plugins: tuple[Label, ...] = ("sottovoce",)  # our own, part of the measured image
    require_api_keys: bool = False
    backend_arguments: tuple[Label, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model that may be served, and the digests its files may have."""

    __pydantic_config__ = STRICT

    id: Label
    weights_sha256: Annotated[tuple[Sha256Hex, ...], Field(min_length=1)]


def _named_once(models: tuple[ModelPolicy, ...]) -> tuple[ModelPolicy, ...]:
    # Of two tables for one model a reader would have to pick one, silently.
    if len({model.id for model in models}) != len(models):
        raise ValueError("a model is named twice; give all its digests in one table")
    return models


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
    __pydantic_config__ = STRICT

    version: VersionOne
    insecure: InsecurePolicy | None = None
    snp: SnpPolicy | None = None
    tdx: TdxPolicy | None = None
    gpu: GpuPolicy | None = None
    statement: StatementPolicy = field(default_factory=StatementPolicy)
    models: Annotated[tuple[ModelPolicy, ...], AfterValidator(_named_once)] = ()
    insecure_roots: InsecureRoots | None = None
    release: Release | None = None


_POLICY_FILE = TypeAdapter(_PolicyFile)


@dataclass(frozen=True, slots=True)
class Policy:
    """Reference values to appraise an engine against.

    digest: SHA-256 of the file it was read from, hexadecimal; what logs and status pages call it by.
    Raises PolicyError when its tables contradict each other, or name no evidence.
    """

    insecure: InsecurePolicy | None
    statement: StatementPolicy
    models: tuple[ModelPolicy, ...]
    digest: str
    snp: SnpPolicy | None = None
    tdx: TdxPolicy | None = None
    gpu: GpuPolicy | None = None
    insecure_roots: InsecureRoots | None = None
    release: Release | None = None

    def __post_init__(self) -> None:
        tables = {table.name for table in fields(self) if getattr(self, table.name) is not None}
        if faults := tuple(_contradictions(tables, self.insecure_roots.named if self.insecure_roots else ())):
            raise PolicyError("policy: " + "; ".join(faults))

    @property
    def kinds(self) -> frozenset[EvidenceKind]:
        """The kinds of evidence accepted."""
        return frozenset(kind for kind in EvidenceKind if getattr(self, kind, None) is not None)

    @property
    def is_insecure(self) -> bool:
        return self.insecure is not None

    @property
    def has_insecure_roots(self) -> bool:
        return self.insecure_roots is not None

    @property
    def roots(self) -> Roots:
        """The root certificates to believe: the vendors', but for the kinds that `insecure_roots` names."""
        return VENDOR_ROOTS if self.insecure_roots is None else replace(VENDOR_ROOTS, **self.insecure_roots.named)


_TABLE_OF_ROOT = {"snp": "snp", "tdx": "tdx", "gpu_device": "gpu", "gpu_rim": "gpu"}


def _contradictions(tables: Collection[str], roots: Collection[str]) -> Iterator[str]:
    """What is wrong with a policy that has these tables, and these keys in `insecure_roots`."""
    if not any(kind in tables for kind in EvidenceKind):
        yield "it names no evidence to accept; an empty policy cannot be used"
        if "gpu" in tables:
            yield "`gpu` speaks of the devices of a machine; name the machine's own evidence too"
    if "insecure" in tables and {"snp", "tdx", "gpu", "insecure_roots"} & set(tables):
        yield "it names `insecure` beside other evidence, which would then prove nothing"
    if "insecure_roots" in tables and not roots:
        yield "insecure_roots: names no root"
    for root in roots:
        if (table := _TABLE_OF_ROOT.get(root, root)) not in tables:
            yield f"insecure_roots.{root}: the policy has no table `{table}`"


def parse_policy(data: bytes) -> Policy:
    """Build a policy from the bytes of its file. Raises PolicyError naming every fault."""
    raw = _parse_toml(data)
    try:
        members = validate(_POLICY_FILE, raw)
    except ValueError as exc:
        roots = raw.get("insecure_roots")
        known = [root for root in _TABLE_OF_ROOT if root in roots] if isinstance(roots, dict) else []
        raise PolicyError("policy: " + "; ".join((str(exc), *_contradictions(raw, known)))) from exc
    return Policy(
        insecure=members.insecure,
        statement=members.statement,
        models=members.models,
        digest=hashlib.sha256(data).hexdigest(),
        snp=members.snp,
        tdx=members.tdx,
        gpu=members.gpu,
        insecure_roots=members.insecure_roots,
        release=members.release,
    )


def _parse_toml(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy: longer than {MAX_POLICY_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise PolicyError("policy: not UTF-8") from exc
    except ValueError as exc:  # TOMLDecodeError, and whatever a number may be too large for
        raise PolicyError(f"policy: {exc}") from exc
    except RecursionError:
        raise PolicyError("policy: nested too deeply") from None


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
