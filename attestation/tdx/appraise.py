"""Is a TDX machine acceptable? Every check of a quote, by a policy and Intel's collateral.

The checks, in order; each is one line of the appraisal:

1. authenticity  the quote can be read, its chain ends in a believed root, its collateral is there, in force and recent,
                 no certificate has expired, and it verifies (`attestation.tdx.chain`)
2. platform      what Intel and the platform's certificate say of it (`attestation.tdx.tcb`)
3. domain        what the TDX module says of it and measured of it (`attestation.tdx.domain`)

Collateral that is past its `nextUpdate` is verified as of the second before; whether that is too long ago is a line
of its own. Certificates are checked at the present time too, so that no grace prolongs them.

Left out: minima of our own for TEE_TCB_SVN, since TCB levels are Intel's; and the replay of RTMR event logs, since the
policy names final values. What no quote shows is who has wires on the memory bus, and so may hold attestation keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from attestation.collateral.roots import Roots
from attestation.errors import EvidenceError
from attestation.tdx.abi import Quote, TdReport, parse_quote
from attestation.tdx.certificates import Window, window
from attestation.tdx.chain import TcbClaims, read_pck_chain, trusted_root, verify
from attestation.tdx.collateral import TdxCollateral, parse_collateral
from attestation.tdx.domain import domain_checks
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.tcb import out_of_date_since, tcb_checks
from attestation.types import (
    Appraisal,
    Check,
    Collateral,
    CollateralKey,
    ReportData,
    failed,
    judged,
    passed,
    skipped,
)

T = TypeVar("T")

_OF_COLLATERAL: Final = ("tdx collateral validity", "tdx collateral age", "tdx certificates", "tdx authenticity")
_OF_CHAIN: Final = ("tdx root", "tdx collateral", *_OF_COLLATERAL)
_OF_PLATFORM: Final = (
    "tdx tcb status",
    "tdx tcb advisories",
    "tdx tcb date",
    "tdx tcb evaluation",
    "tdx static platform",
    "tdx uncached keys",
    "tdx smt off",
    "tdx memory integrity",
    "tdx platform instance id",
    "tdx ppid",
)
_OF_DOMAIN: Final = (
    "tdx module",
    "tdx mr_seam",
    "tdx td_attributes",
    "tdx xfam",
    "tdx mr_service_td",
    "tdx mr_config_id",
    "tdx mr_owner",
    "tdx mr_owner_config",
    "tdx hardware",
    "tdx code",
)
# Above are the names of lines, for those that cannot be judged.


def needs(report: bytes, policy: TdxPolicy, collateral: Collateral) -> tuple[CollateralKey, ...]:  # noqa: ARG001
    """The one piece of collateral that appraising this quote looks up; none when the quote cannot be read."""
    try:
        return (read_pck_chain(parse_quote(report)).collateral_key,)
    except EvidenceError:
        return ()


def appraise(report: bytes, policy: TdxPolicy, collateral: Collateral, *, roots: Roots, now: datetime) -> Appraisal:
    """Judge a quote; every check is a line, and nothing is raised for bad evidence.

    now: an aware datetime.
    """
    quote_check, quote = _attempt("tdx quote", lambda: parse_quote(report), "can be read")
    if quote is None:
        names = ("tdx pck chain", *_OF_CHAIN, *_OF_PLATFORM, *_OF_DOMAIN)
        return Appraisal((quote_check, *_skipped(names, "the quote cannot be read")), None)
    checks, tcb, valid_until = _authenticate(quote, policy, collateral, roots, now)
    platform = _skipped(_OF_PLATFORM, "the quote is not authentic") if tcb is None else tcb_checks(tcb, policy, now)
    return Appraisal(
        (quote_check, *checks, *platform, *domain_checks(quote.report, policy)),
        ReportData(quote.report.report_data),
        {} if tcb is None else _claims(quote.report, tcb),
        valid_until,
    )


def _attempt(name: str, read: Callable[[], T], if_ok: str) -> tuple[Check, T | None]:
    try:
        value = read()
    except EvidenceError as exc:
        return failed(name, str(exc)), None
    return passed(name, if_ok), value


def _skipped(names: tuple[str, ...], reason: str) -> Iterator[Check]:
    return (skipped(name, reason) for name in names)


_Authenticity = tuple[tuple[Check, ...], TcbClaims | None, datetime | None]
"""The checks; what the library found, if the quote verified; and until when that holds."""


def _authenticate(
    quote: Quote, policy: TdxPolicy, collateral: Collateral, roots: Roots, now: datetime
) -> _Authenticity:
    chain_check, chain = _attempt("tdx pck chain", lambda: read_pck_chain(quote), "PCK, PCK CA and root")
    if chain is None:
        return (chain_check, *_skipped(_OF_CHAIN, "the chain in the quote cannot be read")), None, None
    key = chain.collateral_key
    root_check, root = _attempt("tdx root", lambda: trusted_root(chain, roots.tdx), "a root that is believed")
    found_check, found = _attempt("tdx collateral", lambda: _look_up(key, collateral), f"there is some for {key.name}")
    checks = (chain_check, root_check, found_check)
    if found is None:
        return (*checks, *_skipped(_OF_COLLATERAL, "there is no collateral that can be read")), None, None
    certificates = window(chain.certificates, found.crl_chain, found.tcb_chain, found.qe_chain)
    in_force = tuple(_in_force(found, certificates, policy, now))
    if root is None:
        return (*checks, *in_force, skipped("tdx authenticity", "the root is not believed")), None, None
    at_s = min(int(now.timestamp()), int(found.next_update.timestamp()) - 1)
    verified_check, tcb = _attempt(
        "tdx authenticity",
        lambda: verify(quote, chain, found, root=root, at_s=at_s),
        "the quote, its platform and its collateral are Intel's",
    )
    valid_until = None if tcb is None else _valid_until(found, certificates, tcb, policy)
    return (*checks, *in_force, verified_check), tcb, valid_until


def _look_up(key: CollateralKey, collateral: Collateral) -> TdxCollateral:
    if (data := collateral.get(key)) is None:
        raise EvidenceError(f"there is none for {key.name}")
    return parse_collateral(data)


def _in_force(found: TdxCollateral, certificates: Window, policy: TdxPolicy, now: datetime) -> Iterator[Check]:
    yield judged(
        "tdx collateral validity",
        found.newest <= now and now - found.next_update < timedelta(seconds=policy.collateral_grace_s),
        f"due to be replaced at {found.next_update:%Y-%m-%d %H:%M} UTC",
        f"issued at {found.newest:%Y-%m-%d %H:%M}, due to be replaced at {found.next_update:%Y-%m-%d %H:%M} UTC",
    )
    yield _age(found, policy.max_collateral_age_s, now)
    yield judged(
        "tdx certificates",
        certificates.not_before <= now <= certificates.not_after,
        f"all valid until {certificates.not_after:%Y-%m-%d}",
        f"together valid from {certificates.not_before:%Y-%m-%d} until {certificates.not_after:%Y-%m-%d}",
    )


def _age(found: TdxCollateral, limit_s: int | None, now: datetime) -> Check:
    name, detail = "tdx collateral age", f"the oldest part was issued at {found.oldest:%Y-%m-%d %H:%M} UTC"
    if limit_s is None:
        return skipped(name, f"the policy does not ask; {detail}")
    return judged(name, now - found.oldest <= timedelta(seconds=limit_s), detail, detail)


def _valid_until(found: TdxCollateral, certificates: Window, tcb: TcbClaims, policy: TdxPolicy) -> datetime:
    # As numbers, since a datetime cannot go past the year 9999 in which some certificates end.
    ends = [certificates.not_after.timestamp(), found.next_update.timestamp() + policy.collateral_grace_s]
    if policy.max_collateral_age_s is not None:
        ends.append(found.oldest.timestamp() + policy.max_collateral_age_s)
    if (since := out_of_date_since(tcb)) is not None:
        ends.append(since.timestamp() + policy.out_of_date_grace_s)
    return datetime.fromtimestamp(min(ends), UTC)


def _claims(report: TdReport, tcb: TcbClaims) -> dict[str, str]:
    pck = tcb.platform.pck
    registers = {
        name: getattr(report, name).hex()
        for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam", "tee_tcb_svn", "td_attributes", "xfam")
    }
    return registers | {
        "fmspc": pck.fmspc.hex(),
        "ppid": pck.ppid.hex(),
        "platform_instance_id": "none" if pck.platform_instance_id is None else pck.platform_instance_id.hex(),
        "tcb_status": tcb.tcb.status,
        "tcb_date": f"{tcb.platform.tcb_level.date:%Y-%m-%d}",
        "tcb_advisories": ", ".join(tcb.tcb.advisory_ids) or "none",
    }
