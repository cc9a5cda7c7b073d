from __future__ import annotations

import pytest

from engine.speech.echo import EchoGuard, echoes

PROMPT = "Glossary: Zephyr, Quokka. We discuss Kubernetes."


@pytest.mark.parametrize("text", [" We discuss Kubernetes.", PROMPT, "zephyr quokka", " quokka! We discuss"])
def test_a_stretch_of_the_prompt_is_an_echo(text: str) -> None:
    assert echoes(text, PROMPT)


@pytest.mark.parametrize("text", ["", " ...", " We discuss Kubernetes daily.", " Kubernetes. We discuss"])
def test_other_text_is_none(text: str) -> None:
    assert not echoes(text, PROMPT)


def test_without_a_prompt_nothing_is() -> None:
    assert not echoes(" We discuss", None)
    assert not echoes(" We discuss", "")


def test_text_is_held_back_for_as_long_as_it_may_be_an_echo() -> None:
    guard = EchoGuard(PROMPT)
    pieces = [guard.admit(piece) for piece in (" We", " discuss", " it", " daily")]
    assert pieces == ["", "", " We discuss it", " daily"]
    assert not guard.held


def test_a_whole_echo_stays_held() -> None:
    guard = EchoGuard(PROMPT)
    assert "".join(guard.admit(piece) for piece in (" We", " discuss", " Kubernetes.")) == ""
    assert guard.held == " We discuss Kubernetes."


def test_without_a_prompt_nothing_is_held() -> None:
    guard = EchoGuard(None)
    assert [guard.admit(piece) for piece in (" ", "so")] == [" ", "so"]
