"""How does a sentence sound, and when is each of its words spoken?

A `ctypes` door to libespeak-ng (speak_lib.h of 1.51): samples and word events in one call, without a process per
sentence.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000

_SYNCHRONOUS, _UTF8, _END_OF_LIST, _WORD = 2, 1, 0, 1
_RATE, _PITCH = 1, 3

Samples = npt.NDArray[np.float32]


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, slots=True)
class Speech:
    """One spoken sentence, cut to where it is heard.

    samples: 16 kHz, in -1..1. starts_s: the onset of each word. end_s: where the last word fades.
    """

    samples: Samples
    starts_s: tuple[float, ...]
    end_s: float


class Synthesiser:
    """libespeak-ng, which has one global state: keep one per process."""

    def __init__(self, library: str = "libespeak-ng.so.1") -> None:
        self._library = ctypes.CDLL(library)
        self.rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        if self.rate_hz <= 0:
            raise RuntimeError("libespeak-ng does not start")
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        self._chunks: list[npt.NDArray[np.int16]] = []
        self._words: dict[int, float] = {}
        self._voice = ""

    def speak(self, words: list[str], voice: str, *, rate: int, pitch: int) -> Speech | None:
        """Speak `words`; None where the voice runs words together, so that their onsets are unknown."""
        said = self.say(words, voice, rate=rate, pitch=pitch)
        return None if said is None else self._cut(*said)

    def say(
        self, words: list[str], voice: str, *, rate: int, pitch: int
    ) -> tuple[npt.NDArray[np.int16], list[float]] | None:
        """All samples of `words` at `rate_hz`, and the onset of each in seconds; None as in `speak`."""
        if voice != self._voice and self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        self._voice = voice
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks, self._words = [], {}
        text = " ".join(words).encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        if len(self._words) != len(words) or not self._chunks:
            return None
        return np.concatenate(self._chunks), sorted(self._words.values())

    def _receive(self, samples: object, count: int, events: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while (event := events[index]).type != _END_OF_LIST:  # type: ignore[index]
            if event.type == _WORD and event.text_position > 0:  # 0: the end of the sentence
                self._words.setdefault(event.text_position, event.audio_position_ms / 1000)
            index += 1
        return 0

    def _cut(self, raw: npt.NDArray[np.int16], starts_s: list[float]) -> Speech | None:
        from scipy.signal import resample_poly  # only the training's; who tests has no need of it

        factor = gcd(SAMPLE_RATE_HZ, self.rate_hz)
        samples = resample_poly(raw.astype(np.float32) / 32768, SAMPLE_RATE_HZ // factor, self.rate_hz // factor)
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        if not loud.size or np.abs(samples).max() < 0.01:
            return None
        first, last = max(0, int(loud[0]) - 320), min(len(samples), int(loud[-1]) + 480)
        heard = [max(0.02, start - first / SAMPLE_RATE_HZ) for start in starts_s]
        return Speech(samples[first:last].astype(np.float32), tuple(heard), (int(loud[-1]) - first) / SAMPLE_RATE_HZ)
