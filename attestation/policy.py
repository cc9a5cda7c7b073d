"""What must the other end prove? A policy: reference values as frozen data, read from a TOML file.

::

    version = 1

    [insecure]                        # exactly one kind of evidence family may be named together with `insecure`: none
    accept = true

    [statement]                       # every line is optional; these are the defaults
    max_lifetime_s = 90000
    log_levels = ["info", "warning", "error", "critical"]
    allow_attached_backend = false
    allow_request_log = false
    allow_options = []                # names of `insecure`/`allow` options that the engine may have in force
    allow_plugins = []
    require_api_keys = false

    [[models]]                        # without any, every model is accepted and the check is skipped
    id = "openai/whisper-large-v3"
    weights_sha256 = ["<64 hex>"]

A policy that names no evidence cannot be built, for it would accept everything or nothing.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from attestation.errors import PolicyError
from attestation.types import EvidenceKind
from attestation.validation import STRICT, Sha256Hex, validate

MAX_POLICY_BYTES = 1024 * 1024

_Names = Annotated[tuple[str, ...], Field(strict=False)]


@dataclass(frozen=True, slots=True)
class InsecurePolicy:
    """Accept development evidence. `accept` is spelled out so that an empty table does not do it by accident."""

    __pydantic_config__ = STRICT

    accept: Literal[True]


@dataclass(frozen=True, slots=True)
class StatementPolicy:
    """What the engine may confess and still be accepted.

    max_lifetime_s: how far ahead `not_after` may lie; a day and an hour by default.
    """

    __pydantic_config__ = STRICT

    max_lifetime_s: Annotated[int, Field(gt=0)] = 90_000
    log_levels: _Names = ("info", "warning", "error", "critical")
    allow_attached_backend: bool = False
    allow_request_log: bool = False
    allow_options: _Names = ()
    allow_plugins: _Names = ()
    require_api_keys: bool = False


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """A model that may be served, and the digests its files may have."""

    __pydantic_config__ = STRICT

    id: str
    weights_sha256: Annotated[tuple[Sha256Hex, ...], Field(strict=False, min_length=1)]


@dataclass(frozen=True, slots=True)
class _PolicyFile:
    __pydantic_config__ = STRICT

    version: Literal[1]
    insecure: InsecurePolicy | None = None
    statement: StatementPolicy = field(default_factory=StatementPolicy)
    models: Annotated[tuple[ModelPolicy, ...], Field(strict=False)] = ()


_POLICY_FILE = TypeAdapter(_PolicyFile)


@dataclass(frozen=True, slots=True)
class Policy:
    """Reference values to appraise an engine against.

    digest: SHA-256 of the file it was read from, hexadecimal; what logs and status pages call it by.
    """

    insecure: InsecurePolicy | None
    statement: StatementPolicy
    models: tuple[ModelPolicy, ...]
    digest: str

    def __post_init__(self) -> None:
        if not self.kinds:
            raise PolicyError("the policy names no evidence to accept; an empty policy cannot be used")

    @property
    def kinds(self) -> frozenset[EvidenceKind]:
        """The kinds of evidence accepted."""
        return frozenset({EvidenceKind.INSECURE} if self.insecure else ())

    @property
    def is_insecure(self) -> bool:
        return self.insecure is not None


def parse_policy(data: bytes) -> Policy:
    """Build a policy from the bytes of its file. Raises PolicyError naming every fault."""
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy: longer than {MAX_POLICY_BYTES} bytes")
    try:
        members = validate(_POLICY_FILE, tomllib.loads(data.decode("utf-8")))
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise PolicyError(f"policy: {exc}") from exc
    return Policy(members.insecure, members.statement, members.models, hashlib.sha256(data).hexdigest())


def read_policy(path: Path) -> Policy:
    """Read a policy file. Raises PolicyError."""
    try:
        return parse_policy(path.read_bytes())
    except OSError as exc:
        raise PolicyError(f"policy: {path}: {exc.strerror}") from exc
