"""Another family than Whisper behind vLLM: what it tells, what it is asked, and what is refused in its name."""

from __future__ import annotations

import asyncio
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import BackendError
from core.transcript.faults import Fault, FaultKind
from core.transcript.types import Task
from engine.backends.choose import choose_backend
from engine.backends.vllm.server import Serving
from engine.backends.vllm.text_only import LANGUAGES, MAX_PROMPT_CHARS
from engine.backends.vllm.transcriber import AttachedVllm, VllmTranscriber
from engine.backends.weights import DirectoryWeights, held
from engine.openai.fields import parse_transcription, parse_translation
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.subjects import subject_of
from engine.settings import EngineSettings
from engine.types import Clip, ClipTranscript, DecodingOptions, TextDelta
from tests.engine.backends.vllm.fake_vllm import DONE, FakeVllm, delta, event
from tests.engine.backends.vllm.real_vllm import LIMIT_S, find_vllm
from tests.engine.openai.forms import form
from tests.engine.test_settings import faults
from tests.places import ROOT

CLIP = Clip(0.0, bytes(32_000))
GERMAN = DecodingOptions("de")

CAPABLE = VllmTranscriber({}, serving=Serving(text_only=True)).capabilities
MODELS = ModelCatalogue(
    (
        ServedModel(
            "qwen",
            created=1,
            tasks=CAPABLE.tasks,
            languages=CAPABLE.languages,
            details=frozenset(),
            detects=CAPABLE.detects,
        ),
    )
)


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "vllm.sock"


@asynccontextmanager
async def attached(fake: FakeVllm, socket: Path) -> AsyncIterator[AttachedVllm]:
    async with fake.listening(socket):
        transcriber = AttachedVllm("qwen", uds=socket, text_only=True)
        try:
            await transcriber.start()
            yield transcriber
        finally:
            await transcriber.close()


def fake(**changes: Any) -> FakeVllm:
    return FakeVllm(**({"greeting": {"text": ""}, "models": ["qwen"]} | changes))


async def test_a_clip_is_one_segment_without_figures_of_whispers(socket: Path) -> None:
    vllm = fake(answer=lambda _: {"text": " Guten Tag."})
    async with attached(vllm, socket) as transcriber:
        heard = await transcriber.transcribe("qwen", CLIP, GERMAN)
    assert heard.text == " Guten Tag."
    assert [(each.start_s, each.end_s, each.text, each.tokens) for each in heard.segments] == [
        (0.0, 1.0, " Guten Tag.", ())
    ]


async def test_it_is_asked_for_text_in_a_language_and_for_no_report(socket: Path) -> None:
    vllm = fake()
    async with attached(vllm, socket) as transcriber:
        await transcriber.transcribe("qwen", CLIP, DecodingOptions("de", prompt="x" * 2000, max_tokens=9))
    (asked,) = vllm.forms
    assert {name: value for name, value in asked.items() if name != "file"} == {
        "model": "qwen",
        "language": "de",
        "temperature": "0.0",
        "response_format": "json",
        "prompt": "x" * MAX_PROMPT_CHARS,
        "max_completion_tokens": "9",
    }


async def test_a_stream_comes_token_by_token(socket: Path) -> None:
    usage = event(usage={"prompt_tokens": 400, "completion_tokens": 2, "total_tokens": 402})
    vllm = fake(events=[delta(" Guten"), delta(" Tag."), usage, DONE])
    async with attached(vllm, socket) as transcriber:
        pieces = [piece async for piece in transcriber.stream("qwen", CLIP, GERMAN)]
    assert pieces[:2] == [TextDelta(" Guten"), TextDelta(" Tag.")]
    whole = pieces[2]
    assert isinstance(whole, ClipTranscript)
    assert (whole.text, whole.output_tokens, whole.prompt_tokens) == (" Guten Tag.", 2, 0)


@pytest.mark.parametrize("greeting", [{"segments": []}, {"text": None}])
async def test_a_server_that_tells_no_text_is_refused(socket: Path, greeting: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="cannot be read"):
        async with attached(fake(greeting=greeting), socket):
            pass


async def test_no_language_is_made_up(socket: Path) -> None:
    async with attached(fake(), socket) as transcriber:
        with pytest.raises(BackendError, match="no languages"):
            await transcriber.languages("qwen", CLIP)


def test_it_transcribes_in_the_languages_that_vllm_lets_through() -> None:
    assert CAPABLE.tasks == {Task.TRANSCRIBE}
    assert CAPABLE.languages == LANGUAGES
    assert len(LANGUAGES) == 57
    assert not CAPABLE.detects


def test_its_length_is_its_own() -> None:
    assert "--max-model-len=auto" in Serving(text_only=True).flags
    assert "--max-model-len=448" in Serving().flags


@pytest.mark.parametrize(
    ("fields", "kind", "blamed"),
    [
        ((), FaultKind.MISSING, "language"),
        ((("language", "auto"),), FaultKind.MISSING, "language"),
        ((("languages[]", "de"),), FaultKind.MISSING, "language"),
        ((("language", "yue"),), FaultKind.UNSUPPORTED_VALUE, "language"),
        (
            (
                ("language", "de"),
                ("response_format", "verbose_json"),
                ("timestamp_granularities[]", "word"),
            ),
            FaultKind.UNSUPPORTED,
            "timestamp_granularities",
        ),
        ((("language", "de"), ("include[]", "logprobs")), FaultKind.UNSUPPORTED, "include"),
        ((("language", "de"), ("response_format", "diarized_json")), FaultKind.UNSUPPORTED_VALUE, "response_format"),
    ],
)
def test_what_it_lacks_is_refused_by_name(fields: tuple[tuple[str, str], ...], kind: FaultKind, blamed: str) -> None:
    with pytest.raises(Fault) as refused:
        parse_transcription(form(*fields), MODELS)
    assert (refused.value.kind, refused.value.subject) == (kind, subject_of(blamed))


def test_a_translation_is_refused_by_the_name_of_the_model() -> None:
    with pytest.raises(Fault) as refused:
        parse_translation(form(("language", "de")), MODELS)
    assert (refused.value.kind, refused.value.subject) == (FaultKind.UNSUPPORTED_VALUE, subject_of("model"))


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_what_the_shared_stages_supply_is_served(response_format: str) -> None:
    asked = parse_transcription(form(("language", "de"), ("response_format", response_format)), MODELS)
    assert asked.hearing.language == "de"


def test_the_operator_says_what_family_it_is(tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": (f"qwen={tmp_path}",), "insecure_evidence": True, "backend": "vllm"}
    backend = choose_backend(EngineSettings(**given, vllm_family="text-only", device="cpu"))
    assert backend.details == frozenset()
    assert not backend.transcriber.capabilities.detects
    assert "--max-model-len=auto" in backend.transcriber.component.arguments


def test_faster_whisper_serves_no_other_family(tmp_path: Path) -> None:
    assert "text-only needs --backend vllm" in faults(model=[f"a={tmp_path}"], vllm_family="text-only")


@pytest.mark.slow
async def test_a_real_vllm_hears_with_another_family(tmp_path: Path) -> None:
    program = find_vllm()
    maker = (str(program.with_name("python")), str(ROOT / "tests/checkpoints/text_only.py"), str(tmp_path))
    process = await asyncio.create_subprocess_exec(*maker, stdout=DEVNULL, stderr=DEVNULL)
    assert await process.wait() == 0
    weights = DirectoryWeights(tmp_path)
    serving = Serving(device="cpu", text_only=True, dtype="float32", max_num_seqs=2, max_num_batched_tokens=4096)
    transcriber = VllmTranscriber({"glm": weights}, program=program, serving=serving)
    options = replace(GERMAN, max_tokens=8)
    async with asyncio.timeout(LIMIT_S), held([weights]):
        try:
            await transcriber.start()
            whole = await transcriber.transcribe("glm", CLIP, options)
            *deltas, streamed = [piece async for piece in transcriber.stream("glm", CLIP, options)]
        finally:
            await transcriber.close()
    assert isinstance(streamed, ClipTranscript)
    assert streamed.text.strip() == whole.text.strip()  # it has learnt nothing, and says it twice
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == streamed.text
    assert 0 < streamed.output_tokens <= 8
