"""What is particular to TDX: its row of `attestation.evidence.KINDS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from attestation.errors import EvidenceError
from attestation.tdx import vendor
from attestation.tdx.abi import Quote, is_quote, parse_quote
from attestation.tdx.appraise import appraise, needs
from attestation.tdx.chain import read_pck_chain
from attestation.tdx.policy import TdxPolicy, attribute_names
from attestation.types import Collateral, EvidenceKind, ReportData, TsmProvider


class TdxRules:
    """Implements `attestation.evidence.EvidenceRules`."""

    kind = EvidenceKind.TDX
    policy = TdxPolicy
    roots = frozenset({"tdx"})
    tsm = TsmProvider("tdx_guest")
    collateral = vendor.SOURCES
    appraise = staticmethod(appraise)
    needs = staticmethod(needs)

    def recognises(self, data: bytes) -> bool:
        return is_quote(data)

    def reported(self, report: bytes) -> ReportData:
        return ReportData(parse_quote(report).report.report_data)

    def describe(self, report: bytes, collateral: Collateral) -> Mapping[str, str]:  # noqa: ARG002
        quote = parse_quote(report)
        values = {field.name: getattr(quote.report, field.name) for field in fields(quote.report)}
        registers = {name: value.hex() for name, value in values.items() if value is not None and name != "report_data"}
        attributes = registers["td_attributes"]
        return {
            "quote version": str(quote.version),
            **_platform(quote),
            **registers,
            "td_attributes": f"{attributes} ({', '.join(attribute_names(attributes)) or 'none'})",
        }

    def delivered(self, report: bytes, certificates: bytes) -> Collateral:  # noqa: ARG002 - a host adds nothing
        return {}


def _platform(quote: Quote) -> Mapping[str, str]:
    try:
        pck = read_pck_chain(quote)
    except EvidenceError as exc:
        return {"platform": f"cannot be read: {exc}"}
    instance = pck.platform_instance_id or "none"
    return {"fmspc": pck.fmspc, "PCK CA": pck.ca, "ppid": pck.ppid, "platform_instance_id": instance}
