"""What must the other end prove? A policy: reference values as frozen data, read from a TOML file.

::

    version = 1

    [insecure]                        # development evidence; a policy that names it names no other kind
    accept = true

    [statement]                       # every line is optional; these are the defaults
    max_lifetime_s = 90000
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

A policy that names no evidence cannot be built, for it would accept everything or nothing. `docs/policy.md` explains
every key.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter

from attestation.errors import PolicyError
from attestation.types import EvidenceKind
from attestation.validation import STRICT, Label, OnlyTrue, Sha256Hex, VersionOne, validate

MAX_POLICY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class InsecurePolicy:
    """Accept development evidence. `accept` is spelled out so that an empty table does not do it by accident."""

    __pydantic_config__ = STRICT

    accept: OnlyTrue


@dataclass(frozen=True, slots=True)
class StatementPolicy:
    """What the engine may confess and still be accepted.

    max_lifetime_s: how far ahead `not_after` may lie; a day and an hour by default.
    backend_arguments: the only ones that the backend may have been started with; None accepts any.
    """

    __pydantic_config__ = STRICT

    max_lifetime_s: Annotated[int, Field(gt=0)] = 90_000
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


@dataclass(frozen=True, slots=True)
class _PolicyFile:
    __pydantic_config__ = STRICT

    version: VersionOne
    insecure: InsecurePolicy | None = None
    statement: StatementPolicy = field(default_factory=StatementPolicy)
    models: Annotated[tuple[ModelPolicy, ...], AfterValidator(_named_once)] = ()


_POLICY_FILE = TypeAdapter(_PolicyFile)


@dataclass(frozen=True, slots=True)
class Policy:
    """Reference values to appraise an engine against.

    digest: SHA-256 of the file it was read from, hexadecimal; what logs and status pages call it by.
    Raises PolicyError when it names no evidence, or development evidence beside another kind.
    """

    insecure: InsecurePolicy | None
    statement: StatementPolicy
    models: tuple[ModelPolicy, ...]
    digest: str

    def __post_init__(self) -> None:
        if fault := _kinds_fault(self.kinds):
            raise PolicyError(f"policy: {fault}")

    @property
    def kinds(self) -> frozenset[EvidenceKind]:
        """The kinds of evidence accepted."""
        return frozenset(kind for kind in EvidenceKind if getattr(self, kind, None) is not None)

    @property
    def is_insecure(self) -> bool:
        return self.insecure is not None


def _kinds_fault(kinds: frozenset[EvidenceKind]) -> str | None:
    if not kinds:
        return "it names no evidence to accept; an empty policy cannot be used"
    if EvidenceKind.INSECURE in kinds and len(kinds) > 1:
        return "it names `insecure` beside other evidence, which would then prove nothing"
    return None


def parse_policy(data: bytes) -> Policy:
    """Build a policy from the bytes of its file. Raises PolicyError naming every fault."""
    raw = _parse_toml(data)
    try:
        members = validate(_POLICY_FILE, raw)
    except ValueError as exc:
        kinds_fault = _kinds_fault(frozenset(kind for kind in EvidenceKind if kind in raw))
        raise PolicyError("policy: " + "; ".join(filter(None, (str(exc), kinds_fault)))) from exc
    return Policy(members.insecure, members.statement, members.models, hashlib.sha256(data).hexdigest())


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
    """Read a policy file. Raises PolicyError."""
    try:
        with path.open("rb") as file:
            return parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except OSError as exc:
        raise PolicyError(f"policy: {path}: {exc.strerror}") from exc
