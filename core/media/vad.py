"""How likely does each 32 ms of audio hold speech? Silero VAD v6, asked twice, a block at a time.

The model file ships inside faster-whisper, whose `vad.py` documents its form by using it: `input` is a batch of
consecutive windows of 512 samples, each preceded by the last 64 samples of the window before; `h` and `c` are the state
of an LSTM that runs across the batch; `speech_probs` is one number a window, `hn` and `cn` the new state.

The model has two weaknesses, and a listener for each (`docs/hearing.md` has the figures):

- It goes deaf. After loud speech its state takes a quieter speaker for silence, and after a long silence it notices
  speech late. So the state is forgotten every `MEMORY_STRETCHES` stretches.
- It depends on level: of a recording made 40 dB quieter it hears little. So one listener is given the audio as it is,
  the other with the loudest of the last `LEVEL_WINDOWS` windows at `LEVEL`.

A window is as likely speech as the likelier of both say. They forget in turns, since a listener that has just
forgotten knows little.

Runs only in the decoder's processes: it loads model code (onnxruntime).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from core.media.frames import BLOCK_WINDOWS, WINDOW_BYTES
from core.media.types import WINDOW_SAMPLES

CONTEXT_SAMPLES = 64
SILENCE = np.zeros((1, 1, 128), np.float32)
FULL_SCALE = 32_768.0

STRETCH_WINDOWS = BLOCK_WINDOWS
"""The state is forgotten between stretches of 2 s, counted from the start of the file, whatever the calls bring."""

MEMORY_STRETCHES = 4

LEVEL_WINDOWS = 64
LEVEL = 10 ** (-12 / 20)
"""RMS of the loudest window, full scale being 1: what the model hears best. Speech peaks some 10 dB above it."""

MAX_GAIN = 1_000.0
"""60 dB: the last bits of a recording are not made as loud as speech."""

Windows: TypeAlias = npt.NDArray[np.float32]


def load_model() -> Any:
    """Load the speech model into a session that has no threads, so that it survives `fork`.

    Raises FileNotFoundError where faster-whisper, which carries the file, is not installed.
    """
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = 1
    # The arena keeps what it once allocated, and a block is small: a decoder lives for one file.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])


def _model_path() -> Path:
    # `find_spec` does not import the package, which would bring in CTranslate2 and the model hub's client.
    spec = find_spec("faster_whisper")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("faster-whisper, which carries the speech model, is not installed")
    return Path(spec.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"


class VoiceActivityDetector:
    """Both listeners with what they remember of the audio so far; one for each file."""

    def __init__(self, model: Any) -> None:
        self._as_recorded = _Listener(model, forgets_at=0)
        self._levelled = _Listener(model, forgets_at=MEMORY_STRETCHES // 2)
        self._level = _Level()
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)

    def probabilities(self, pcm: bytes | bytearray | memoryview) -> bytes:
        """How likely each next window holds speech: one byte a window, 0 to 255.

        pcm: whole windows, following on from the last call; pad the end of a file with zeros.
        Raises ValueError for a part of a window.
        """
        if len(pcm) % WINDOW_BYTES:
            raise ValueError("speech is looked for in whole windows")
        if not pcm:
            return b""
        windows = np.frombuffer(pcm, "<i2").reshape(-1, WINDOW_SAMPLES).astype(np.float32) / FULL_SCALE
        audio = self._with_context(windows)
        likelihoods = np.maximum(
            self._as_recorded.listen(audio), self._levelled.listen(audio * self._level.gains(windows)[:, np.newaxis])
        )
        return bytes(np.rint(likelihoods * 255).astype(np.uint8))

    def _with_context(self, windows: Windows) -> Windows:
        tails = windows[:, -CONTEXT_SAMPLES:]
        contexts = np.vstack([self._context, tails[:-1]])
        self._context = tails[-1].copy()
        return np.hstack([contexts, windows])


class _Listener:
    """The model with a memory that is cleared before every `MEMORY_STRETCHES`th stretch."""

    def __init__(self, model: Any, *, forgets_at: int) -> None:
        self._model = model
        self._h = self._c = SILENCE
        self._heard_windows = -forgets_at * STRETCH_WINDOWS

    def listen(self, windows: Windows) -> Windows:
        first_end = STRETCH_WINDOWS - self._heard_windows % STRETCH_WINDOWS
        stretches = np.split(windows, range(first_end, len(windows), STRETCH_WINDOWS))
        return np.concatenate([self._listen(stretch) for stretch in stretches])

    def _listen(self, windows: Windows) -> Windows:
        """Listen to a stretch, or the part of one that is at hand."""
        if self._heard_windows % (MEMORY_STRETCHES * STRETCH_WINDOWS) == 0:
            self._h = self._c = SILENCE
        self._heard_windows += len(windows)
        likelihoods, self._h, self._c = self._model.run(None, {"input": windows, "h": self._h, "c": self._c})
        return np.asarray(likelihoods, np.float32).reshape(-1)


class _Level:
    """How loud the audio is at the moment."""

    def __init__(self) -> None:
        self._recent = np.zeros(LEVEL_WINDOWS - 1, np.float32)

    def gains(self, windows: Windows) -> Windows:
        """What to multiply each window by, so that the loudest of those just heard is as loud as `LEVEL`."""
        levels = np.append(self._recent, np.sqrt(np.mean(np.square(windows), axis=1)))
        self._recent = levels[len(windows) :]
        loudest = np.lib.stride_tricks.sliding_window_view(levels, LEVEL_WINDOWS).max(axis=1)
        return np.asarray(LEVEL / np.maximum(loudest, LEVEL / MAX_GAIN), np.float32)
