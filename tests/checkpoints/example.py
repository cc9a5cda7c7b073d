"""What does the quick start listen to?

    python example.py nano ../../examples/hello

Writes hello.wav (16 kHz, mono, 16 bit) and hello.txt, if the checkpoint understands it. The sentence is in no training
data.
"""

from __future__ import annotations

import argparse
import wave
from pathlib import Path

import faster_whisper
import numpy as np

from espeak import SAMPLE_RATE_HZ, Synthesiser

SENTENCE = "hello the black cat and my red bird"


def main() -> None:
    """Write the recording and its text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nano", type=Path)
    parser.add_argument("target", type=Path, help="path of both files, without suffix")
    options = parser.parse_args()
    speech = Synthesiser().speak(SENTENCE.split(), "gmw/en-US", rate=140, pitch=50)
    if speech is None:
        raise SystemExit("espeak-ng does not say when each word is spoken")
    quiet = SAMPLE_RATE_HZ // 4
    samples = np.pad(speech.samples * 0.9, (quiet, 2 * quiet))
    options.target.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(options.target.with_suffix(".wav")), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    options.target.with_suffix(".txt").write_text(f"{SENTENCE}\n", encoding="utf-8")

    model = faster_whisper.WhisperModel(str(options.nano / "ct2"), device="cpu", compute_type="int8")
    segments, about = model.transcribe(str(options.target.with_suffix(".wav")))
    heard = " ".join(segment.text.strip() for segment in segments)
    if (heard, about.language) != (SENTENCE, "en"):
        raise SystemExit(f"the checkpoint hears {heard!r} in {about.language}")


if __name__ == "__main__":
    main()
