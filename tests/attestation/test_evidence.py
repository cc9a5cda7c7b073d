"""Every kind of evidence has its row, and a further one takes no more than that."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import fields

from attestation.collateral.roots import Roots
from attestation.collateral.vendors import ASKED_ONCE, SOURCES, UNSIGNED
from attestation.evidence import KINDS
from attestation.types import CollateralKind, EvidenceKind
from tests.places import ROOT


def test_every_kind_of_evidence_has_its_row() -> None:
    assert set(KINDS) == set(EvidenceKind)
    assert all(rules.kind is kind for kind, rules in KINDS.items())


def test_every_kind_of_collateral_has_one_source() -> None:
    assert set(SOURCES) == set(CollateralKind)
    assert max(Counter(kind for rules in KINDS.values() for kind in rules.collateral).values()) == 1


def test_what_only_its_vendor_or_only_one_nonce_can_have_is_known() -> None:
    assert {CollateralKind.GPU_NRAS_KEYS} == UNSIGNED
    assert {CollateralKind.GPU_NRAS} == ASKED_ONCE


def test_every_root_is_of_one_kind_or_of_the_devices() -> None:
    owned = Counter(root for rules in KINDS.values() for root in rules.roots)
    assert owned == {field.name: 1 for field in fields(Roots) if not field.name.startswith("gpu_")}


FURTHER_KIND = """
from enum import StrEnum
from attestation import types

names = {kind.name: kind.value for kind in types.EvidenceKind}
types.EvidenceKind = StrEnum("EvidenceKind", {**names, "TOY": "toy"})          # the member

from attestation import evidence
from tests.attestation.toy import PAINT, ToyRules

evidence.KINDS[ToyRules.kind] = ToyRules()                                     # the row

from dataclasses import replace
from attestation.cli.described import describe
from attestation.collateral.vendors import SOURCES
from attestation.document import parse_document
from attestation.errors import PolicyError, RefusedError
from attestation.guest.tsm import PROVIDERS
from attestation.policy import parse_policy
from attestation.recognition import recognise
from attestation.statement import report_data
from attestation.verification import needs, verify
from tests.attestation.samples import MEASURED, NONCE, NOW, attested, statement_with

policy = parse_policy(b'version = 1\\n[toy]\\ncolours = ["red"]\\n')
document = attested(statement_with(**MEASURED))
bound = report_data(document.nonces, document.statement, document.device_evidence)
toy = types.Evidence(ToyRules.kind, b"toy red\\0" + bound)
document = parse_document(replace(document, evidence=toy).encode())

assert needs(document, policy, {}, now=NOW) == (PAINT,)
result = verify(document, policy, {PAINT: b"fresh"}, expected=NONCE, now=NOW)
assert (result.kind, result.claims["colour"]) == ("toy", "red")
assert describe(document) == {"colour": "red", "report data": bound.hex()}
assert recognise(toy.report) == toy
assert PROVIDERS["toy_guest"][0] == "toy"
assert SOURCES[PAINT.kind] is ToyRules.collateral[PAINT.kind]

blue = replace(document, evidence=replace(toy, report=b"toy blue\\0" + bound))
try:
    verify(blue, policy, {}, expected=NONCE, now=NOW)
except RefusedError as exc:
    assert [check.name for check in exc.checks if check.failed] == ["toy colour", "toy paint"]
else:
    raise AssertionError("accepted")
try:
    parse_policy(b"version = 1\\n[toy]\\ncolours = 7\\n[insecure]\\naccept = true")
except PolicyError as exc:
    assert "toy.colours" in str(exc) and "`insecure` beside other evidence" in str(exc)
else:
    raise AssertionError("accepted")
"""


def test_a_further_kind_takes_its_rules_a_member_and_a_row() -> None:
    done = subprocess.run([sys.executable, "-c", FURTHER_KIND], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
