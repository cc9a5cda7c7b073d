"""A version goes up and never down, for each signer, whoever else writes and whatever is in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import PolicyError
from attestation.release.rollback import MARKS_FILE, MAX_MARKS_BYTES, Mark, accept_newer, refuse_older
from core.errors import StateError

ANN, BEN = "aa" * 32, "bb" * 32
ONE, TWO, THREE = (Mark(version, f"{version:02}" * 32) for version in (1, 2, 3))
OTHER_TWO = Mark(2, "ff" * 32)


def _accept(directory: Path, mark: Mark, by: str = ANN, pinned: tuple[str, ...] = (ANN,)) -> None:
    accept_newer(directory, mark, by=(by,), pinned=pinned)


def _marks(directory: Path) -> dict[str, int]:
    return {
        signer: mark["version"] for signer, mark in json.loads((directory / MARKS_FILE).read_bytes())["marks"].items()
    }


def test_a_version_is_remembered_and_an_older_one_refused(tmp_path: Path) -> None:
    _accept(tmp_path, TWO)
    assert _marks(tmp_path) == {ANN: 2}
    fault = "version 1; version 2 was accepted here before"
    with pytest.raises(PolicyError, match=fault):
        _accept(tmp_path, ONE)
    with pytest.raises(PolicyError, match=fault):
        refuse_older(tmp_path, ONE, pinned=(ANN,))
    assert _marks(tmp_path) == {ANN: 2}


def test_the_same_version_is_accepted_again_and_a_newer_one_too(tmp_path: Path) -> None:
    for mark in (ONE, ONE, THREE):
        _accept(tmp_path, mark)
    assert _marks(tmp_path) == {ANN: 3}


def test_the_same_version_with_other_content_is_refused(tmp_path: Path) -> None:
    _accept(tmp_path, TWO)
    with pytest.raises(PolicyError, match="with other content"):
        _accept(tmp_path, OTHER_TWO)


def test_looking_remembers_nothing(tmp_path: Path) -> None:
    refuse_older(tmp_path / "none", TWO, pinned=(ANN,))
    assert list(tmp_path.iterdir()) == []


def test_one_signers_old_version_does_not_pass_for_anothers_new_one(tmp_path: Path) -> None:
    _accept(tmp_path, ONE, by=ANN, pinned=(ANN, BEN))
    _accept(tmp_path, THREE, by=BEN, pinned=(ANN, BEN))
    with pytest.raises(PolicyError, match="version 3 was accepted"):
        _accept(tmp_path, TWO, by=ANN, pinned=(ANN, BEN))


def test_a_signer_who_is_no_longer_pinned_does_not_hold_the_others_up(tmp_path: Path) -> None:
    _accept(tmp_path, ONE, by=ANN, pinned=(ANN, BEN))
    _accept(tmp_path, THREE, by=BEN, pinned=(ANN, BEN))
    _accept(tmp_path, TWO, by=ANN, pinned=(ANN,))
    assert _marks(tmp_path) == {ANN: 2, BEN: 3}


def test_signers_who_vouch_together_are_marked_together(tmp_path: Path) -> None:
    accept_newer(tmp_path, TWO, by=(ANN, BEN), pinned=(ANN, BEN))
    assert _marks(tmp_path) == {ANN: 2, BEN: 2}


_FAULTY = {
    "nothing": b"",
    "cut": b'{"version":1,"marks":{"' + b"aa" * 32,
    "another version": b'{"version":2,"marks":{}}',
    "an unknown member": b'{"version":1,"marks":{},"more":1}',
    "a signer that is none": b'{"version":1,"marks":{"ann":{"version":1,"policy_sha256":"' + b"aa" * 32 + b'"}}}',
    "a version of nothing": b'{"version":1,"marks":{"'
    + b"aa" * 32
    + b'":{"version":0,"policy_sha256":"'
    + b"aa" * 32
    + b'"}}}',
    "too long": b'{"version":1,"marks":{}}' + b" " * MAX_MARKS_BYTES,
}


@pytest.mark.parametrize("data", _FAULTY.values(), ids=_FAULTY.keys())
def test_marks_that_cannot_be_read_refuse_every_version(data: bytes, tmp_path: Path) -> None:
    (tmp_path / MARKS_FILE).write_bytes(data)
    with pytest.raises(PolicyError, match=MARKS_FILE):
        _accept(tmp_path, THREE)
    with pytest.raises(PolicyError, match=MARKS_FILE):
        refuse_older(tmp_path, THREE, pinned=(ANN,))
    assert (tmp_path / MARKS_FILE).read_bytes() == data


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="File exists"):
        _accept(tmp_path / "file", ONE)
    with pytest.raises(StateError, match="Not a directory"):
        refuse_older(tmp_path / "file", ONE, pinned=(ANN,))


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from((ANN, BEN))), max_size=8))
def test_whatever_is_offered_the_accepted_versions_never_fall(
    tmp_path_factory: pytest.TempPathFactory, offers: list[tuple[int, str]]
) -> None:
    directory = tmp_path_factory.mktemp("state")
    highest = 0
    for version, signer in offers:
        try:
            _accept(directory, Mark(version, f"{version:064}"), by=signer, pinned=(ANN, BEN))
        except PolicyError:
            assert version < highest
        else:
            assert version >= highest
            highest = version
