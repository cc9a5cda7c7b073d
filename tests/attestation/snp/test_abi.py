"""Reports: every field is read from its place, and nothing that is not as it must be is read."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EvidenceError
from attestation.snp.abi import (
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    Product,
    SigningKey,
    Tcb,
    parse_report,
    parse_tcb,
)
from tests.attestation.snp.forge import FIELDS, ForgedAmd, write

MILAN, TURIN = ForgedAmd(Product.MILAN), ForgedAmd(Product.TURIN)
REPORT = MILAN.report()
REPORT_V5 = TURIN.report()

READ: dict[str, tuple[int | bytes, str, Any]] = {
    "policy": (
        0x3031F | 1 << 22,
        "policy",
        GuestPolicy.SMT | GuestPolicy.RESERVED_ONE | GuestPolicy.AES_256_XTS | 0x31F,
    ),
    "family_id": (b"\x01" * 16, "family_id", b"\x01" * 16),
    "image_id": (b"\x02" * 16, "image_id", b"\x02" * 16),
    "vmpl": (3, "vmpl", 3),
    "current_tcb": (bytes([5, 6, 0, 0, 0, 0, 7, 8]), "current_tcb", Tcb(5, 6, 7, 8)),
    "platform_info": (0x65, "platform_info", PlatformInfo.SMT | PlatformInfo.ECC | PlatformInfo.ALIAS_CHECK | 0x40),
    "report_data": (bytes(range(64)), "report_data", bytes(range(64))),
    "measurement": (b"\x03" * 48, "measurement", b"\x03" * 48),
    "host_data": (b"\x04" * 32, "host_data", b"\x04" * 32),
    "id_key_digest": (b"\x05" * 48, "id_key_digest", b"\x05" * 48),
    "author_key_digest": (b"\x06" * 48, "author_key_digest", b"\x06" * 48),
    "report_id_ma": (b"\x07" * 32, "report_id_ma", b"\x07" * 32),
    "reported_tcb": (bytes([1, 2, 0, 0, 0, 0, 3, 4]), "reported_tcb", Tcb(1, 2, 3, 4)),
    "cpuid": (bytes([0x19, 0xA1, 2]), "product", Product.GENOA),
    "chip_id": (b"\x08" * 64, "chip_id", b"\x08" * 64),
    "committed_tcb": (bytes([9, 8, 0, 0, 0, 0, 7, 6]), "committed_tcb", Tcb(9, 8, 7, 6)),
    "current_version": (bytes([41, 56, 2]), "current_version", FirmwareVersion(2, 56, 41)),
    "committed_version": (bytes([40, 57, 3]), "committed_version", FirmwareVersion(3, 57, 40)),
    "launch_tcb": (bytes([4, 3, 0, 0, 0, 0, 2, 1]), "launch_tcb", Tcb(4, 3, 2, 1)),
}


@pytest.mark.parametrize("name", READ)
def test_each_field_is_read_from_its_place(name: str) -> None:
    value, member, expected = READ[name]
    assert getattr(parse_report(write(REPORT, {name: value})), member) == expected
    assert getattr(parse_report(REPORT), member) != expected


def test_mitigation_vectors_are_read_from_version_5_on() -> None:
    report = parse_report(write(REPORT_V5, {"launch_mitigations": 2**63, "current_mitigations": 5}))
    assert (report.launch_mitigations, report.current_mitigations) == (2**63, 5)


def test_every_field_is_read_or_named_as_left_out() -> None:
    elsewhere = {"version", "signature_algo", "key_info", "launch_mitigations", "current_mitigations"}
    left_out = {"guest_svn", "report_id"}
    assert set(FIELDS) == set(READ) | elsewhere | left_out


def test_the_first_mutable_code_moves_the_other_patch_levels_on_turin() -> None:
    assert parse_report(write(REPORT_V5, {"reported_tcb": bytes([1, 2, 3, 4, 0, 0, 0, 5])})).reported_tcb == Tcb(
        fmc=1, bootloader=2, tee=3, snp=4, microcode=5
    )


@pytest.mark.parametrize(
    ("family", "models", "product"),
    [
        (0x19, (0x00, 0x01, 0x0F), Product.MILAN),
        (0x19, (0x10, 0x11, 0x1F, 0xA0, 0xA1, 0xAF), Product.GENOA),
        (0x1A, (0x00, 0x02, 0x11), Product.TURIN),
    ],
)
def test_the_product_is_that_of_family_and_model(family: int, models: tuple[int, ...], product: Product) -> None:
    amd = ForgedAmd(product)
    assert {parse_report(amd.report(cpuid=bytes([family, model, 0]))).product for model in models} == {product}


@pytest.mark.parametrize(
    "cpuid", [(0x17, 0x31), (0x19, 0x20), (0x19, 0x9F), (0x19, 0xB0), (0x1A, 0x12), (0x1A, 0x50), (0, 0)]
)
def test_a_processor_that_is_not_known_is_refused(cpuid: tuple[int, int]) -> None:
    with pytest.raises(EvidenceError, match="the processor"):
        parse_report(write(REPORT, {"cpuid": bytes([*cpuid, 0])}))


def test_a_report_of_version_2_does_not_name_its_product() -> None:
    report = parse_report(MILAN.report(version=2))
    assert report.product is None
    assert report.hardware_id == MILAN.chip_id


def test_turin_uses_eight_bytes_of_the_chip_id() -> None:
    assert parse_report(REPORT_V5).hardware_id == TURIN.chip_id[:8]


@pytest.mark.parametrize("length", [*range(0, 0x4A0, 7), 0x4A0 - 1, 0x4A0 + 1, 2600])
def test_a_report_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(EvidenceError, match=f"the report has {length} bytes"):
        parse_report(REPORT.ljust(length, b"\x00")[:length])


@pytest.mark.parametrize("version", [0, 1])
def test_a_report_of_a_version_before_snp_was_final_is_refused(version: int) -> None:
    with pytest.raises(EvidenceError, match="version"):
        parse_report(write(REPORT, {"version": version}))


RESERVED = {
    2: [(0x04C, 0x050), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    3: [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    4: [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    5: [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)],
}


@pytest.mark.parametrize("version", RESERVED)
def test_a_reserved_byte_that_is_not_zero_is_refused(version: int) -> None:
    report = MILAN.report(version=version)
    parse_report(report)
    for start, end in RESERVED[version]:
        for place in range(start, end):
            with pytest.raises(EvidenceError, match="reserved"):
                parse_report(report[:place] + b"\x01" + report[place + 1 :])


def test_what_a_newer_version_has_in_reserved_places_is_not_looked_at() -> None:
    newer = bytearray(write(REPORT, {"version": 6}))
    for start, end in RESERVED[5]:
        newer[start:end] = b"\xff" * (end - start)
    assert parse_report(bytes(newer)).version == 6


@pytest.mark.parametrize("place", [0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x2E8 + 71, 0x330, 0x49F])
def test_a_byte_beside_the_signature_that_is_not_zero_is_refused(place: int) -> None:
    with pytest.raises(EvidenceError, match="signature"):
        parse_report(REPORT[:place] + b"\x01" + REPORT[place + 1 :])


@pytest.mark.parametrize("algorithm", [0, 2, 2**32 - 1])
def test_another_signature_algorithm_is_refused(algorithm: int) -> None:
    with pytest.raises(EvidenceError, match="signature algorithm"):
        parse_report(write(REPORT, {"signature_algo": algorithm}))


def test_key_info_tells_who_signed_and_whether_the_chip_key_is_masked() -> None:
    reports = [parse_report(write(REPORT, {"key_info": info})) for info in range(8)]
    assert [report.signing_key for report in reports] == [SigningKey.VCEK] * 4 + [SigningKey.VLEK] * 4
    assert [report.author_key_enabled for report in reports] == [False, True] * 4
    assert [report.chip_key_masked for report in reports] == [False, False, True, True] * 2


@pytest.mark.parametrize("info", [2 << 2, 6 << 2, 7 << 2, 1 << 5, 1 << 31])
def test_a_signing_key_that_is_none_or_not_known_is_refused(info: int) -> None:
    with pytest.raises(EvidenceError, match="key_info"):
        parse_report(write(REPORT, {"key_info": info}))


@pytest.mark.parametrize("policy", [0, 0x10000, 0x20000 | 1 << 26, 0x20000 | 1 << 63])
def test_a_guest_policy_with_reserved_bits_is_refused(policy: int) -> None:
    with pytest.raises(EvidenceError, match="guest policy"):
        parse_report(write(REPORT, {"policy": policy}))


@pytest.mark.parametrize("tcb", ["current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"])
@pytest.mark.parametrize(("report", "places"), [(REPORT, (2, 3, 4, 5)), (REPORT_V5, (4, 5, 6))], ids=["milan", "turin"])
def test_a_tcb_that_counts_an_unknown_part_is_refused(tcb: str, report: bytes, places: tuple[int, ...]) -> None:
    for place in places:
        with pytest.raises(EvidenceError, match="TCB"):
            parse_report(write(report, {tcb: b"\x00" * place + b"\x01"}))


LEVEL = st.integers(0, 255)
TCBS = st.builds(Tcb, LEVEL, LEVEL, LEVEL, LEVEL, st.none() | LEVEL)


@given(TCBS)
def test_a_tcb_is_read_as_it_was_written(tcb: Tcb) -> None:
    assert parse_tcb(tcb.encode(), fmc=tcb.fmc is not None) == tcb


@given(TCBS, st.sampled_from(["bootloader", "tee", "snp", "microcode", "fmc"]))
def test_a_tcb_is_older_when_any_of_its_parts_is(tcb: Tcb, part: str) -> None:
    names = ["bootloader", "tee", "snp", "microcode", "fmc"]
    levels: dict[str, int | None] = {name: getattr(tcb, name) for name in names}
    level = levels[part]
    assert tcb.older_than(tcb) == ()
    if level is not None and level > 0:
        older = Tcb(**{**levels, part: level - 1})  # type: ignore[arg-type] # only fmc may be None, and is kept so
        assert older.older_than(tcb) == (f"{part} {level - 1} < {level}",)
        assert tcb.older_than(older) == ()


def test_tcbs_of_different_layouts_are_not_compared() -> None:
    assert Tcb(9, 9, 9, 9).older_than(Tcb(0, 0, 0, 0, 0)) == ("another layout",)
    assert Tcb(9, 9, 9, 9, 9).older_than(Tcb(0, 0, 0, 0)) == ("another layout",)


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_tcb_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(EvidenceError):
        parse_tcb(bytes(length), fmc=False)


@given(st.binary(max_size=0x4C0) | st.binary(min_size=0x4A0, max_size=0x4A0))
def test_any_bytes_are_a_report_or_refused(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        parse_report(data)


@given(st.integers(0, 0x33F), st.binary(min_size=1, max_size=16))
def test_an_overwritten_report_is_a_report_or_refused(place: int, data: bytes) -> None:
    changed = REPORT[:place] + data + REPORT[place + len(data) :]
    with contextlib.suppress(EvidenceError):
        assert parse_report(changed).signed == changed[:0x2A0]
