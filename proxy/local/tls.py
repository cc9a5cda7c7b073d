"""How do certificates change without a restart? Each handshake takes the newest.

Certificates are renewed by other programs, which replace two files, one after the other. So a pair that does not fit is
waited for, and a context that serves is never changed: OpenSSL would drop its private key when it is given the
certificate of another one.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from core.program.files import Watched

_log = structlog.get_logger(__name__)


class ServerTls:
    """The TLS of a listener. Every handshake of `context` goes on under the pair that was loaded last."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Load a PEM certificate chain and its key. Raises OSError (ssl.SSLError is one) and ValueError."""
        files = (cert, key)
        self._watched = Watched(files, lambda _: _context(*files), faults=(OSError, ValueError), tell=_not_reloaded)
        self.context = _context(*files)
        self.context.sni_callback = self._take_newest  # called for clients without a server name too

    def _take_newest(self, handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        handshake.context = self._watched.value

    def changed(self) -> ssl.SSLContext | None:
        """What new handshakes take from now on, if the files changed and fit each other."""
        if (newest := self._watched.changed()) is not None:
            _log.info("certificate_reloaded")
        return newest


def _not_reloaded(exc: Exception) -> None:
    _log.warning("certificate_not_reloaded", error=type(exc).__name__)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context
