"""How likely does each 32 ms of audio hold speech? Silero VAD v6, a block at a time.

The model file ships inside faster-whisper, whose `vad.py` documents its form by using it: `input` is a batch of
consecutive windows of 512 samples, each preceded by the last 64 samples of the window before; `h` and `c` are the state
of an LSTM that runs across the batch; `speech_probs` is one number a window, `hn` and `cn` the new state.

That state drifts in silence. After 20 s of nothing the model notices speech up to half a second late, more than the
padding of a clip makes good: of 160 sentences, each after such a silence, 6 lost the beginning of their first word. So
silence is remembered for `REMEMBERED_STRETCHES` stretches and no longer, after which the state stays as it is until
something is heard. (To forget everything instead makes hum and chords sound like speech.)

Runs only in the decoder's processes: it loads model code (onnxruntime).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engine.speech.frames import BLOCK_WINDOWS, WINDOW_BYTES
from engine.types import WINDOW_SAMPLES

CONTEXT_SAMPLES = 64
STATE_SHAPE = (1, 1, 128)
FULL_SCALE = 32_768.0

STRETCH_WINDOWS = BLOCK_WINDOWS
"""Silence is told by whole stretches of 2 s, counted from the start of the file, whatever the calls bring at a time."""

REMEMBERED_STRETCHES = 2

SILENT = 26
"""Below this, a tenth, nothing in a stretch is like speech."""


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
    """The speech model with its memory of the audio so far; one for each file."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._h = np.zeros(STATE_SHAPE, np.float32)
        self._c = np.zeros(STATE_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._windows = 0
        self._likeliest = 0
        self._silent_stretches = 0
        self._held = (self._h, self._c)

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
        first_end = STRETCH_WINDOWS - self._windows % STRETCH_WINDOWS
        stretches = np.split(windows, range(first_end, len(windows), STRETCH_WINDOWS))
        return b"".join(map(self._listen, stretches))

    def _listen(self, windows: npt.NDArray[np.float32]) -> bytes:
        """Listen to a stretch, or the part of one that is at hand."""
        inputs = {"input": self._with_context(windows), "h": self._h, "c": self._c}
        likelihoods, self._h, self._c = self._model.run(None, inputs)
        speech = bytes(np.rint(likelihoods * 255).astype(np.uint8))
        self._windows += len(windows)
        self._likeliest = max(self._likeliest, *speech)
        if self._windows % STRETCH_WINDOWS == 0:
            self._end_stretch()
        return speech

    def _end_stretch(self) -> None:
        """Hold the memory of a silence that goes on."""
        self._silent_stretches = self._silent_stretches + 1 if self._likeliest < SILENT else 0
        self._likeliest = 0
        if self._silent_stretches > REMEMBERED_STRETCHES:
            self._h, self._c = self._held
        else:
            self._held = (self._h, self._c)

    def _with_context(self, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        tails = windows[:, -CONTEXT_SAMPLES:]
        contexts = np.vstack([self._context, tails[:-1]])
        self._context = tails[-1].copy()
        return np.hstack([contexts, windows])
