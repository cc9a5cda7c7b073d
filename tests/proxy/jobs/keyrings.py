"""Keyrings of no operating system. `PYTHON_KEYRING_BACKEND` names one to a command of its own process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

FILE = "SOTTOVOCE_TEST_KEYRING"
"""The variable with the file of `FileKeyring`: what one process puts there another finds."""


class FileKeyring(KeyringBackend):
    priority: ClassVar[float] = 5
    is_locked: ClassVar[bool] = False
    is_deaf: ClassVar[bool] = False
    reads: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def _path(self) -> Path:
        return Path(os.environ[FILE])

    def _entries(self) -> dict[str, str]:
        if self.is_locked:
            raise KeyringLocked("secret of the user")
        entries: dict[str, str] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return entries

    def get_password(self, service: str, username: str) -> str | None:
        type(self).reads += 1
        return self._entries().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        entries = self._entries() | {f"{service}/{username}": password}
        if not self.is_deaf:
            self._path.write_text(json.dumps(entries))

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


class OpenKeyring(FileKeyring):
    """As one that keeps secrets in the clear has it."""

    priority: ClassVar[float] = 0.5
