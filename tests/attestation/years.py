"""A date that no calendar has, for certificates whose reader looks at dates late."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def in_year_zero(pem: bytes) -> bytes:
    """The chain, with every date of `LAST` moved to the year 0. Its signatures no longer hold."""

    def moved(match: re.Match[bytes]) -> bytes:
        der = base64.b64decode(match[1]).replace(b"99991231235959Z", b"00000101000000Z")
        lines = base64.b64encode(der)
        wrapped = b"\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
        return b"-----BEGIN CERTIFICATE-----\n" + wrapped + b"\n-----END CERTIFICATE-----"

    changed = re.sub(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", moved, pem, flags=re.DOTALL)
    assert changed != pem
    return changed
