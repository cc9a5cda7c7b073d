"""The parts of a live session that need nothing but values: who agrees, when turns end, in which order texts go out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.realtime.agreement import Agreement
from engine.realtime.order import Order
from engine.realtime.turns import Change, Rule, TurnDetector

WORDS = st.lists(st.sampled_from(["one", "two", "three", "Two.", "four"]), max_size=8).map(" ".join)


def test_words_on_which_two_looks_agree_are_shown_but_for_the_last() -> None:
    agreement = Agreement()
    assert agreement.look(" the cat", "en", show=True) == ""
    assert agreement.look(" the cat sat", "en", show=True) == " the cat"
    assert agreement.look(" the cat sat on", "en", show=True) == " sat"
    assert agreement.rest(" the cat sat on the mat.", "en") == " on the mat."


def test_the_last_word_of_a_look_is_held_back() -> None:
    agreement = Agreement()
    agreement.look(" the ca", "en", show=True)
    assert agreement.look(" the ca", "en", show=True) == " the"


def test_case_and_punctuation_do_not_part_two_looks() -> None:
    agreement = Agreement()
    agreement.look(" Hello. There", "en", show=True)
    assert agreement.look(" hello, there my friend", "en", show=True) == " hello, there"


def test_nothing_is_shown_before_it_may_be() -> None:
    agreement = Agreement()
    agreement.look(" the cat sat", "en", show=False)
    assert agreement.look(" the cat sat", "en", show=False) == ""
    assert agreement.look(" the cat sat", "en", show=True) == " the cat"


def test_a_look_that_contradicts_what_was_shown_shows_nothing() -> None:
    agreement = Agreement()
    agreement.look(" the cat sat", "en", show=True)
    agreement.look(" the cat sat", "en", show=True)
    agreement.look(" a dog sat on the mat", "en", show=True)
    assert agreement.look(" a dog sat on the mat", "en", show=True) == ""


@given(st.lists(WORDS, min_size=1, max_size=5), WORDS)
def test_what_was_shown_is_never_taken_back(looks: list[str], final: str) -> None:
    agreement = Agreement()
    shown = "".join(agreement.look(look, "en", show=True) for look in looks)
    whole = shown + agreement.rest(final, "en")
    assert whole.startswith(shown)
    if not shown:
        assert whole == final


@given(WORDS)
def test_what_nobody_revised_is_the_text(final: str) -> None:
    agreement, words, shown = Agreement(), final.split(" "), ""
    for count in range(len(words) + 1):
        shown += agreement.look(" ".join(words[:count]), "en", show=True)
    assert shown + agreement.rest(final, "en") == final


@given(st.lists(st.integers(0, 255), max_size=300), st.integers(0, 1_000), st.integers(0, 1_000))
def test_turns_do_not_overlap_and_hold_all_that_is_loud(windows: list[int], prefix_ms: int, silence_ms: int) -> None:
    detector = TurnDetector(Rule(prefix_ms=prefix_ms, silence_ms=silence_ms))
    end, open_since = 0, None
    for window, probability in enumerate(windows):
        earliest = detector.earliest
        change = detector.hear(probability)
        if change is Change.BEGAN:
            open_since = detector.start
            assert open_since is not None
            assert max(end, earliest) <= open_since <= window - 1
        if change is Change.ENDED:
            assert open_since is not None
            open_since, end = None, window + 1
        if probability >= 128 and window and windows[window - 1] >= 128:
            assert open_since is not None
    assert (detector.start is None) == (open_since is None)


def test_a_pause_is_told_once_and_so_is_its_end() -> None:
    detector = TurnDetector(Rule())
    changes = [detector.hear(probability) for probability in [255] * 5 + [0] * 20 + [255] * 3 + [0] * 7]
    assert [change for change in changes if change] == [
        Change.BEGAN,
        Change.PAUSED,
        Change.WENT_ON,
        Change.PAUSED,
    ]


def test_a_single_loud_window_is_no_turn() -> None:
    detector = TurnDetector(Rule(silence_ms=500))
    assert not any(detector.hear(probability) for probability in [0, 255, 0, 0, 255, 0])


def test_soft_sounds_end_no_turn() -> None:
    detector = TurnDetector(Rule(silence_ms=200))
    changes = [detector.hear(probability) for probability in [255] * 2 + [100] * 50]
    assert [change for change in changes if change] == [Change.BEGAN]


@pytest.mark.behaviour(20)
def test_what_is_known_of_a_later_item_waits() -> None:
    sent: list[bytes] = []
    order = Order(sent.append)
    for item in ("a", "b", "c"):
        order.begin(item)
    order.say("b", b"b1")
    order.end("c", b"c")
    order.say("a", b"a1")
    assert sent == [b"a1"]
    order.end("a", b"a2")
    assert sent == [b"a1", b"a2", b"b1"]
    order.say("b", b"b2")
    assert not order.settled
    order.end("b")
    assert sent == [b"a1", b"a2", b"b1", b"b2", b"c"]
    assert order.settled
