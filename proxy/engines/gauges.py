"""What is measured of each engine when a scrape asks? Whoever has a place in the pool then has its series."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from proxy.engines.lease import EngineId
from proxy.engines.pool import Member
from proxy.engines.verifier import AttestedEngine, Clock
from proxy.telemetry import Telemetry


def gauges(telemetry: Telemetry, clock: Clock) -> Callable[[Member], None]:
    """Call what is returned with each engine that joins a pool: the series of its place are about it from then on."""
    places: dict[EngineId, Member] = {}

    def joined(member: Member) -> None:
        if member.id not in places:
            _observe(telemetry, str(member.id), lambda: places[member.id], clock)
        places[member.id] = member

    return joined


def _observe(telemetry: Telemetry, place: str, member: Callable[[], Member], clock: Clock) -> None:
    def seconds(moment: Callable[[AttestedEngine], datetime | None]) -> float:
        held = None if member().has_left else member().trust.held
        when = moment(held) if held else None
        return when.timestamp() if when else 0.0

    def age_s(moment: Callable[[AttestedEngine], datetime | None]) -> float:
        began_s = seconds(moment)
        return clock().timestamp() - began_s if began_s else 0.0

    read = (
        (telemetry.verified_at, lambda: seconds(lambda held: held.result.verified_at)),
        (telemetry.expires_at, lambda: seconds(lambda held: held.result.expires_at)),
        (telemetry.collateral_expires_at, lambda: seconds(lambda held: held.result.collateral_expires_at)),
        (telemetry.age, lambda: age_s(lambda held: held.result.verified_at)),
        (telemetry.collateral_age, lambda: age_s(lambda held: held.collateral_at)),
        (telemetry.engine_ready, lambda: float(member().trust.is_ready and not member().has_left)),
        (telemetry.engine_requests, lambda: float(member().health.in_flight)),
    )
    for gauge, value in read:
        gauge.labels(engine=place).set_function(value)
