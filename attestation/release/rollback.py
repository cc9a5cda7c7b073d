"""Was a newer policy accepted here before? The highest version of each signer, kept across restarts.

`policy-versions.json` in the state directory::

    {"version": 1,
     "marks": {"<signer, 64 hex>": {"version": 7, "policy_sha256": "<64 hex>"}, ...}}

A version below the mark of any pinned signer is refused, and so is the same version with other bytes. Only the signers
who vouched for a policy have their marks raised: one whose key was stolen can be unpinned, and the others go on.

The marks are as safe as the directory they stand in. Who can write there can lower them; `--min-policy-version` holds
without them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from attestation.errors import PolicyError
from attestation.policy import Policy, ReleaseVersion
from core.errors import StateError
from core.program import files as state
from core.program import strictjson
from core.program.validation import STRICT, Sha256Hex, VersionOne, validate

MARKS_FILE = "policy-versions.json"
LOCK_FILE = "policy-versions.lock"
"""A file of its own: a lock on the marks would be lost when they are replaced."""
MAX_MARKS_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mark:
    """A version of a policy, and the SHA-256 of its file."""

    __pydantic_config__ = STRICT

    version: ReleaseVersion
    policy_sha256: Sha256Hex

    @classmethod
    def of(cls, policy: Policy) -> Mark:
        """Raises PolicyError for a policy that does not say its version."""
        if policy.release is None:
            raise PolicyError("policy: it has no table `release`")
        return cls(policy.release.version, policy.digest)


@dataclass(frozen=True, slots=True)
class _MarksFile:
    __pydantic_config__ = STRICT

    version: VersionOne
    marks: dict[Sha256Hex, Mark]


_MARKS_FILE = TypeAdapter(_MarksFile)


def refuse_older(directory: Path, offered: Mark, *, pinned: Collection[str]) -> None:
    """Refuse what is older than what was accepted here before, and remember nothing.

    Raises PolicyError, and StateError where the marks cannot be read; a missing file holds none.
    """
    _refuse_older(_read(directory / MARKS_FILE), offered, pinned)


def accept_newer(directory: Path, offered: Mark, *, by: Collection[str], pinned: Collection[str]) -> None:
    """Refuse as `refuse_older` does, then remember the version; nobody else does so meanwhile.

    by: the pinned signers who vouched for it. Raises PolicyError, and StateError where it cannot be remembered.
    """
    with state.locked(directory / LOCK_FILE):
        marks = _read(directory / MARKS_FILE)
        _refuse_older(marks, offered, pinned)
        raised = {**marks, **dict.fromkeys(by, offered)}
        if raised != marks:
            state.replace(directory / MARKS_FILE, _MARKS_FILE.dump_json(_MarksFile(1, raised)))


def _refuse_older(marks: Mapping[str, Mark], offered: Mark, pinned: Collection[str]) -> None:
    for mark in (marks[signer] for signer in sorted(pinned) if signer in marks):
        if offered.version < mark.version:
            raise PolicyError(f"policy: version {offered.version}; version {mark.version} was accepted here before")
        if offered.version == mark.version and offered.policy_sha256 != mark.policy_sha256:
            raise PolicyError(f"policy: version {offered.version} was accepted here before, with other content")


def _read(path: Path) -> dict[str, Mark]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MARKS_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise StateError(f"{path}: {exc.strerror}") from exc
    try:
        return validate(_MARKS_FILE, strictjson.loads(data, max_bytes=MAX_MARKS_BYTES)).marks
    except ValueError as exc:
        raise PolicyError(f"versions accepted before, {path}: {exc}; without this file no version is known") from exc
