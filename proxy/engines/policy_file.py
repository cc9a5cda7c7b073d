"""Has the policy changed? Its file is looked at now and then; a new one that cannot be used leaves the old in force."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from attestation.errors import PolicyError
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.release.load import load_policy
from attestation.release.trust import PolicyTrust
from core.program.files import Watched

_log = structlog.get_logger(__name__)

_BESIDE: Final = ("", ".sig", ".sigstore.json")


class PolicyFile:
    """A policy and the file it came from, with whatever vouches for it beside it."""

    def __init__(self, path: Path, trust: PolicyTrust, clock: Callable[[], datetime]) -> None:
        """Raises PolicyError."""

        def load(held: Policy | None) -> Policy:
            policy = load_policy(path, trust, now=clock())
            if held is not None and policy.is_insecure and not held.is_insecure:
                # What guards development evidence was decided at the start: to whom connections may go.
                raise PolicyError("it accepts development evidence; start the proxy with it instead")
            return held if held is not None and held.digest == policy.digest else policy

        files = [path.with_name(path.name + suffix) for suffix in _BESIDE]
        self._watched = Watched(files, load, faults=(PolicyError,), tell=_not_reloaded)

    @property
    def policy(self) -> Policy:
        """The newest that may be used."""
        return self._watched.value

    def changed(self) -> Policy | None:
        """The policy if there is a new one that may be used."""
        policy = self._watched.changed()
        if policy is not None:
            _log.info("policy_reloaded", policy=policy.digest)
            if policy.has_insecure_roots:
                _log.error("insecure_roots", detail=INSECURE_ROOTS_WARNING)
        return policy


def _not_reloaded(exc: Exception) -> None:
    _log.error("policy_not_reloaded", detail=str(exc))
