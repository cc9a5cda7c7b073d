"""Can the operating system keep the keys? As one entry of its keyring: Secret Service, KWallet, Keychain, Credentials.

The entry has what a file of keys has. It is read once, and again only when the database names a key that was not in
it: to look may ask whoever sits before the machine to unlock it. Only what keeps secrets encrypted counts as a keyring.
"""

from __future__ import annotations

from typing import Final

import keyring
import structlog
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend

from proxy.jobs.errors import VaultError
from proxy.jobs.vault import Kek, KeyRing

_log = structlog.get_logger(__name__)

SERVICE: Final = "sottovoce-jobs"
_RECOMMENDED: Final = 1
"""Of a backend's priority, as `keyring` has it; what keeps secrets in the clear, or none, has less."""


class KeyringKeys:
    """Keys in an entry of the operating system's keyring, a `proxy.jobs.vault.KeySource`. Raises VaultError."""

    watchable: Final = False

    def __init__(self, entry: str) -> None:
        self._entry = entry
        self._backend = _backend()
        self._ring = self._load()

    @classmethod
    def exists(cls, entry: str) -> bool:
        """Raises VaultError."""
        return _get(_backend(), entry) is not None

    @classmethod
    def make(cls, entry: str) -> KeyringKeys:
        """An entry with one new key. Raises VaultError."""
        _put(_backend(), entry, KeyRing((Kek.new(),)))
        return cls(entry)

    def read(self) -> KeyRing:
        return self._ring

    def write(self, ring: KeyRing) -> None:
        _put(self._backend, self._entry, ring)
        self._ring = ring

    def changed(self) -> KeyRing | None:
        before = self._ring
        try:
            self._ring = self._load()
        except VaultError as exc:
            _log.warning("job_keys_not_reloaded", error=str(exc))
        return self._ring if self._ring != before else None

    def _load(self) -> KeyRing:
        text = _get(self._backend, self._entry)
        if text is None:
            raise VaultError(f"the keyring has no entry {self._entry!r} of {SERVICE}")
        return KeyRing.parse(text)


def _backend() -> KeyringBackend:
    """Raises VaultError where there is none that keeps a secret."""
    found = keyring.get_keyring()
    # A chain may fall back to a file in the clear.
    candidates = found.backends if isinstance(found, ChainerBackend) else [found]
    backend = next((each for each in candidates if each.priority >= _RECOMMENDED), None)
    if backend is None:
        raise VaultError("the operating system has no keyring that keeps a secret")
    return backend


def _get(backend: KeyringBackend, entry: str) -> str | None:
    try:
        return backend.get_password(SERVICE, entry)
    except Exception as exc:  # each backend has errors of its system's own
        raise VaultError(f"the keyring cannot be read: {type(exc).__name__}") from exc


def _put(backend: KeyringBackend, entry: str, ring: KeyRing) -> None:
    """What was not kept is found out now, and not when it is missed."""
    try:
        backend.set_password(SERVICE, entry, ring.encode())
    except Exception as exc:
        raise VaultError(f"the keyring cannot be written: {type(exc).__name__}") from exc
    if _get(backend, entry) != ring.encode():
        raise VaultError("the keyring did not keep what was put into it")
