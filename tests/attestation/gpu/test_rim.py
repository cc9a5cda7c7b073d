"""Only what NVIDIA signed is read from a manifest, and every way to pass off something else is refused."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu import rim
from tests.attestation.gpu.forge_rim import (
    AUTHORITY,
    DSIG,
    NOW,
    ROOTS,
    SWID,
    RimAuthority,
    SignedInfo,
    floor,
    raw_signature,
    resource,
    rim_authority,
    sign,
    swid,
)
from tests.pki import ISSUES, SIGNS, Party, issue

A, B, C = (bytes([n]) * 48 for n in (0xA1, 0xB2, 0xC3))
GOLDEN = {8: [A], 22: [B, C]}
EXPECTED = {8: frozenset({A}), 22: frozenset({B, C})}
DOCUMENT = swid(golden=GOLDEN, inactive=[1])
GOOD = sign(DOCUMENT)
TEXT = GOOD.decode()
SIGNATURE = TEXT[TEXT.index("<ds:Signature ") : TEXT.index("</SoftwareIdentity>")]

FLIPPED = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
"""The library warns of a negative serial number, which a flipped bit may make."""


def _read(data: bytes | str, now: datetime = NOW) -> rim.Rim:
    return rim.read(data.encode() if isinstance(data, str) else data, roots=ROOTS, now=now)


def _refused(data: bytes | str, reason: str, now: datetime = NOW) -> None:
    with pytest.raises(EvidenceError, match=reason):
        _read(data, now)


def test_a_signed_manifest_is_read() -> None:
    data = sign(swid(id="ab" * 48, version="96.10.55.00.01", product="LS10", edition="SWITCH", golden=GOLDEN))
    assert _read(data) == rim.Rim(
        id="ab" * 48,
        version="96.10.55.00.01",
        measurements=EXPECTED,
        floors={},
        chain=tuple(party.certificate for party in AUTHORITY.parties),
        valid_until=datetime(2049, 12, 31, tzinfo=UTC),
        product="LS10",
        edition="SWITCH",
    )


def test_measurements_are_numbered_as_in_a_report() -> None:
    data = sign(swid(golden={1: [A], 64: [B], 254: [C]}))
    assert b'index="0"' in data
    assert set(_read(data).measurements) == {1, 64, 254}


def test_values_are_read_in_either_case() -> None:
    assert _read(sign(DOCUMENT.replace("a1", "A1"))).measurements == EXPECTED


# --- what a signed manifest must hold


DOCUMENTS: Mapping[str, tuple[str, str]] = {
    "another root": (DOCUMENT.replace("SoftwareIdentity", "Software"), "not a SWID document"),
    "another namespace": (DOCUMENT.replace(f'xmlns="{SWID}"', 'xmlns="urn:swid"'), "not a SWID document"),
    "a patch": (swid(golden=GOLDEN, flags={"patch": "true"}), "not complete by itself"),
    "a supplement": (swid(golden=GOLDEN, flags={"supplemental": "true"}), "not complete by itself"),
    "a tag of an installer": (swid(golden=GOLDEN, flags={"corpus": "true"}), "not complete by itself"),
    "perhaps a patch": (DOCUMENT.replace(' patch="false"', ""), "not complete by itself"),
    "no identity": (DOCUMENT.replace(" tagId=", " tagIx="), "tagId is missing"),
    "no version": (DOCUMENT.replace(" colloquialVersion=", " colloquialVersiox="), "colloquialVersion is missing"),
    "an empty version": (swid(version="", golden=GOLDEN), "colloquialVersion is missing"),
    "a version of two words": (swid(version="545.00 545.01", golden=GOLDEN), "not a word"),
    "an endless version": (swid(version="5" * 129, golden=GOLDEN), "not a word"),
    "no product": (swid(product="", golden=GOLDEN), "product is missing"),
    "no edition": (swid(edition="", golden=GOLDEN), "edition is missing"),
    "no Meta": (re.sub("    <ns0:Meta .*\n", "", DOCUMENT), "must have one Meta, and has 0"),
    "two Metas": (re.sub("(    <ns0:Meta .*\n)", r"\1\1", DOCUMENT), "must have one Meta, and has 2"),
    "no Payload": (re.sub("(?s)    <ns0:Payload.*Payload>\n", "", DOCUMENT), "must have one Payload, and has 0"),
    "two Payloads": (re.sub("(?s)(    <ns0:Payload.*Payload>\n)", r"\1\1", DOCUMENT), "must have one Payload"),
    "nothing active": (swid(golden={}, inactive=[1, 2]), "no active measurement"),
    "nothing at all": (swid(golden={}), "no active measurement"),
    "an xml attribute": (DOCUMENT.replace("<ns0:Entity ", '<ns0:Entity xml:lang="en" '), "xml: namespace"),
}


@pytest.mark.parametrize(("document", "reason"), DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_signed_document_that_is_no_complete_manifest_is_refused(document: str, reason: str) -> None:
    _refused(sign(document), reason)


RESOURCES: Mapping[str, tuple[str, str]] = {
    "twice": (resource(8, [A]) * 2, "measurement 7 twice"),
    "active and inactive": (resource(8, [A]) + resource(8, [A], active="False"), "measurement 7 twice"),
    "without number": (resource(8, [A], index=""), "index is not a number"),
    "a negative number": (resource(8, [A], index="-1"), "index is not a number"),
    "a number in other digits": (resource(8, [A], index="\u0667"), "index is not a number"),
    "a very long number": (resource(8, [A], index="0" * 99 + "7"), "index is not a number"),
    "a number that no report has": (resource(255, [A]), "measurement 254: reports end at 253, floors at 69631"),
    "the last number before floors": (resource(4096, [A]), "measurement 4095: reports end at 253"),
    "perhaps active": (resource(8, [A], active="true"), "neither active nor inactive"),
    "another type": (resource(8, [A], type="OpaqueData"), "unknown kind"),
    "another element": (resource(8, [A]).replace("ns0:Resource", "ns0:File"), "unknown kind"),
    "another namespace": (resource(8, [A]).replace("ns0:Resource", "ns2:Resource"), "unknown kind"),
    "fewer values than it says": (resource(8, [A], alternatives="2"), "not as many as it says"),
    "more values than it says": (resource(8, [A, B], alternatives="1"), "not as many as it says"),
    "no value": (resource(8, []), "not as many as it says"),
    "values that start at 1": (resource(8, [A]).replace("Hash0", "Hash1"), "not as many as it says"),
    "a value of another algorithm": (resource(8, [A]).replace("ns2:Hash0", "ns0:Hash0"), "not as many as it says"),
    "a short value": (resource(8, [A[:-1]]), "not a SHA-384 digest"),
    "a long value": (resource(8, [A + b"a"]), "not a SHA-384 digest"),
    "a value with a space": (resource(8, [A]).replace("a1a1", "a1 1", 1), "not a SHA-384 digest"),
    "a value that is no number": (resource(8, [A]).replace("a1a1", "xyxy", 1), "not a SHA-384 digest"),
}


@pytest.mark.parametrize(("resources", "reason"), RESOURCES.values(), ids=RESOURCES.keys())
def test_a_signed_measurement_that_has_no_one_meaning_is_refused(resources: str, reason: str) -> None:
    document = swid(golden={9: [C]})
    assert _read(sign(document)).measurements == {9: frozenset({C})}
    _refused(sign(document.replace("    </ns0:Payload>", f"{resources}    </ns0:Payload>")), reason)


# --- floors


def _with(*floors: str, golden: Mapping[int, list[bytes]] | None = None) -> bytes:
    return sign(swid(golden=GOLDEN if golden is None else golden, floors=floors))


def test_floors_are_read_by_the_type_of_their_field() -> None:
    manifest = _read(_with(floor(0, 0), floor(37, 5, name="FSP_UCODE_MIN_SVN"), floor(65535, "18446744073709551615")))
    assert manifest.measurements == EXPECTED
    assert manifest.floors == {
        0: rim.Floor("FIELD_0_MIN_SVN", 0),
        37: rim.Floor("FSP_UCODE_MIN_SVN", 5),
        65535: rim.Floor("FIELD_65535_MIN_SVN", 2**64 - 1),
    }


def test_a_manifest_that_only_declares_the_namespace_of_floors_has_none() -> None:
    assert _read(_with()).floors == {}


def test_the_prefix_of_a_namespace_does_not_matter() -> None:
    document = swid(golden=GOLDEN, floors=[floor(37, 5)])
    assert _read(sign(document.replace("ns3:", "svn:").replace("xmlns:ns3", "xmlns:svn"))).floors.keys() == {37}


def test_whether_to_report_a_value_changes_nothing() -> None:
    for said in ({"ns3:minSvn": "5"}, {"ns3:minSvn": "5", "ns3:includeInResult": "False"}):
        assert _read(_with(floor(37, 0, said))).floors == {37: rim.Floor("FIELD_37_MIN_SVN", 5)}


def test_size_and_alternatives_of_a_floor_mean_nothing() -> None:
    assert _read(_with(floor(37, 5, size="", alternatives="many"))).floors.keys() == {37}


def test_an_inactive_floor_does_not_count() -> None:
    inactive = (floor(37, "5x", active="False"), floor(38, 5, {}, active="False", name=""))
    assert _read(_with(*inactive, floor(39, 5, name="FIELD_37_MIN_SVN"))).floors.keys() == {39}


_HASH = {"ns2:Hash0": A.hex()}
_MIN_SVN = {"ns3:minSvn": "5"}
FLOORS: Mapping[str, tuple[bytes, str]] = {
    "without a number": (_with(floor(37, 0, {"ns3:includeInResult": "True"})), "not the number of a security version"),
    "with a hash instead": (_with(floor(37, 0, _HASH)), "not the number of a security version alone"),
    "with a hash too": (_with(floor(37, 0, _HASH | _MIN_SVN)), "not the number of a security version alone"),
    "with an attribute more": (_with(floor(37, 0, {"ns3:maxSvn": "9"} | _MIN_SVN)), "security version alone"),
    "with a number of no namespace": (_with(floor(37, 0, {}, minSvn="5")), "not the number of a security version"),
    "with a number of another namespace": (_with(floor(37, 0, {"ns0:minSvn": "5"})), "not the number of a security"),
    **{
        f"with {text!r} for a number": (_with(floor(37, text)), "not the number of a security version")
        for text in ("5x", "", "-1", "+5", "0x5", " 5", "5.0", "5_0", "\u0665", "9" * 21)
    },
    "without a name": (_with(floor(37, 5, name="")), "name is missing or not a word"),
    "with a name of two words": (_with(floor(37, 5, name="FSP SVN")), "name is missing or not a word"),
    "with an endless name": (_with(floor(37, 5, name="F" * 129)), "name is missing or not a word"),
    "perhaps active": (_with(floor(37, 5, active="true")), "neither active nor inactive"),
    "of a type twice": (_with(floor(37, 5), floor(37, 5, name="OTHER")), "measurement 4133 twice"),
    "of a type active and inactive": (_with(floor(37, 5), floor(37, 5, active="False")), "measurement 4133 twice"),
    "of a name twice": (_with(floor(37, 5), floor(38, 5, name="FIELD_37_MIN_SVN")), "two floors of one name"),
    "of no type": (_with(floor(65536, 5)), "measurement 69632: reports end at 253, floors at 69631"),
    "of a very long number": (_with(floor(100_000, 5)), "index is not a number"),
    "in place of measurements": (_with(floor(37, 5), golden={}), "no active measurement"),
    "on a measurement": (
        sign(
            swid(golden={9: [C]}, floors=[resource(8, [A]).replace("></ns0:R", ' ns3:minSvn="5"></ns0:R')]),
        ),
        "not as many as it says",
    ),
    "at the number of a measurement": (_with(floor(10 - 4096, 5)), "not as many as it says"),
    "as an element of another kind": (_with(floor(37, 5, type="OpaqueData")), "unknown kind"),
}


@pytest.mark.parametrize(("data", "reason"), FLOORS.values(), ids=FLOORS.keys())
def test_a_floor_that_has_no_one_meaning_is_refused(data: bytes, reason: str) -> None:
    _refused(data, reason)


def test_a_floor_changed_after_signing_is_refused() -> None:
    text = _with(floor(37, 5)).decode()
    for changed in (text.replace('minSvn="5"', 'minSvn="4"'), text.replace(floor(37, 5), "")):
        assert changed != text
        _refused(changed, "not what was signed")


# --- who signed it


_ROLES = ("signer", "level3", "family", "root")


def _authority(**changes: Mapping[str, Any]) -> RimAuthority:
    """An authority below the usual root, with other properties of the certificates named."""
    root = _issue("root", None, changes) if "root" in changes else AUTHORITY.root
    family = _issue("family", root, changes)
    level3 = _issue("level3", family, changes)
    return RimAuthority(root, family, level3, _issue("signer", level3, changes))


def _issue(role: str, issuer: Party | None, changes: Mapping[str, Mapping[str, Any]]) -> Party:
    return issue(role, issuer, **{"ca": role != "signer", **changes.get(role, {})})


_SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
AUTHORITIES: Mapping[str, tuple[Mapping[str, Mapping[str, Any]], str]] = {
    **{
        f"an expired {role}": ({role: {"end": NOW - timedelta(seconds=1)}}, "expired at 2026-06-01 11:59:59 UTC")
        for role in _ROLES[:3]
    },
    **{
        f"a {role} of tomorrow": ({role: {"start": NOW + timedelta(days=1)}}, "not valid before") for role in _ROLES[:3]
    },
    **{f"a {role} on P-256": ({role: {"curve": ec.SECP256R1()}}, "not of P-384") for role in _ROLES[:3]},
    **{f"a {role} with SHA-256": ({role: {"digest": SHA256()}}, "ECDSA with SHA-384") for role in _ROLES[:3]},
    "a signer that issues": ({"signer": {"ca": True}}, "not a certificate for signing documents"),
    "a signer that may not sign": ({"signer": {"uses": ()}}, "not a certificate for signing documents"),
    "an issuer by its usage alone": ({"level3": {"ca": False, "uses": (ISSUES,)}}, "may not issue"),
    "an issuer by its constraints alone": ({"level3": {"uses": (SIGNS,)}}, "may not issue"),
    "a chain too long for an issuer": ({"family": {"path_length": 0}}, "longer than an issuer in it allows"),
    "a critical extension": ({"signer": {"extensions": [(_SERVER, True)]}}, "critical extension"),
}


@pytest.mark.parametrize(("changes", "reason"), AUTHORITIES.values(), ids=AUTHORITIES.keys())
def test_a_chain_that_vouches_for_nothing_is_refused(changes: Mapping[str, Mapping[str, Any]], reason: str) -> None:
    _refused(sign(DOCUMENT, _authority(**changes)), reason)


def test_a_chain_below_the_same_root_is_accepted() -> None:
    manifest = _read(sign(DOCUMENT, _authority(level3={"path_length": 0}, signer={"extensions": [(_SERVER, False)]})))
    assert manifest.measurements == EXPECTED


@pytest.mark.parametrize("role", _ROLES[:3])
def test_a_manifest_is_valid_until_the_first_of_its_certificates_expires(role: str) -> None:
    authority = _authority(**{role: {"end": NOW + timedelta(days=1)}})
    data = sign(DOCUMENT, authority)
    assert _read(data).valid_until == NOW + timedelta(days=1)
    assert _read(data, NOW + timedelta(days=1)).valid_until == NOW + timedelta(days=1)
    _refused(data, "expired", NOW + timedelta(days=1, seconds=1))


SIGNER, LEVEL3, FAMILY, ROOT = AUTHORITY.parties
_STRANGER = rim_authority()

CHAINS: Mapping[str, tuple[tuple[Party, ...], str]] = {
    "no certificate": ((), "pinned root"),
    "no root": ((SIGNER, LEVEL3, FAMILY), "pinned root"),
    "the root alone": ((ROOT,), "has 1 certificates"),
    "no level 3": ((SIGNER, FAMILY, ROOT), "has 3 certificates"),
    "a certificate more": ((SIGNER, LEVEL3, FAMILY, ROOT, ROOT), "has 5 certificates"),
    "another order": ((SIGNER, FAMILY, LEVEL3, ROOT), "longer than an issuer"),
    "the root first": ((ROOT, FAMILY, LEVEL3, SIGNER), "pinned root"),
    "another root": ((SIGNER, LEVEL3, FAMILY, _STRANGER.root), "pinned root"),
    "another's family": ((SIGNER, LEVEL3, _STRANGER.family, ROOT), "not issued by the next"),
    "another's signer": ((_STRANGER.signer, LEVEL3, FAMILY, ROOT), "not issued by the next"),
    "another's chain with the pinned root": ((*_STRANGER.parties[:3], ROOT), "not issued by the next"),
}


@pytest.mark.parametrize(("chain", "reason"), CHAINS.values(), ids=CHAINS.keys())
def test_certificates_that_are_no_chain_to_the_pinned_root_are_refused(chain: tuple[Party, ...], reason: str) -> None:
    _refused(sign(DOCUMENT, chain=chain), reason)


def test_a_whole_authority_that_is_not_pinned_is_refused() -> None:
    _refused(sign(DOCUMENT, _STRANGER), "pinned root")


def test_a_certificate_that_is_none_is_refused() -> None:
    encoded = base64.encodebytes(SIGNER.der).decode()
    _refused(TEXT.replace(encoded, base64.b64encode(b"certificate").decode()), "cannot be used")
    _refused(TEXT.replace(encoded, ""), "cannot be used")
    _refused(TEXT.replace(encoded, "certificate!"), "not base64")


# --- what exactly was signed


INFOS: Mapping[str, tuple[SignedInfo, str]] = {
    "Canonical XML 1.0": (SignedInfo(canonicalization=rim.CANONICAL.replace("12/xml-c14n11", "x")), "Canonicalization"),
    "SHA-1": (SignedInfo(signature_method=f"{DSIG}rsa-sha1"), "<SignatureMethod"),
    "HMAC": (SignedInfo(signature_method=f"{DSIG}hmac-sha1"), "<SignatureMethod"),
    "a digest by SHA-1": (SignedInfo(digest_method=f"{DSIG}sha1"), "<DigestMethod"),
    "a Reference to an element": (SignedInfo(uri=' URI="#payload"'), '<Reference URI="">'),
    "a Reference elsewhere": (SignedInfo(uri=' URI="file:///etc/passwd"'), '<Reference URI="">'),
    "a Reference to whatever": (SignedInfo(uri=""), '<Reference URI="">'),
    "a Reference with an Id": (SignedInfo(uri=' Id="a" URI=""'), '<Reference URI="">'),
    "two References": (SignedInfo(references=2), "more than its one Reference"),
    "no Reference": (SignedInfo(references=0), "<Reference"),
    "no transforms": (SignedInfo(transforms=()), "<Transform"),
    "no canonical form": (SignedInfo(transforms=(rim.ENVELOPED,)), "<Transform"),
    "not enveloped": (SignedInfo(transforms=(rim.CANONICAL,)), "<Transform"),
    "transforms in another order": (SignedInfo(transforms=(rim.CANONICAL, rim.ENVELOPED)), "<Transform"),
    "a transform more": (SignedInfo(transforms=(rim.ENVELOPED, rim.CANONICAL, rim.CANONICAL)), "<DigestMethod"),
    "XPath": (SignedInfo(transforms=("http://www.w3.org/TR/1999/REC-xpath-19991116", rim.CANONICAL)), "<Transform"),
    "XSLT": (SignedInfo(transforms=(rim.ENVELOPED, "http://www.w3.org/TR/1999/REC-xslt-19991116")), "<Transform"),
}


@pytest.mark.parametrize(("info", "reason"), INFOS.values(), ids=INFOS.keys())
def test_a_good_signature_of_another_form_is_refused(info: SignedInfo, reason: str) -> None:
    _refused(sign(DOCUMENT, info=info), reason)


def test_a_digest_of_something_else_is_refused() -> None:
    _refused(sign(DOCUMENT, digest=sha384(b"something else").digest()), "not what was signed")
    _refused(sign(DOCUMENT, digest=sha384(DOCUMENT.encode()).digest()[:-1]), "not what was signed")


def test_a_value_changed_after_signing_is_refused() -> None:
    for changed in (
        TEXT.replace("a1a1", "a1a2", 1),
        TEXT.replace("545.00", "545.01"),
        TEXT.replace('active="False"', 'active="True"'),
        TEXT.replace(resource(8, [A]), ""),
        TEXT.replace(resource(8, [A]), resource(8, [A]) + resource(9, [C])),
        TEXT.replace("GH100", "GB100"),
    ):
        assert changed != TEXT
        _refused(changed, "not what was signed")


def test_a_signature_by_another_key_is_refused() -> None:
    authority = RimAuthority(ROOT, FAMILY, LEVEL3, Party(SIGNER.certificate, _STRANGER.signer.key))
    _refused(sign(DOCUMENT, authority), "does not verify with its signer's key")


def test_a_signature_value_of_another_length_is_refused() -> None:
    value = re.findall("<ds:SignatureValue>(.*)</ds:SignatureValue>", TEXT)[0]
    for changed in (value[4:], value + "AAAA", ""):
        _refused(TEXT.replace(value, changed), "bytes, not 96")
    _refused(TEXT.replace(value, base64.b64encode(bytes(96)).decode()), "does not verify")


# --- signature wrapping: the signed part is there, and something else is to be read


FORGED = swid(version="545.00", golden={8: [C]})
EMPTY = FORGED.replace("</SoftwareIdentity>", "")


WRAPPED: Mapping[str, tuple[str, str]] = {
    "a second document": (TEXT + FORGED, "not well-formed"),
    "a second document first": (FORGED + TEXT, "not well-formed"),
    "the signed one inside": (f"{EMPTY}{TEXT}</SoftwareIdentity>", "right below its root"),
    "the forged one inside": (TEXT.replace("<ds:Signature ", f"{FORGED}<ds:Signature "), "not what was signed"),
    "the signed one inside the signature": (
        TEXT.replace("</ds:Signature>", f"<ds:Object>{DOCUMENT}</ds:Object></ds:Signature>"),
        "alone",
    ),
    "the signature on a forged document": (f"{EMPTY}{SIGNATURE}</SoftwareIdentity>", "not what was signed"),
    "the signature moved": (
        TEXT.replace(SIGNATURE, "").replace("</ns0:Payload>", f"{SIGNATURE}</ns0:Payload>"),
        "right below its root",
    ),
    "the signature as the root": (SIGNATURE, "right below its root"),
    "no signature": (DOCUMENT, "exactly one signature"),
    "two signatures": (TEXT.replace(SIGNATURE, SIGNATURE * 2), "exactly one signature"),
    "a signature inside a value": (TEXT.replace("</ns0:Meta>", f"{SIGNATURE}</ns0:Meta>"), "exactly one signature"),
    "two Metas, one signed": (
        TEXT.replace("    <ns0:Meta ", '    <ns0:Meta colloquialVersion="1"></ns0:Meta><ns0:Meta '),
        "not what was signed",
    ),
    "a Payload in another namespace": (
        TEXT.replace("<ns0:Payload ", '<ns0:Payload xmlns:ns0="urn:x" '),
        "not well-formed|not what was signed",
    ),
    "a prefix for something else": (TEXT.replace(f'xmlns:ns2="{rim.HASHES}"', 'xmlns:ns2="urn:x"'), "does not verify"),
    "a namespace more": (TEXT.replace("<ns0:Payload ", '<ns0:Payload xmlns:x="urn:x" '), "not what was signed"),
    "a relative namespace": (TEXT.replace("<ns0:Payload ", '<ns0:Payload xmlns:x="x" '), "canonicalised"),
    "two SignedInfos": (re.sub("(<ds:SignedInfo>.*</ds:SignedInfo>)", r"\1\1", TEXT), "alone"),
    "two KeyInfos": (re.sub("(?s)(<ds:KeyInfo>.*</ds:KeyInfo>)", r"\1\1", TEXT), "alone"),
    "no KeyInfo": (re.sub("(?s)<ds:KeyInfo>.*</ds:KeyInfo>", "", TEXT), "alone"),
    "a bare key": (TEXT.replace("<ds:X509Data>", "<ds:KeyValue></ds:KeyValue><ds:X509Data>"), "alone"),
    "a signature with an Id": (TEXT.replace("<ds:Signature ", '<ds:Signature Id="a" '), "alone"),
    "elements in the value": (TEXT.replace("<ds:SignatureValue>", "<ds:SignatureValue><x></x>"), "base64 should stand"),
}


@pytest.mark.parametrize(("data", "reason"), WRAPPED.values(), ids=WRAPPED.keys())
def test_something_beside_what_was_signed_is_refused(data: str, reason: str) -> None:
    _refused(data, reason)


# --- what XML has and manifests have not


_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))

XML: Mapping[str, str] = {
    "an entity": f'<!DOCTYPE x [<!ENTITY v "a1">]>{TEXT.replace("a1", "&v;", 1)}',
    "an external entity": f'<!DOCTYPE x [<!ENTITY v SYSTEM "file:///etc/passwd">]>{TEXT.replace("a1", "&v;", 1)}',
    "an external DTD": f'<!DOCTYPE SoftwareIdentity SYSTEM "http://127.0.0.1/x.dtd">{TEXT}',
    "a public DTD": f'<!DOCTYPE SoftwareIdentity PUBLIC "-//x//x" "http://127.0.0.1/x.dtd">{TEXT}',
    "default attributes": f'<!DOCTYPE x [<!ATTLIST x active CDATA "True">]>{TEXT}',
    "a billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "ha">{_LAUGHS}]>{TEXT.replace("<ns0:Entity ", "&l8;<ns0:Entity ")}',
    "a comment in a value": TEXT.replace("<ds:DigestValue>", "<ds:DigestValue><!-- -->"),
    "a comment": TEXT.replace("<ns0:Entity ", "<!-- --><ns0:Entity "),
    "a comment after the end": f"{TEXT}<!-- -->",
    "CDATA": TEXT.replace("<ns0:Entity ", "<![CDATA[x]]><ns0:Entity "),
    "a processing instruction": TEXT.replace("<ns0:Entity ", "<?x y?><ns0:Entity "),
    "a stylesheet": f'<?xml-stylesheet href="x"?>{TEXT}',
    "a declaration of another encoding": f'<?xml version="1.0" encoding="UTF-16"?>{TEXT}',
    "XML 1.1": f'<?xml version="1.1"?>{TEXT}',
    "a declaration after a space": f' <?xml version="1.0"?>{TEXT}',
}


@pytest.mark.parametrize("data", XML.values(), ids=XML.keys())
def test_dtds_entities_comments_and_instructions_are_refused(data: str) -> None:
    _refused(data, "which RIMs do not")


BYTES: Mapping[str, bytes] = {
    "nothing": b"",
    "no XML": b"manifest",
    "an undefined entity": GOOD.replace(b"a1", b"&v;", 1),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-16 that hides a DTD": f'<?xml version="1.0"?><!DOCTYPE x []>{TEXT}'.encode("utf-16-le"),
    "UTF-32 that hides a DTD": f'<?xml version="1.0"?><!DOCTYPE x []>{TEXT}'.encode("utf-32"),
    "EBCDIC that hides a DTD": f'<?xml version="1.0" encoding="cp037"?><!DOCTYPE x []>{TEXT}'.encode("cp037"),
    "Latin-1": TEXT.replace("NVIDIA Corp", "NVIDI\xc4 Corp").encode("latin-1"),
    "a NUL": GOOD + b"\0",
    "an open element": GOOD.replace(b"</ns0:Payload>", b""),
    "an attribute twice": GOOD.replace(b' index="7"', b' index="7" index="8"'),
    "an undeclared prefix": GOOD.replace(b"<ns0:Entity ", b"<nsx:Entity "),
    "deep nesting": b"<a>" * 1000 + b"</a>" * 1000,
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES.keys())
def test_what_is_not_xml_in_utf_8_is_refused(data: bytes) -> None:
    _refused(data, "not well-formed XML in UTF-8")


def test_a_manifest_that_is_too_long_is_refused() -> None:
    _refused(GOOD + b" " * (rim.MAX_RIM_BYTES - len(GOOD) + 1), "longer than 65536 bytes")
    assert _read(GOOD + b" " * (rim.MAX_RIM_BYTES - len(GOOD))) == _read(GOOD)


def test_work_is_bounded_where_canonicalising_is_quadratic() -> None:
    namespaces = "".join(f' xmlns:n{n}="urn:x"' for n in range(rim.MAX_NAMESPACES))
    _refused(TEXT.replace("<ns0:Payload ", f"<ns0:Payload{namespaces} "), "more than 32 namespaces")
    attributes = "".join(f' a{n}=""' for n in range(6000))
    started = time.process_time()
    _refused(TEXT.replace("<ns0:Payload ", f"<ns0:Payload{attributes} "), "not what was signed")
    assert time.process_time() - started < 5


# --- what canonical form lets vary


SAME: Mapping[str, str] = {
    "a declaration": f'<?xml version="1.0" encoding="UTF-8"?>{TEXT}',
    "a bare declaration": f'<?xml version="1.0"?>{TEXT}',
    "space after the end": f"{TEXT} \r\n\t ",
    "space before an attribute": TEXT.replace(" index=", "\n\t index = "),
    "other quotes": TEXT.replace('active="True"', "active='True'"),
    "attributes in another order": TEXT.replace('active="True" alternatives="1"', 'alternatives="1" active="True"'),
    "an empty element made short": TEXT.replace("></ns0:Entity>", "/>"),
    "a character by number": TEXT.replace("GH100", "&#71;H100"),
    "line ends of another system": TEXT.replace("\n    <", "\r\n    <"),
    "a namespace declared again": TEXT.replace("<ns0:Payload ", f'<ns0:Payload xmlns:ns0="{SWID}" '),
    "space between certificates": TEXT.replace("</ds:X509Certificate><", "</ds:X509Certificate>\n  <"),
    "space around the signature value": re.sub("(<ds:SignatureValue>)(.{10})", r"\1\n\2 ", TEXT),
}


@pytest.mark.parametrize("data", SAME.values(), ids=SAME.keys())
def test_what_canonical_form_does_not_tell_apart_is_read_the_same(data: str) -> None:
    assert data != TEXT
    assert _read(data) == _read(TEXT)


def test_a_signature_in_the_middle_is_cut_out_with_its_text_around_it() -> None:
    """The enveloped-signature transform removes the element, and not the text after it."""
    between = DOCUMENT.replace("    <ns0:Payload ", "\n\n    <ns0:Payload ")
    end = between.index("\n    <ns0:Payload ")
    moved = between[:end] + _signature_of(between) + between[end:]
    assert _read(moved).measurements == EXPECTED
    first = DOCUMENT.replace(">\n    <ns0:Entity", f">{_signature_of(DOCUMENT)}\n    <ns0:Entity", 1)
    assert _read(first).measurements == EXPECTED


def _signature_of(document: str) -> str:
    text = sign(document).decode()
    return text[text.index("<ds:Signature ") : text.index("</ds:Signature>")] + "</ds:Signature>"


# --- damage


def _unused_bits(party: Party) -> range:
    """Where the base64 of a certificate says how many bits of its signature's last byte are unused.

    The certificates are not part of what is signed, only themselves signed, and in them this byte is all that nobody
    signs and the library ignores.
    """
    place = (len(party.der) - len(party.certificate.signature) - 1) * 4 // 3
    start = TEXT.index(base64.encodebytes(party.der).decode()) + place + place // 76
    return range(start, start + 3)


@FLIPPED
def test_every_flipped_bit_is_refused() -> None:
    """A sample of document and signature, at a stride that meets every bit of a byte.

    White space between attributes could become other white space only by two flips.
    """
    ignored = {place for party in AUTHORITY.parties for place in _unused_bits(party)}
    for bit in range(3, 8 * len(GOOD), 83):
        flipped = bytearray(GOOD)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 not in ignored:
            with pytest.raises(EvidenceError):
                _read(bytes(flipped))


def test_every_truncation_is_refused() -> None:
    whole = len(GOOD.rstrip())
    assert _read(GOOD[:whole]) == _read(GOOD)
    for length in range(whole):
        with pytest.raises(EvidenceError, match="not well-formed"):
            _read(GOOD[:length])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(EvidenceError):
        _read(data)


_PARTS = re.findall(r"<[^>]*>|[^<]+", TEXT)


@FLIPPED
@given(st.data())
def test_a_manifest_with_its_parts_exchanged_is_read_the_same_or_refused(data: st.DataObject) -> None:
    parts = list(_PARTS)
    places = st.integers(0, len(parts) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        action, one, other = data.draw(st.tuples(st.sampled_from(["swap", "copy", "drop"]), places, places))
        if action == "swap":
            parts[one], parts[other] = parts[other], parts[one]
        elif action == "copy":
            parts[one] += parts[other]
        else:
            parts[one] = ""
    with suppress(EvidenceError):
        assert _read("".join(parts)).measurements == EXPECTED


@FLIPPED
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=0, max_size=4))
def test_a_manifest_with_other_bytes_put_in_is_read_the_same_or_refused(place: int, put: bytes) -> None:
    with suppress(EvidenceError):
        assert _read(GOOD[:place] + put + GOOD[place + len(put) :]).measurements == EXPECTED


def test_a_reason_never_holds_what_it_should_not() -> None:
    with pytest.raises(EvidenceError) as refusal:
        _read(sign(swid(version="\u202e" * 2000, golden=GOLDEN)))
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200


def test_the_raw_signature_of_the_forge_is_that_of_xml_signatures() -> None:
    assert len(raw_signature(SIGNER.key, b"")) == 96
