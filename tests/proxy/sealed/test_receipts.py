"""What this side kept of a live session goes with no receipt but one for that session."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from attestation.errors import EvidenceError
from attestation.receipt import LiveReceipt, ReceiptKey, verify_live_receipt
from proxy.sealed.receipts import LiveWitness, Receipts

KEY = ReceiptKey()
UP = [b"hello", b"audio", b"more", b"end"]
DOWN = [b"head", b"an event", b"nothing", b"the receipt", b"the end"]


def receipt(frames_up: int = 3, frames_down: int = 3, *, code: int = 1000) -> str:
    """Signed by an engine, however little it fits."""
    digests = {
        "up_sha256": hashlib.sha256(b"".join(UP[:frames_up])).hexdigest(),
        "down_sha256": hashlib.sha256(b"".join(DOWN[:frames_down])).hexdigest(),
    }
    return KEY.sign_live(
        LiveReceipt(
            1, frames_up, digests["up_sha256"], frames_down, digests["down_sha256"], code, None, 1, 1_800_000_000
        )
    )


def witness(text: str | None) -> LiveWitness:
    """Of a session whose second message down was the last that said something."""
    seen = LiveWitness()
    for message in UP:
        seen.sent(message)
    for number, message in enumerate(DOWN):
        seen.received(message)
        if number < 2:
            seen.told()
    if text is not None:
        seen.receipted(text)
    return seen


def test_what_was_seen_up_to_where_the_receipt_says_is_kept_beside_it() -> None:
    kept = witness(receipt()).kept()
    assert kept is not None
    assert kept.frames_unheard == 1
    up, down = (kept.frames_up, kept.up_sha256), (kept.frames_down, kept.down_sha256)
    assert verify_live_receipt(kept.receipt, KEY.public_key, up=up, down=down)[0].frames_up == 3


@pytest.mark.parametrize(
    ("frames_up", "frames_down"),
    [(5, 3), (3, 1), (3, 5), (36_000, 36_000)],
    ids=["more than was said", "less than was answered", "itself", "another session"],
)
def test_a_receipt_of_more_than_was_said_or_of_less_than_was_answered_is_refused(
    frames_up: int, frames_down: int
) -> None:
    with pytest.raises(EvidenceError, match="of more than was said"):
        witness(receipt(frames_up, frames_down)).kept()


@pytest.mark.parametrize("text", ["", "no receipt", receipt()[:-300]])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(EvidenceError):
        witness(text).kept()


async def test_only_a_receipt_that_fits_is_written_down(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "receipts")
    for text in (None, receipt(5, 3), "no receipt"):
        await receipts.keep_live("mine", witness(text))
    assert not (tmp_path / "receipts").exists()
    await receipts.keep_live("mine", witness(receipt()))
    (path,) = (tmp_path / "receipts").iterdir()
    assert json.loads(path.read_bytes())["receipt"] == receipt()
