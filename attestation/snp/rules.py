"""What is particular to SEV-SNP: its row of `attestation.evidence.KINDS`."""

from __future__ import annotations

from collections.abc import Mapping

from attestation.snp import vendor
from attestation.snp.abi import is_report, parse_report, told
from attestation.snp.appraise import appraise, needs
from attestation.snp.collateral import collateral_of, look_up
from attestation.snp.policy import SnpPolicy
from attestation.snp.table import parse_certificate_table
from attestation.types import Collateral, EvidenceKind, ReportData, TsmProvider


class SnpRules:
    """Implements `attestation.evidence.EvidenceRules`."""

    kind = EvidenceKind.SNP
    policy = SnpPolicy
    roots = frozenset({"snp"})
    tsm = TsmProvider("sev_guest", has_levels=True, has_certificates=True)
    collateral = vendor.SOURCES
    appraise = staticmethod(appraise)
    needs = staticmethod(needs)

    def recognises(self, data: bytes) -> bool:
        return is_report(data)

    def reported(self, report: bytes) -> ReportData:
        return parse_report(report).report_data

    def describe(self, report: bytes, collateral: Collateral) -> Mapping[str, str]:
        parsed = parse_report(report)
        vouching = look_up(parsed, collateral)
        vek = vouching.vek.value
        return {
            "product": str(vouching.product or "only its certificate tells"),
            "report version": str(parsed.version),
            "signing key": str(parsed.signing_key),
            "cloud (CSP id)": vek.csp_id if vek and vek.csp_id else "none",
            "chip id": parsed.hardware_id.hex(),
            "measurement": parsed.measurement.hex(),
            "host data": parsed.host_data.hex(),
            "id key digest": parsed.id_key_digest.hex(),
            "author key digest": parsed.author_key_digest.hex() if parsed.author_key_enabled else "none",
            "family id": parsed.family_id.hex(),
            "image id": parsed.image_id.hex(),
            "VMPL": str(parsed.vmpl),
            "guest policy": told(parsed.policy),
            "platform info": told(parsed.platform_info),
            "reported TCB": str(parsed.reported_tcb),
            "committed TCB": str(parsed.committed_tcb),
            "launch TCB": str(parsed.launch_tcb),
            "current TCB": str(parsed.current_tcb),
            "firmware": f"{parsed.current_version}, committed {parsed.committed_version}",
            "mitigations": f"at launch {parsed.launch_mitigations:#x}, now {parsed.current_mitigations:#x}",
        }

    def delivered(self, report: bytes, certificates: bytes) -> Collateral:
        return collateral_of(parse_report(report), parse_certificate_table(certificates))
