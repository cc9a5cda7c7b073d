"""Recogniser and analysers as one: what is started when, and what is confessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from core.errors import BackendError
from engine.backends.choose import Backend
from engine.backends.vllm.kept import Patience
from engine.backends.vllm.transcriber import VllmTranscriber
from engine.speech.transcriber import Component
from engine.types import Detail
from tests.engine.backends.checkpoints import Checkpoint
from tests.engine.backends.faster_whisper.test_transcriber import is_gone
from tests.engine.backends.vllm.fake_vllm import write_program
from tests.engine.fakes import FakeAnalyser, FakeTranscriber
from tests.waiting import until


def recogniser(checkpoint: Checkpoint, tmp_path: Path) -> VllmTranscriber:
    program = write_program(tmp_path / "vllm")
    return VllmTranscriber({"nano": checkpoint.weights}, program=program, patience=Patience(restart_delay_s=0))


async def test_an_analyser_starts_once_the_recogniser_serves(checkpoint: Checkpoint, tmp_path: Path) -> None:
    transcriber = recogniser(checkpoint, tmp_path)
    served: list[bool] = []

    class Watching(FakeAnalyser):
        async def start(self) -> None:
            served.append(transcriber.server("nano").alive)
            assert not backend.ready
            await super().start()

    analyser = Watching()
    backend = Backend(transcriber, (analyser,))
    async with backend.running():
        assert (served, analyser.events) == ([True], ["prepare", "start"])
        ready = [backend.ready]
        analyser.ready = False
        ready.append(backend.ready)
    assert ready == [True, False]
    assert analyser.events[-1] == "close"


@pytest.mark.parametrize("stage", ["prepare", "start"])
async def test_without_its_analyser_nothing_is_served_and_nothing_left(
    checkpoint: Checkpoint, tmp_path: Path, stage: str
) -> None:
    analyser = FakeAnalyser(fail_at=stage)
    transcriber = recogniser(checkpoint, tmp_path)
    with pytest.raises(BackendError, match=f"cannot {stage}"):
        async with Backend(transcriber, (analyser,)).running():
            pass
    assert not transcriber.ready
    assert analyser.events[-1] == "close"
    if (checkpoint.directory / "seen.json").exists():
        await until(lambda: is_gone(checkpoint.seen["pid"]))


@pytest.mark.parametrize(
    ("analysers", "components", "details"),
    [
        ((), ["fake"], set()),
        ((FakeAnalyser(adds=frozenset({Detail.WORDS})),), ["fake"], {Detail.WORDS}),
        ((FakeAnalyser(component=Component("aligner")),), ["fake", "aligner"], set(Detail)),
    ],
    ids=["none", "in the recogniser's process", "in its own"],
)
def test_every_process_that_hears_is_a_component(
    analysers: Sequence[FakeAnalyser], components: list[str], details: set[Detail]
) -> None:
    backend = Backend(FakeTranscriber(), tuple(analysers))
    assert [component.name for component in backend.components] == components
    assert backend.details == details
