"""Every field of a report is read from where it stands, and no other form is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.gpu.abi import REQUEST_BYTES, SIGNATURE_BYTES, FeatureFlag, Report, parse_gpu, parse_switch
from attestation.types import Nonce
from tests.attestation.gpu import forge

NONCE = Nonce(bytes(range(100, 132)))
SIGNATURE = bytes(range(96))
MEASURED = {1: b"\x11" * 48, 2: b"\x22" * 48}
CHIP = forge.Chip.make()
SWITCH = forge.Chip.make("LS_10")
RECORD_AT = REQUEST_BYTES + 8
OPAQUE_AT = RECORD_AT + 2 * 55 + 34


def _gpu(**fields: bytes | None) -> bytes:
    return _saying(forge.gpu_fields(**fields))


def _versioned(**fields: bytes | None) -> bytes:
    """The same GPU with a driver that writes the versioned layout."""
    return _saying(forge.nvdaod(forge.VERSIONED | forge.gpu_fields(**{"OPAQUE_VERSION": None, **fields})))


def _saying(said: forge.Said) -> bytes:
    return forge.unsigned_report(NONCE, said, MEASURED) + SIGNATURE


def _switch(**fields: bytes | None) -> bytes:
    return _saying(forge.switch_fields(SWITCH, [CHIP], **fields))


def _changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_the_report_of_a_gpu_is_read() -> None:
    data = _gpu(NVDEC0_STATUS=b"\xaa")
    report = parse_gpu(data)
    assert report.spdm.nonce == NONCE
    assert report.spdm.measurements == MEASURED
    assert report.spdm.signed == data[:-SIGNATURE_BYTES]
    assert report.spdm.signature == SIGNATURE
    assert report.driver_version == "590.12"
    assert report.vbios_version == "96.00.A5.00.01"
    assert (report.project, report.project_sku, report.chip_sku) == ("G520", "0200", "885")
    assert report.nvdec0
    assert report.fwid == forge.FWID
    assert report.feature_flag is FeatureFlag.SPT
    assert report.protected_pcie is False
    assert report.switch_pdis == frozenset()
    assert report.fsp_ucode_svn is None


def test_the_report_of_a_gpu_in_the_versioned_layout_is_read() -> None:
    legacy, report = parse_gpu(_gpu()), parse_gpu(_versioned())
    assert report.fsp_ucode_svn == forge.FSP_UCODE_SVN
    assert replace(report, spdm=legacy.spdm, fsp_ucode_svn=None) == legacy
    assert report.spdm.signed == _versioned()[:-SIGNATURE_BYTES]


def test_the_report_of_a_switch_is_read() -> None:
    report = parse_switch(_switch())
    assert report.spdm.nonce == NONCE
    assert report.spdm.measurements == MEASURED
    assert report.vbios_version == "96.10.73.00.01"
    assert report.fwid is None
    assert report.pdi == SWITCH.pdi
    assert report.gpu_pdis == {CHIP.pdi}


def test_links_of_a_gpu_name_switches_in_reverse_and_unused_ones_none() -> None:
    pdi = bytes(range(1, 9))
    report = parse_gpu(_gpu(PDI=pdi + bytes(8) + b"\xff" * 8 + pdi))
    assert report.switch_pdis == {pdi[::-1]}


def test_the_parts_of_a_switch_report_after_its_places_are_not_taken_for_gpus() -> None:
    assert parse_switch(_switch(GPU_PDIS=b"\xff" * 64 + bytes(range(64)))).gpu_pdis == frozenset()


ABSENT = {"FWID": "fwid", "FEATURE_FLAG": "feature_flag", "PROTECTED_PCIE_STATUS": "protected_pcie"}


@pytest.mark.parametrize(("name", "attribute"), ABSENT.items(), ids=ABSENT)
def test_old_drivers_leave_fields_out(name: str, attribute: str) -> None:
    assert getattr(parse_gpu(_gpu(**{name: None})), attribute) is None


@pytest.mark.parametrize("version", [None, b"\0\0", b"\x01\0"])
def test_known_versions_of_the_opaque_data_are_read(version: bytes | None) -> None:
    assert parse_gpu(_gpu(OPAQUE_VERSION=version)).driver_version == "590.12"


def test_unknown_fields_are_passed_over() -> None:
    fields = {999: b"whatever", **forge.gpu_fields(), 12: b"counts", 35: b""}
    report = parse_gpu(_saying(fields))
    assert report.driver_version == "590.12"
    assert report.spdm.opaque.values[999] == b"whatever"
    report = parse_gpu(_saying(forge.nvdaod(fields, value_types={999: 0x9999})))
    assert report.spdm.opaque.values[999] == b"whatever"


@pytest.mark.parametrize(("value", "flag"), [(b"\0\0", "SPT"), (b"\x01\0", "MPT"), (b"\x02\0", "PPCIE")])
def test_every_mode_is_read(value: bytes, flag: str) -> None:
    assert parse_gpu(_gpu(FEATURE_FLAG=value)).feature_flag is FeatureFlag[flag]


@pytest.mark.parametrize("value", [None, b"\0\x02", b"\x63\0", b"\x01", b"\x01\0\0\0"])
def test_with_a_header_the_field_for_the_version_may_hold_anything(value: bytes | None) -> None:
    said = forge.nvdaod(forge.gpu_fields(OPAQUE_VERSION=value))
    assert parse_gpu(_saying(said)).driver_version == "590.12"


def test_a_driver_that_writes_the_versioned_layout_must_say_the_mode() -> None:
    with pytest.raises(EvidenceError, match=r"NVDAOD.* has no FEATURE_FLAG$"):
        parse_gpu(_versioned(FEATURE_FLAG=None))


FSP_UCODE_SVNS = {
    "of another value type": (0x86, b"\x05\0"),
    "of one byte": (0x87, b"\x05"),
    "of four bytes": (0x87, b"\x05\0\0\0"),
}


@pytest.mark.parametrize(("value_type", "value"), FSP_UCODE_SVNS.values(), ids=FSP_UCODE_SVNS)
def test_a_security_version_in_an_unknown_form_is_refused(value_type: int, value: bytes) -> None:
    said = forge.nvdaod(forge.gpu_fields(FSP_UCODE_SVN=value), value_types={37: value_type})
    with pytest.raises(EvidenceError, match=r"NVDAOD.* FSP_UCODE_SVN in a form that we do not know$"):
        parse_gpu(_saying(said))


def test_a_security_version_may_be_left_out_and_says_nothing_in_the_legacy_layout() -> None:
    assert parse_gpu(_saying(forge.nvdaod(forge.gpu_fields()))).fsp_ucode_svn is None
    for value in (b"\x05\0", b"", b"\x05\0\0\0"):
        assert parse_gpu(_gpu(FSP_UCODE_SVN=value)).fsp_ucode_svn is None


def test_a_switch_in_the_versioned_layout_is_refused() -> None:
    said = forge.nvdaod(forge.switch_fields(SWITCH, [CHIP]))
    with pytest.raises(EvidenceError, match=r"NVDAOD.* only GPUs are known to write"):
        parse_switch(_saying(said))


REQUIRED = ("DRIVER_VERSION", "VBIOS_VERSION", "PROJECT", "PROJECT_SKU", "CHIP_SKU", "NVDEC0_STATUS")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_field_that_every_driver_writes_must_be_there(name: str) -> None:
    with pytest.raises(EvidenceError, match=f"has no {name}"):
        parse_gpu(_gpu(**{name: None}))


def test_a_switch_must_say_its_bios() -> None:
    with pytest.raises(EvidenceError, match="has no VBIOS_VERSION"):
        parse_switch(_switch(VBIOS_VERSION=None))


UNKNOWN_FORMS = {
    "DRIVER_VERSION": (b"", b"\0", b"590\n12", b"../590", b"590.12\0x", "590.1²".encode(), b"5" * 17, b".590"),
    "VBIOS_VERSION": (b"", bytes(7), bytes(9), bytes(5) + b"\x01\0\0"),
    "PROJECT": (b"", b"G 520", b"G/520"),
    "PROJECT_SKU": (b"", b"%20"),
    "CHIP_SKU": (b"\0" * 9, b"88_5"),
    "NVDEC0_STATUS": (b"", b"\0", b"\xab", b"\xaa\xaa"),
    "PROTECTED_PCIE_STATUS": (b"", b"\x01", b"\x55\x55"),
    "FWID": (b"", bytes(47), bytes(49)),
    "PDI": (bytes(7), bytes(9)),
    "FEATURE_FLAG": (b"", b"\0", b"\x03\0", b"\0\x01", bytes(4)),
    "OPAQUE_VERSION": (b"", b"\x01", bytes(4)),
}
GPU_FORMS = [(name, value) for name, values in UNKNOWN_FORMS.items() for value in values]
SWITCH_FORMS = [
    ("VBIOS_VERSION", b"96.10.73.00"),
    ("VBIOS_VERSION", b"96.10.73.00.0g"),
    ("VBIOS_VERSION", b"96.10.73.00.0a"),
    ("VBIOS_VERSION", b"96-10-73-00-01"),
    ("PDI", bytes(7)),
    ("GPU_PDIS", bytes(64)),
    ("GPU_PDIS", bytes(129)),
    ("FWID", bytes(47)),
]


@pytest.mark.parametrize(("name", "value"), GPU_FORMS)
def test_a_known_field_of_a_gpu_in_an_unknown_form_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(EvidenceError, match=rf"legacy layout\) has {name} in a form that we do not know"):
        parse_gpu(_gpu(**{name: value}))
    if name != "OPAQUE_VERSION":
        with pytest.raises(EvidenceError, match=rf"NVDAOD\) has {name} in a form that we do not know"):
            parse_gpu(_versioned(**{name: value}))


@pytest.mark.parametrize(("name", "value"), SWITCH_FORMS)
def test_a_known_field_of_a_switch_in_an_unknown_form_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(EvidenceError, match=f"{name} in a form that we do not know"):
        parse_switch(_switch(**{name: value}))


GOOD = _gpu()
REFUSED = {
    "a request of another version": (_changed(GOOD, 0, b"\x12"), "SPDM 1.1 request"),
    "another request": (_changed(GOOD, 1, b"\xe1"), "SPDM 1.1 request"),
    "a request without a signature": (_changed(GOOD, 2, b"\0"), "SPDM 1.1 request"),
    "a request for some measurements": (_changed(GOOD, 3, b"\x01"), "SPDM 1.1 request"),
    "another slot": (_changed(GOOD, 36, b"\x01"), "certificate slot 0"),
    "a response of another version": (_changed(GOOD, 37, b"\x12"), "SPDM 1.1 measurements"),
    "another response": (_changed(GOOD, 38, b"\x7f"), "SPDM 1.1 measurements"),
    "a response of another slot": (_changed(GOOD, 40, b"\x01"), "SPDM 1.1 measurements"),
    "fewer blocks than there are": (_changed(GOOD, 41, b"\x01"), "more blocks than it says"),
    "more blocks than there are": (_changed(GOOD, 41, b"\x03"), "measurement record is cut short"),
    "a longer record than there is": (_changed(GOOD, 42, b"\xff\xff\xff"), "report is cut short"),
    "a block in another specification": (_changed(GOOD, RECORD_AT + 1, b"\x02"), "not in DMTF's form"),
    "a block counted from 0": (_changed(GOOD, RECORD_AT, b"\0"), "count from 1"),
    "a block that is there twice": (_changed(GOOD, RECORD_AT, b"\x02"), "measurement 2 is there twice"),
    "a block longer than its value": (_changed(GOOD, RECORD_AT + 5, b"\x2f"), "bytes after its value"),
    "a block shorter than its value": (_changed(GOOD, RECORD_AT + 5, b"\x31"), "measurement 1 is cut short"),
    "an empty block": (_changed(GOOD, RECORD_AT + 2, b"\0"), "measurement 1 is cut short"),
    "longer opaque data than there is": (_changed(GOOD, OPAQUE_AT - 2, b"\xff\xff"), "report is cut short"),
    "opaque data of a later version": (_gpu(OPAQUE_VERSION=b"\x02\0"), "version 2, which is later than we know"),
    "another version of the versioned layout": (_versioned().replace(b"NVDAOD\0\0\2", b"NVDAOD\0\0\3"), "version 3"),
    "nothing": (b"", "cut short"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_another_form_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        parse_gpu(data)


@pytest.mark.parametrize("extra", [b"\0", b"\n", SIGNATURE, bytes(500)], ids=len)
def test_what_follows_the_signature_is_dropped(extra: bytes) -> None:
    """Real reports of some drivers have a zero there."""
    for parse, data in PARSERS.values():
        report = parse(data + extra)
        assert report == parse(data)
        assert report.spdm.signature == SIGNATURE


PARSERS: dict[str, tuple[Callable[[bytes], Report], bytes]] = {
    "gpu": (parse_gpu, GOOD),
    "gpu, versioned": (parse_gpu, _versioned()),
    "switch": (parse_switch, _switch()),
}


@pytest.mark.parametrize(("parse", "data"), PARSERS.values(), ids=PARSERS)
def test_every_truncation_is_refused(parse: Callable[[bytes], Report], data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(EvidenceError):
            parse(data[:length])


@pytest.mark.parametrize(("parse", "data"), PARSERS.values(), ids=PARSERS)
@given(splices=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 4), st.binary(max_size=4)), max_size=4))
@settings(max_examples=150)
def test_whatever_comes_is_read_or_refused(
    parse: Callable[[bytes], Report], data: bytes, splices: list[tuple[int, int, bytes]]
) -> None:
    for at, removed, added in splices:
        data = data[:at] + added + data[at + removed :]
    try:
        report = parse(data)
    except EvidenceError as exc:
        _must_be_tellable(str(exc))
    else:
        assert data.startswith(report.spdm.signed + report.spdm.signature)


def _must_be_tellable(reason: str) -> None:
    assert len(reason) < 200
    assert reason.isprintable()


@given(st.binary(max_size=300))
def test_noise_is_refused(data: bytes) -> None:
    for parse, _ in PARSERS.values():
        with pytest.raises(EvidenceError):
            parse(data)
