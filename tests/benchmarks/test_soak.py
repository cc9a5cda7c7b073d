"""A short soak through the shipped programs; and what it judges by would notice what it promises not to be there."""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import pytest

from benchmarks.soak.__main__ import soaked
from benchmarks.soak.asking import Asked, Kind, Outcome
from benchmarks.soak.fleet import Life, Record
from benchmarks.soak.hop import Search, Unmasking, forms
from benchmarks.soak.report import Report, Wire, reported, table

PHRASE = b"interview-7731zephyr"
WIRE = Wire(searched_bytes=1, sought=1, found={}, control_found=1)


@pytest.mark.slow
async def test_engines_die_and_apps_get_right_answers() -> None:
    report = await soaked(seconds=20.0, every_s=6.0, engines=3)
    assert not report.faults, "\n".join(table(report))


# --- what is read along


def searched(*pieces: bytes) -> bool:
    search = Search({"phrase": PHRASE})
    read = search.reader()
    for piece in pieces:
        read(piece)
    return bool(search.found)


def test_a_phrase_is_found_across_two_reads() -> None:
    assert searched(b"x" * 100 + PHRASE[:7], PHRASE[7:] + b"x" * 100)
    assert not searched(b"x" * 100 + PHRASE[:7], PHRASE[8:] + b"x" * 100)


@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
def test_a_phrase_is_found_in_base64_wherever_it_begins(before: bytes) -> None:
    assert searched(base64.b64encode(before + PHRASE + b" and more"))


def test_a_phrase_is_found_in_hexadecimal_and_in_utf_16() -> None:
    assert searched(PHRASE.hex().encode())
    assert searched(PHRASE.decode().encode("utf-16-le"))
    assert all(len(form) >= len(PHRASE) for form in forms(PHRASE))


def masked(payload: bytes) -> bytes:
    key = os.urandom(4)
    body = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + len(payload).to_bytes(2, "big")
    return b"\x82" + size + key + body


@pytest.mark.parametrize("length", [0, 40, 70_000 // 256])
def test_what_a_client_says_over_a_websocket_is_unmasked(length: int) -> None:
    search = Search({"phrase": PHRASE})
    feed = Unmasking(search.reader()).feed
    sent = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n" + masked(b"first") + masked(PHRASE + bytes(length))
    for place in range(0, len(sent), 9):
        feed(sent[place : place + 9])
    assert search.found["phrase"] == 1


def test_what_a_client_says_over_http_is_read_as_it_is() -> None:
    search = Search({"phrase": PHRASE})
    Unmasking(search.reader()).feed(b"POST / HTTP/1.1\r\n\r\n" + PHRASE)
    assert search.found["phrase"] == 1


# --- what counts


RECORD = Record(
    [Life(0, 0.0, 1.0, 2.0, killed_s=10.0), Life(1, 0.0, 1.0, 2.0, killed_s=30.0), Life(0, 10.0, 12.0, 13.0, 99.0)],
    kills=1,
)


@pytest.mark.parametrize(
    ("start_s", "end_s", "covered"), [(3.0, 98.0, True), (1.5, 3.0, False), (98.0, 100.0, False), (9.0, 11.0, True)]
)
def test_a_request_counts_while_some_engine_is_up_and_attested(start_s: float, end_s: float, *, covered: bool) -> None:
    assert RECORD.is_covered(start_s, end_s) is covered


def asked(kind: Kind, outcome: Outcome, start_s: float = 3.0, end_s: float = 4.0) -> Asked:
    return Asked(kind, outcome, start_s, end_s)


def judged(*further: Asked, wire: Wire = WIRE, record: Record = RECORD) -> Report:
    good = [asked(kind, Outcome.RIGHT) for kind in Kind] * 50
    return reported(
        [*good, *further], record, wire, seconds=1.0, engines=2, proxy_bytes=(1, 1), retries={"engine": 1.0}
    )


def test_where_all_is_right_nothing_is_found() -> None:
    report = judged(asked(Kind.STREAMED, Outcome.TOLD, 9.5, 10.5))
    assert (report.faults, report.success) == ([], 1.0)


@pytest.mark.parametrize(
    "report",
    [
        judged(asked(Kind.WHOLE, Outcome.WRONG)),
        judged(asked(Kind.LIVE, Outcome.HANG)),
        judged(*[asked(Kind.WHOLE, Outcome.FAILED)] * 2),
        judged(*[asked(Kind.STREAMED, Outcome.TOLD)] * 2),  # and no engine was killed
        judged(wire=replace(WIRE, found={"text": 1})),
        judged(wire=replace(WIRE, control_found=0)),
        judged(record=replace(RECORD, left_behind=1)),
        judged(record=replace(RECORD, kills=0)),
    ],
)
def test_each_promise_that_is_broken_is_told(report: Report) -> None:
    assert report.faults
    assert [line for line in table(report) if line.startswith("NOT AS PROMISED")]


def test_what_happened_while_no_engine_was_up_does_not_count() -> None:
    assert judged(*[asked(Kind.WHOLE, Outcome.FAILED, 1.5, 3.0)] * 20).success == 1.0
