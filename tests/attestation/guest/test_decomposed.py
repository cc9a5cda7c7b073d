"""A report that was taken apart member by member is put together again bit by bit, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.guest.decomposed import DECOMPOSED, compose
from attestation.snp.abi import Product, SigningKey, parse_report
from core.program import strictjson
from core.program.validation import validate
from tests.attestation.guest.fake_coco import ARRAYS, NUMBERS, TCBS, decomposed
from tests.attestation.snp.forge import FIELDS, ForgedAmd
from tests.vectors import vector

MACHINES = [ForgedAmd(product, signing) for product in Product for signing in SigningKey]
MILAN, TURIN = ForgedAmd(Product.MILAN), ForgedAmd(Product.TURIN)

REAL = {
    "v2, Milan": ("snp/gosev_milan_v2_report.bin", 0, 2),
    "v2, another": ("snp/coco_v2_report.bin", 0, 2),
    "v3, Milan": ("snp/ms_milan_report.bin", 0, 3),
    "v3, Milan, of dstack": ("snp/dstack_milan_v3_attestation.scale", 4, 3),
    "v5, Turin": ("snp/ms_turin_report.bin", 0, 5),
}
"""Real reports: where each begins in its file, and its version."""


def composed(members: Any) -> bytes:
    """Over the wire and back."""
    data = json.dumps(members).encode()
    return compose(validate(DECOMPOSED, strictjson.loads(data, max_bytes=100_000)))


@pytest.mark.parametrize(("file", "offset", "version"), REAL.values(), ids=REAL.keys())
def test_a_real_report_is_put_together_without_a_loss(file: str, offset: int, version: int) -> None:
    report = vector(file)[offset : offset + 0x4A0]
    assert parse_report(report).version == version
    assert composed(decomposed(report)) == report


@pytest.mark.parametrize("amd", MACHINES, ids=lambda amd: f"{amd.product} {amd.signing}")
def test_a_report_of_every_product_is_put_together_without_a_loss(amd: ForgedAmd) -> None:
    report = amd.report(bytes(range(64)))
    assert composed(decomposed(report)) == report


_OF_TURIN = st.fixed_dictionaries(
    {}, optional={name: st.binary(min_size=size, max_size=size) for name, (_, size) in ARRAYS.items()}
)


@given(
    _OF_TURIN,
    st.fixed_dictionaries(
        {}, optional={"guest_svn": st.integers(0, 2**32 - 1), "launch_mitigations": st.integers(0, 2**53 - 1)}
    ),
)
def test_whatever_stands_in_a_report_stands_there_again(arrays: dict[str, bytes], numbers: dict[str, int]) -> None:
    report = TURIN.report(**arrays, **numbers)
    assert composed(decomposed(report)) == report


def test_every_field_of_a_report_changes_what_is_put_together() -> None:
    whole = TURIN.report()
    of_fields = {place for offset, size in FIELDS.values() for place in range(offset, offset + size)}
    for place in of_fields - NOT_CARRIED:
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        assert composed(decomposed(changed)) == changed, hex(place)


NOT_CARRIED = {
    *range(4),  # another version is another layout
    *(offset + place for offset in TCBS.values() for place in (4, 5, 6)),  # of Turin's TCBs these count nothing
    *(offset + 7 for offset in (0x008, 0x040, 0x1F8, 0x200)),  # numbers that JSON does not carry
}


def test_a_reserved_byte_that_is_not_zero_does_not_survive_so_that_the_signature_fails() -> None:
    report = bytearray(MILAN.report())
    report[0x1A0 - 1] = 1
    assert composed(decomposed(bytes(report))) != bytes(report)


Members = dict[str, Any]
Lie = Callable[[Members], object]


def without(name: str) -> Lie:
    return lambda members: members.pop(name)


def saying(name: str, value: object) -> Lie:
    return lambda members: members.update({name: value})


def of_bytes(name: str, change: Callable[[list[int]], object]) -> Lie:
    return lambda members: change(members[name])


LIES: dict[str, tuple[Lie, str]] = {
    **{f"no {name}": (without(name), name) for name in decomposed(TURIN.report())},
    **{f"{name} with a fraction": (saying(name, 1.0), name) for name in (*NUMBERS, "cpuid_step", "launch_mit_vector")},
    **{f"{name} is a word": (saying(name, "1"), name) for name in NUMBERS},
    **{f"{name} is true": (saying(name, True), name) for name in NUMBERS},
    **{f"{name} is negative": (saying(name, -1), name) for name in NUMBERS},
    **{f"{name} of 33 bits": (saying(name, 2**32), name) for name, (_, size) in NUMBERS.items() if size == 4},
    **{f"{name} too short": (of_bytes(name, list.pop), name) for name in ARRAYS},
    **{f"{name} too long": (of_bytes(name, lambda values: values.append(0)), name) for name in ARRAYS},
    **{f"{name} of 9 bits": (of_bytes(name, lambda values: values.__setitem__(0, 256)), name) for name in ARRAYS},
    **{f"{name} is base64": (saying(name, "AAAA"), name) for name in ARRAYS},
    "a part of a TCB with a fraction": (lambda members: members["reported_tcb"].update(snp=4.0), "reported_tcb.snp"),
    "a part of a TCB of 9 bits": (lambda members: members["launch_tcb"].update(snp=256), "launch_tcb.snp"),
    "a TCB without a part": (lambda members: members["launch_tcb"].pop("tee"), "launch_tcb.tee"),
    "a TCB with a further part": (lambda members: members["current_tcb"].update(gpu=1), "current_tcb.gpu"),
    "a firmware with a fraction": (lambda members: members["current"].update(build=1.5), "current.build"),
    "half a signature": (lambda members: members["signature"].pop("s"), "signature.s"),
    "a short signature": (lambda members: members["signature"]["r"].pop(), "signature.r"),
    "a member that is not known": (lambda members: members.update(reserved=[1]), "reserved"),
}


@pytest.mark.parametrize(("lie", "place"), LIES.values(), ids=LIES.keys())
def test_a_member_that_is_not_as_it_must_be_is_refused_by_its_name(lie: Lie, place: str) -> None:
    members = decomposed(TURIN.report())
    lie(members)
    with pytest.raises(ValueError, match=rf"(^|; ){place}"):
        composed(members)


def test_a_number_that_json_does_not_carry_is_refused() -> None:
    members = decomposed(TURIN.report(launch_mitigations=2**63))
    with pytest.raises(ValueError, match=r"beyond 2\^53"):
        composed(members)
