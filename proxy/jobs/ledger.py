"""What does a recording cost, and may its account have it heard? Amounts in millionths of the meter's unit, exactly.

=========== =============================== ===================================================
meter       amount of a recording           an account may
=========== =============================== ===================================================
none        0                               always
hours_28d   its hours                       while the window's hours and what is held fit the quota
cents       whole seconds x price / 3600    while what is paid in and not held covers it
credits     its hours x price               the same
=========== =============================== ===================================================
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from proxy.jobs.model import Meter, PlanTerms

MICRO: Final = 1_000_000
MS_PER_HOUR: Final = 3_600_000
WINDOW_MS: Final = 28 * 24 * MS_PER_HOUR


def price(terms: PlanTerms, audio_ms: int) -> Decimal:
    """What hearing so much costs, to a millionth."""
    counted_ms = audio_ms // 1000 * 1000 if terms.meter is Meter.CENTS else audio_ms
    hours = Decimal(counted_ms) / MS_PER_HOUR
    rate = {Meter.NONE: Decimal(0), Meter.HOURS_28D: Decimal(1)}.get(terms.meter, terms.price_per_hour)
    return (hours * rate).quantize(Decimal(1) / MICRO, ROUND_HALF_EVEN)


def window_start_ms(created_ms: int, now_ms: int) -> int:
    """When the present window of 28 days began; the first begins with the account."""
    return now_ms - max(0, now_ms - created_ms) % WINDOW_MS


def to_micro(amount: Decimal) -> int:
    """Raises ValueError for what has more than six decimals: nothing is rounded in a ledger."""
    micro = amount * MICRO
    if micro != micro.to_integral_value():
        raise ValueError("an amount has at most six decimals")
    return int(micro)


def from_micro(micro: int) -> Decimal:
    return Decimal(micro) / MICRO
