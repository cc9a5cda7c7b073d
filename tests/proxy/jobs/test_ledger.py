"""Prices are exact."""

from __future__ import annotations

from decimal import Decimal

import pytest

from proxy.jobs.ledger import WINDOW_MS, from_micro, price, to_micro, window_start_ms
from proxy.jobs.model import Meter, PlanTerms


@pytest.mark.parametrize(
    ("meter", "rate", "audio_ms", "amount"),
    [
        (Meter.NONE, "20", 3_600_000, "0"),
        (Meter.CENTS, "20", 11_700, "0.061111"),  # whole seconds: 11 of them
        (Meter.CENTS, "20", 120_000, "0.666667"),
        (Meter.CREDITS, "60", 90_000, "1.5"),
        (Meter.HOURS_28D, "0", 1_800_000, "0.5"),
    ],
)
def test_a_price(meter: Meter, rate: str, audio_ms: int, amount: str) -> None:
    assert price(PlanTerms("p", meter, price_per_hour=Decimal(rate)), audio_ms) == Decimal(amount)


def test_nothing_is_rounded_on_its_way_into_the_ledger() -> None:
    assert from_micro(to_micro(Decimal("0.061111"))) == Decimal("0.061111")
    with pytest.raises(ValueError, match="six decimals"):
        to_micro(Decimal("0.0611111"))


def test_a_window_follows_the_other_from_the_beginning_of_the_account() -> None:
    assert window_start_ms(1000, 1000) == 1000
    assert window_start_ms(1000, 1000 + WINDOW_MS - 1) == 1000
    assert window_start_ms(1000, 1000 + WINDOW_MS) == 1000 + WINDOW_MS
