"""Each piece is asked for as its vendor wants to be asked, and answers of another form are no answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attestation.collateral.source import Question, Reply, Sources
from attestation.collateral.vendors import fetch_piece, good_until
from attestation.errors import EvidenceError, FetchError
from attestation.gpu import nras, ocsp
from attestation.snp.abi import Product, SigningKey, parse_report
from attestation.snp.collateral import chain_key, crl_key, vek_key
from attestation.types import CollateralKey, CollateralKind
from tests.attestation.gpu.forge import GPU_MANIFESTS, MANIFESTS
from tests.attestation.gpu.forge_rim import AUTHORITY, jwks, nras_answer, ocsp_answer
from tests.attestation.samples import NONCE, NOW
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel

KDS = "https://kdsintf.amd.com"
PCS = "https://api.trustedservices.intel.com"
INTEL = ForgedIntel()
MEMBERS = INTEL.members()


class Vendor:
    """Answers by the beginning of the URL, and keeps the questions."""

    def __init__(self, replies: Mapping[str, Reply] | bytes) -> None:
        self._replies = replies
        self.asked: list[Question] = []

    async def ask(self, question: Question) -> Reply:
        self.asked.append(question)
        if isinstance(self._replies, bytes):
            return Reply(self._replies)
        return next(reply for url, reply in self._replies.items() if question.url.startswith(url))


async def _asked(kind: CollateralKind, name: str, answer: bytes = b"data", question: bytes | None = None) -> Question:
    """The one question for a piece whose answer is the piece itself."""
    vendor = Vendor(answer)
    assert await fetch_piece(CollateralKey(kind, name), Sources(), vendor.ask, question=question) == answer
    (asked,) = vendor.asked
    return asked


async def _refused(kind: CollateralKind, name: str, replies: Mapping[str, Reply] | bytes = b"") -> Vendor:
    vendor = Vendor(replies)
    with pytest.raises(FetchError):
        await fetch_piece(CollateralKey(kind, name), Sources(), vendor.ask)
    return vendor


_VCEKS = {
    Product.MILAN: "blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219",
    Product.GENOA: "blSPL=9&teeSPL=0&snpSPL=23&ucodeSPL=72",
    Product.TURIN: "blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81&fmcSPL=1",
}


@pytest.mark.parametrize("product", Product)
async def test_a_vcek_is_asked_for_by_chip_and_firmware(product: Product) -> None:
    amd = ForgedAmd(product)
    key = vek_key(parse_report(amd.report()))
    chip = amd.chip_id[:8] if product is Product.TURIN else amd.chip_id
    assert await _asked(key.kind, key.name) == Question(f"{KDS}/vcek/v1/{product}/{chip.hex()}?{_VCEKS[product]}")


@pytest.mark.parametrize("key", SigningKey)
async def test_chain_and_revocations_are_asked_for_by_key_and_product(key: SigningKey) -> None:
    chain, crl = chain_key(key, Product.GENOA), crl_key(key, Product.GENOA)
    assert await _asked(chain.kind, chain.name) == Question(f"{KDS}/{key}/v1/Genoa/cert_chain")
    assert await _asked(crl.kind, crl.name) == Question(f"{KDS}/{key}/v1/Genoa/crl")


async def test_a_vlek_and_a_vcek_of_an_unknown_product_are_asked_of_nobody() -> None:
    vlek = vek_key(parse_report(ForgedAmd(signing=SigningKey.VLEK).report()))
    unknown = vek_key(parse_report(ForgedAmd().report(version=2)))
    for key in (vlek, unknown):
        assert (await _refused(key.kind, key.name)).asked == []


_CHIP, _TCB = "ab" * 64, "04000000000018db"
_HOSTILE = {
    CollateralKind.SNP_VEK: [
        "",
        "vcek/Milan",
        f"vcek/Rome/{_CHIP}/{_TCB}",
        f"vcek/../{_CHIP}/{_TCB}",
        f"vcek/Milan/{_CHIP}?x=/{_TCB}",
        f"vcek/Milan/../{_TCB}",
        f"vcek/Milan/{_CHIP}/04",
        f"vcek/Milan/{_CHIP}/04000100000018db",
        f"ark/Milan/{_CHIP}/{_TCB}",
    ],
    CollateralKind.SNP_CHAIN: ["vcek", "vcek/..", "vcek/Milan?", "ark/Milan", "vcek/Milan/crl"],
    CollateralKind.SNP_CRL: ["vcek", "vcek/..", "vcek/Milan#", "ark/Milan"],
    CollateralKind.TDX: ["b0c06f000000", "../platform", "b0c0&x=/platform", "b0c06f000000/platform/x"],
    CollateralKind.GPU_RIM: ["\ud800"],
    CollateralKind.GPU_OCSP: ["xyz", "../"],
    CollateralKind.GPU_NRAS: ["gpu/00"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in _HOSTILE.items() for name in names])
async def test_a_name_of_another_form_is_asked_of_nobody(kind: CollateralKind, name: str) -> None:
    assert (await _refused(kind, name)).asked == []


async def test_a_verdict_is_asked_for_with_the_evidence() -> None:
    for kind in ("gpu", "switch"):
        asked = await _asked(CollateralKind.GPU_NRAS, f"{kind}/{NONCE.hex()}", question=b"the evidence")
        assert asked.url == f"https://nras.attestation.nvidia.com/v4/attest/{kind}"
        assert asked.body == b"the evidence"
        assert asked.headers["Content-Type"] == "application/json"
    vendor = Vendor(b"")
    with pytest.raises(FetchError):
        await fetch_piece(
            CollateralKey(CollateralKind.GPU_NRAS, "../x"), Sources(), vendor.ask, question=b"the evidence"
        )
    assert vendor.asked == []


async def test_the_keys_of_verdicts_are_those_that_nvidia_publishes() -> None:
    asked = await _asked(CollateralKind.GPU_NRAS_KEYS, "jwks", jwks())
    assert asked == Question("https://nras.attestation.nvidia.com/.well-known/jwks.json")


async def test_a_manifest_is_asked_for_by_its_id_and_taken_out_of_its_json() -> None:
    vendor = Vendor(json.dumps({"id": "x", "rim": base64.b64encode(b"<xml/>").decode(), "more": 1}).encode())
    key = CollateralKey(CollateralKind.GPU_RIM, "NV_GPU/../odd id?")
    assert await fetch_piece(key, Sources(), vendor.ask) == b"<xml/>"
    (asked,) = vendor.asked
    assert asked == Question("https://rim.attestation.nvidia.com/v1/rim/NV_GPU%2F..%2Fodd%20id%3F")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"rim":1}', b'{"rim":"%"}', b"[" * 100_000])
async def test_a_manifest_in_another_form_is_none(body: bytes) -> None:
    await _refused(CollateralKind.GPU_RIM, GPU_MANIFESTS[0], body)


async def test_a_revocation_is_asked_for_by_the_request_that_is_its_name() -> None:
    key = ocsp.key(AUTHORITY.signer.certificate, AUTHORITY.level3.certificate)
    asked = await _asked(key.kind, key.name)
    assert asked.url == "https://ocsp.ndis.nvidia.com"
    assert asked.body == ocsp.request(AUTHORITY.signer.certificate, AUTHORITY.level3.certificate)
    assert asked.headers["Content-Type"] == "application/ocsp-request"


_TCB_URL = f"{PCS}/tdx/certification/v4/tcb?fmspc=b0c06f000000"
_QE_URL = f"{PCS}/tdx/certification/v4/qe/identity"
_CRL_URL = f"{PCS}/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
_ROOT_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"


def _signed(member: str, text: str, signature: str) -> bytes:
    return f'{{"{member}":{text},"signature":"{signature}"}}'.encode()


_TCB_BODY = _signed("tcbInfo", MEMBERS["tcb_info"], MEMBERS["tcb_info_signature"])
_INTEL = {
    _TCB_URL: Reply(_TCB_BODY, {"tcb-info-issuer-chain": quote(MEMBERS["tcb_info_issuer_chain"])}),
    _QE_URL: Reply(
        _signed("enclaveIdentity", MEMBERS["qe_identity"], MEMBERS["qe_identity_signature"].upper()),
        {"sgx-enclave-identity-issuer-chain": quote(MEMBERS["qe_identity_issuer_chain"])},
    ),
    _CRL_URL: Reply(
        bytes.fromhex(MEMBERS["pck_crl"]), {"sgx-pck-crl-issuer-chain": quote(MEMBERS["pck_crl_issuer_chain"])}
    ),
    _ROOT_URL: Reply(bytes.fromhex(MEMBERS["root_ca_crl"])),
}


async def test_the_four_answers_of_intel_become_one_piece_with_every_signed_byte_as_it_was() -> None:
    vendor = Vendor(_INTEL)
    assert json.loads(await fetch_piece(INTEL.key, Sources(), vendor.ask)) == MEMBERS
    assert {question.url for question in vendor.asked} == set(_INTEL)


async def test_what_is_signed_keeps_its_odd_spelling() -> None:
    odd = '{ "b": 1.50,\n"a":"\\u00e4\u00e4" ,"c":[ ]}'
    replies = _INTEL | {_TCB_URL: Reply(b" " + _signed("tcbInfo", odd, "ab" * 64), _INTEL[_TCB_URL].headers)}
    piece = await fetch_piece(INTEL.key, Sources(), Vendor(replies).ask)
    assert json.loads(piece)["tcb_info"] == odd


_NOT_SIGNED = {
    "nothing": b"",
    "a page": b"<html>",
    "another member first": b'{"signature":"ab","tcbInfo":{}}',
    "another member": _signed("enclaveIdentity", "{}", "ab"),
    "no signature": b'{"tcbInfo":{}}',
    "a signature that is not hexadecimal": _signed("tcbInfo", "{}", "xy"),
    "a signature that is a number": b'{"tcbInfo":{},"signature":1}',
    "the member twice": b'{"tcbInfo":{},"tcbInfo":{},"signature":"ab"}',
    "a list": b'["tcbInfo"]',
    "not UTF-8": b'{"tcbInfo":"\xff","signature":"ab"}',
    "a space before the member": b'{"tcbInfo": {},"signature":"ab"}',
    "cut short": _TCB_BODY[:-1],
    "nested without end": b'{"tcbInfo":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", _NOT_SIGNED.values(), ids=_NOT_SIGNED.keys())
async def test_a_signed_member_in_another_form_is_none(body: bytes) -> None:
    await _refused(INTEL.key.kind, INTEL.key.name, _INTEL | {_TCB_URL: Reply(body, _INTEL[_TCB_URL].headers)})


@pytest.mark.parametrize("url", [_TCB_URL, _QE_URL, _CRL_URL])
async def test_without_its_issuer_chain_an_answer_of_intel_is_none(url: str) -> None:
    await _refused(INTEL.key.kind, INTEL.key.name, _INTEL | {url: Reply(_INTEL[url].body)})


async def test_every_source_is_asked_over_tls() -> None:
    sources = Sources()
    assert all(getattr(sources, name).startswith("https://") for name in Sources.__slots__)


# --- for how long a piece is good


AMD = ForgedAmd()
REPORT = AMD.report()
VEK = vek_key(parse_report(REPORT))
CHAIN, CRL = (make(SigningKey.VCEK, Product.MILAN) for make in (chain_key, crl_key))
OCSP = ocsp.key(AUTHORITY.signer.certificate, AUTHORITY.level3.certificate)
MANIFEST = next(iter(MANIFESTS))
VERDICT = nras.key("gpu", NONCE)

_GOOD = {
    VEK: (AMD.vek(REPORT), NOW + timedelta(days=2500)),
    CHAIN: (AMD.chain(), NOW + timedelta(days=7000)),
    CRL: (AMD.crl(next_update=NOW + timedelta(hours=9)), NOW + timedelta(hours=9)),
    INTEL.key: (INTEL.collateral()[INTEL.key], NOW + timedelta(days=1)),
    OCSP: (ocsp_answer(AUTHORITY.signer.certificate, AUTHORITY.level3), NOW + timedelta(hours=23)),
    MANIFEST: (MANIFESTS[MANIFEST], NOW + timedelta(days=1)),
    nras.KEYS: (jwks(), NOW + timedelta(hours=1)),
    VERDICT: (nras_answer(NONCE), NOW + timedelta(days=1)),
}


@pytest.mark.parametrize("key", _GOOD, ids=lambda key: key.kind)
def test_a_piece_is_good_until_its_next_update_or_for_a_day(key: CollateralKey) -> None:
    data, until = _GOOD[key]
    assert good_until(key, data, NOW) == until


def test_there_is_an_example_of_every_kind() -> None:
    assert {key.kind for key in _GOOD} == set(CollateralKind)


def test_the_first_date_of_several_counts() -> None:
    early, late = NOW + timedelta(hours=9), NOW + timedelta(days=9)
    members = INTEL.members() | {"root_ca_crl": INTEL.crl("root", next_update=early).hex()}
    assert good_until(INTEL.key, json.dumps(members).encode(), NOW) == early
    assert good_until(CRL, AMD.crl(next_update=late), NOW) == NOW + timedelta(days=1)
    assert good_until(CHAIN, AMD.chain(ask=AMD.ask(not_after=early)), NOW) == early
    assert good_until(CHAIN, AMD.chain(ark=AMD.ark(not_after=late)), NOW) == late


def test_a_revocation_answer_without_a_next_update_is_old_at_once() -> None:
    answer = ocsp_answer(AUTHORITY.signer.certificate, AUTHORITY.level3, this_update=NOW, next_update=None)
    assert good_until(OCSP, answer, NOW) == NOW


_READ = [key for key in _GOOD if key.kind not in (CollateralKind.GPU_RIM, CollateralKind.GPU_NRAS)]
"""The others are opaque here."""


@pytest.mark.parametrize("data", [b"", b"<html>canary</html>", b"{}", b"[]", b"0\x82", b"[" * 100_000])
@pytest.mark.parametrize("key", _READ, ids=lambda key: key.kind)
def test_what_is_no_such_piece_is_good_at_no_time(key: CollateralKey, data: bytes) -> None:
    with pytest.raises(EvidenceError):
        good_until(key, data, NOW)


def test_a_responder_that_has_no_answer_now_gives_none() -> None:
    with pytest.raises(EvidenceError):
        good_until(OCSP, bytes.fromhex("30030a0103"), NOW)  # try later


def test_a_date_beyond_the_calendar_is_told() -> None:
    with pytest.raises(EvidenceError):
        good_until(MANIFEST, b"", datetime.max.replace(tzinfo=UTC))


@given(st.sampled_from(_READ), st.data())
@example(CRL, None)
def test_a_broken_piece_raises_nothing_but_its_error(key: CollateralKey, data: st.DataObject | None) -> None:
    broken = bytearray(_GOOD[key][0])
    if data is not None:
        for place in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=4)):
            broken[place] ^= data.draw(st.integers(1, 255))
        broken = broken[: data.draw(st.integers(0, len(broken)))] if data.draw(st.booleans()) else broken
    with suppress(EvidenceError):
        assert good_until(key, bytes(broken), NOW).tzinfo is not None
