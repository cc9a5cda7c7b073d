"""How do certificates change without a restart? The server's context reloads its files, the client's trusts one file.

Certificates are renewed by other programs, which replace two files, one after the other. OpenSSL drops the private key
of a context that is given a certificate of another key, and then no handshake succeeds; so a pair is tried out on a
context that serves nobody before it touches the one that serves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

CHECK_EVERY_S: Final = 10.0

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The TLS of a listener; `context` stays the same object, so new handshakes use what was loaded last."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Load a PEM certificate chain and its key. Raises OSError (ssl.SSLError is one) and ValueError."""
        self._files = (cert, key)
        self._loaded = self._stamp()
        self.context = _server_context()
        self.context.load_cert_chain(cert, key)

    def reload_if_changed(self) -> bool:
        """Load the files again if they changed and fit each other; otherwise keep what is loaded."""
        try:
            stamp = self._stamp()
            if stamp == self._loaded:
                return False
            _server_context().load_cert_chain(*self._files)
            self.context.load_cert_chain(*self._files)
        except (OSError, ValueError) as exc:
            _log.warning("certificate_not_reloaded", error=type(exc).__name__)
            return False
        self._loaded = stamp
        _log.info("certificate_reloaded")
        return True

    async def watch(self, nap: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look at the files for ever."""
        while True:
            await nap(CHECK_EVERY_S)
            self.reload_if_changed()

    def _stamp(self) -> _Stamp:
        """Changes when a file is rewritten, and when it, or the symbolic link to it, is replaced."""
        found = [path.stat() for path in self._files]
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies the engine's host by the system's roots, or by those of `ca_file` alone. Raises OSError."""
    return ssl.create_default_context(cafile=ca_file)
