"""Attested engines for an application's own HTTP client; see `proxy.client.transport`."""

from proxy.client.transport import AsyncSottovoceTransport, EngineOptions, SottovoceTransport
from proxy.sender import StartError

__all__ = ["AsyncSottovoceTransport", "EngineOptions", "SottovoceTransport", "StartError"]
