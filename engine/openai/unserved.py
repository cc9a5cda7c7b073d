"""Which fields that some API defines are not served, and what is their sender told?

Refused is what an answer would mislead about if it left the field out in silence (who speaks, which part of the file,
what was taken out), and what one caller could use to make every other wait. Ignored is what changes nothing, or tunes a
decoder that this engine does not have. Sources: OpenAI's and vLLM's protocols; the servers of whisper.cpp, speaches,
LocalAI and whisper-asr-webservice; the APIs of Groq, Mistral, Lemonfox, AssemblyAI, ElevenLabs and Deepgram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.openai.values import BOOLEAN, FormValues


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is refused.

    sentence: what its sender is told. unless_off: `false` and `0` ask for nothing, and are taken.
    """

    name: str
    sentence: str
    unless_off: bool = False

    def is_asked_for(self, values: FormValues) -> bool:
        """Whether it was sent, in whatever spelling."""
        texts = values.lists.get(self.name, ())
        is_off = self.unless_off and texts and all(BOOLEAN.read(text) is False for text in texts)
        return values.has(self.name) and not is_off


def _rows(*names: str, why: str, unless_off: bool = False) -> tuple[Refused, ...]:
    return tuple(Refused(name, f"{why} Leave `{name}` out.", unless_off) for name in names)


REFUSED: Final = (
    *_rows("tinydiarize", why="Where speakers are told apart, `diarize` asks for it.", unless_off=True),
    *_rows(
        *("url", "audio_url", "file_url"),
        why="This engine fetches nothing from elsewhere; send the audio in the field `file`.",
    ),
    *_rows("callback", "callback_url", why="The answer comes on the connection of its request."),
    *_rows(
        *("offset_t", "offset_n", "duration"),
        why="The whole file is heard; cut it before it is sent.",
        unless_off=True,
    ),
    *_rows("max_len", why="Segments are as long as the model makes them.", unless_off=True),
    *_rows("redact", "profanity_filter", why="Nothing that was said is taken out of the text.", unless_off=True),
    *_rows(
        *("vad_parameters", "vad_threshold", "vad_min_silence_duration_ms", "vad_speech_pad_ms"),
        *("vad_min_speech_duration_ms", "vad_max_speech_duration_s"),
        why="Pauses are looked for as `chunking_strategy` says.",
    ),
    *_rows("use_beam_search", why="Beams of one caller would make every other wait.", unless_off=True),
    *_rows("n", "length_penalty", why="Beams of one caller would make every other wait."),
    *_rows("include_stop_str_in_output", why="There are no stop strings.", unless_off=True),
    *_rows("vllm_xargs", why="Nothing is passed on to plugins of the model server."),
)

_NO_SPEAKERS: Final = "This engine does not tell speakers apart, or not by their voices."

REFUSED_WITHOUT_VOICES: Final = _rows("known_speaker_names", "known_speaker_references", why=_NO_SPEAKERS)
"""Where speakers are told apart by their channels, or not at all."""

REFUSED_WITHOUT_SPEAKERS: Final = (
    *REFUSED_WITHOUT_VOICES,
    *_rows(
        *("diarize", "diarization", "speaker_labels", "num_speakers", "min_speakers", "max_speakers"),
        why="This engine does not tell speakers apart.",
        unless_off=True,
    ),
)

IGNORED: Final = frozenset(
    {
        *("watermarking", "without_timestamps", "no_timestamps"),
        *("beam_size", "best_of", "temperature_inc", "condition_on_previous_text", "suppress_nst"),
        *("entropy_thold", "logprob_thold", "no_speech_thold", "word_thold"),
    }
)
