"""Who may put a file into an upload? Whoever has its URL, which is signed and ends.

::

    /uploads/{id}?exp=<milliseconds since 1970>&sig=<HMAC-SHA256(key, "upload" LF id LF exp), base64url>

The URL is this proxy's own: what is put there leaves this machine sealed, or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from proxy.jobs.model import Upload, UploadId

PATH: Final = "/uploads/{id}"


def signed_path(upload: Upload, key: bytes) -> str:
    return f"/uploads/{upload.id}?exp={upload.expires_ms}&sig={_signature(upload.id, str(upload.expires_ms), key)}"


def is_signed(upload: UploadId, exp: str, sig: str, key: bytes) -> bool:
    return hmac.compare_digest(sig.encode(), _signature(upload, exp, key).encode())


def _signature(upload: UploadId, exp: str, key: bytes) -> str:
    mac = hmac.digest(key, f"upload\n{upload}\n{exp}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")
