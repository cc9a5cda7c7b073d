"""Builders the tests of this package share: multipart bodies, forms, a catalogue and a transcription."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from core.transcript.faults import Fault
from core.transcript.types import Segment, Task, TokenLogprob, Transcript, Word
from engine.openai.errors import _CODES, _CODES_OF_SUBJECTS, ErrorCode
from engine.openai.fields import parse_transcription
from engine.openai.form_headers import MediaType
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import Form, MultipartReader
from engine.openai.subjects import subject_of
from engine.speech.speakers import ToldBy
from engine.types import Detail, Hearing

BOUNDARY = "0123456789abcdef0123456789abcdef"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
AUDIO = b"RIFF\x00\x01\r\n--\xff"

WHISPER = ServedModel(
    "openai/whisper-large-v3",
    created=1_700_000_000,
    aliases=("whisper-large-v3", "whisper-1"),
    details=frozenset(Detail),
    sampling=frozenset({"seed", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"})
    | {"repetition_penalty"},
)
CATALOGUE = ModelCatalogue((WHISPER,))
VOICES = ModelCatalogue((replace(WHISPER, speakers=ToldBy.VOICES),))
CHANNELS = ModelCatalogue((replace(WHISPER, speakers=ToldBy.CHANNELS),))
"""Where speakers are told apart."""
PLAIN = ModelCatalogue((ServedModel("plain", created=1, tasks=frozenset({Task.TRANSCRIBE})),))
"""A model without log probabilities, sampling parameters and translation."""


def part(disposition: str, value: bytes, *headers: str) -> bytes:
    lines = [f"--{BOUNDARY}", f"Content-Disposition: form-data; {disposition}", *headers, "", ""]
    return "\r\n".join(lines).encode() + value + b"\r\n"


def field(name: str, value: str) -> bytes:
    return part(f'name="{name}"', value.encode())


def file(audio: bytes = AUDIO) -> bytes:
    return part('name="file"; filename="a.wav"', audio, "Content-Type: audio/x-wav")


def close() -> bytes:
    return f"--{BOUNDARY}--\r\n".encode()


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + close()


def read(data: bytes, reader: MultipartReader | None = None) -> Form:
    reader = reader or MultipartReader(CONTENT_TYPE)
    reader.feed(data)
    return reader.finish()


def form(*fields: tuple[str, str]) -> Form:
    return Form(fields, bytearray(AUDIO), MediaType("audio/x-wav"))


def fault(
    code: ErrorCode,
    field: str | None = None,
    *,
    numbers: Mapping[str, int] | None = None,
    retry_after_s: float | None = None,
) -> Fault:
    """A fault that is answered with that code. field: the form field at fault, where the code is not that of one."""
    subject = subject_of(field) if field else None
    for (kind, of), own in _CODES_OF_SUBJECTS.items():
        if own is code:
            return Fault(kind, subject or of, numbers=numbers, retry_after_s=retry_after_s)
    kind = next(kind for kind, general in _CODES.items() if general is code)
    return Fault(kind, subject, numbers=numbers, retry_after_s=retry_after_s)


def ask(**fields: str) -> Hearing:
    return parse_transcription(form(*fields.items()), CATALOGUE).hearing


def transcription(
    *segments: Segment, text: str | None = None, task: Task = Task.TRANSCRIBE, duration_s: float = 8.47
) -> Transcript:
    return Transcript(
        task=task,
        language="en",
        duration_s=duration_s,
        text="".join(segment.text for segment in segments) if text is None else text,
        segments=segments,
        input_text_tokens=10,
        input_audio_tokens=424,
        output_tokens=7,
        logprobs=(TokenLogprob(" Hé", -0.25),),
    )


SPOKEN = transcription(
    Segment(
        0.0,
        3.32,
        " Hello there.",
        tokens=(50364, 2425, 456),
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.125,
        words=(Word(" Hello", 0.0, 1.5), Word(" there.", 1.5, 3.32)),
    ),
    Segment(3.32, 8.4, " Good bye.", tokens=(2205,), temperature=0.2, words=(Word(" Good bye.", 3.4, 8.4),)),
)
