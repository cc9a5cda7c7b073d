"""How does OpenAI tell a client what is left of its rate limit? Three headers.

::

    x-ratelimit-limit-requests: 60
    x-ratelimit-remaining-requests: 59
    x-ratelimit-reset-requests: 1s          until all of it is there again; as Go writes a duration: 12ms, 8.64s, 1m0s

https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
"""

from __future__ import annotations

import math

from engine.access.limits import RequestAllowance


def allowance_headers(allowance: RequestAllowance | None) -> dict[str, str]:
    """The headers of an answer; none where requests are not limited."""
    if allowance is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": _duration(allowance.reset_s),
    }


def _duration(seconds: float) -> str:
    """A duration of less than an hour, in milliseconds rounded up."""
    # What a sum of fractions is off by must not become a millisecond.
    whole_ms = math.ceil(round(seconds * 1000, 3))
    if 0 < whole_ms < 1000:
        return f"{whole_ms}ms"
    minutes, ms = divmod(whole_ms, 60_000)
    text = f"{ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"
