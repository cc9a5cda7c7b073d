"""Who speaks when, by sherpa-onnx: a segmentation model of pyannote's and an embedding model, both ONNX.

The operator's directory holds `segmentation.onnx` and `embedding.onnx` (`docs/models.md` says where to get them), whose
metadata tell sherpa-onnx what they are. One thread, for those of a pool would be outside the sandbox.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import sherpa_onnx

from core.media.types import SAMPLE_RATE_HZ
from engine.backends.speakers.clustering import Matrix, cluster, normalised
from engine.backends.speakers.model import Busy, Samples, Stretch

SEGMENTATION = "segmentation.onnx"
EMBEDDING = "embedding.onnx"

APART = 0.5
"""sherpa-onnx's own threshold of clustering."""

VOICE_S = 30.0
"""How much of a speaker is listened to, to say what the voice is like."""

MIN_VOICE_S = 0.5
Turns = list[tuple[float, float, int]]


class SherpaModel:
    """Implements `engine.backends.speakers.model.Model`."""

    same = 0.5

    def __init__(self, directory: str) -> None:
        segmentation, embedding = str(Path(directory) / SEGMENTATION), str(Path(directory) / EMBEDDING)
        self._config = sherpa_onnx.OfflineSpeakerDiarizationConfig(
            segmentation=sherpa_onnx.OfflineSpeakerSegmentationModelConfig(
                pyannote=sherpa_onnx.OfflineSpeakerSegmentationPyannoteModelConfig(model=segmentation), num_threads=1
            ),
            embedding=sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=embedding, num_threads=1),
            clustering=sherpa_onnx.FastClusteringConfig(num_clusters=-1, threshold=APART),
        )
        if not self._config.validate():
            raise ValueError("sherpa-onnx cannot use these models")
        self._diarization = sherpa_onnx.OfflineSpeakerDiarization(self._config)
        self._extractor = sherpa_onnx.SpeakerEmbeddingExtractor(self._config.embedding)

    def diarize(self, samples: Samples, speech: npt.NDArray[np.uint8], least: int, most: int, busy: Busy) -> Stretch:
        if not speech.any():
            return Stretch([], np.zeros((0, self._extractor.dim), np.float32))
        turns = self._turns(samples, least if least == most else -1, busy)
        if len({speaker for *_, speaker in turns}) < least and least != most:
            turns = self._turns(samples, least, busy)
        return self._with_voices(samples, turns, most)

    def _turns(self, samples: Samples, speakers: int, busy: Busy) -> Turns:
        """speakers: how many there are, -1 to find out."""

        def progress(_done: int, _all: int) -> int:
            busy()
            return 0

        self._config.clustering = sherpa_onnx.FastClusteringConfig(num_clusters=speakers, threshold=APART)
        self._diarization.set_config(self._config)
        found = self._diarization.process(samples, callback=progress).sort_by_start_time()
        return [(float(one.start), float(one.end), int(one.speaker)) for one in found]

    def _with_voices(self, samples: Samples, turns: Turns, most: int) -> Stretch:
        """The turns with the voice of each speaker; of more speakers than `most` those most alike are one."""
        speakers = list(dict.fromkeys(speaker for *_, speaker in turns))
        voices = normalised(np.array([self._voice(samples, turns, one) for one in speakers], np.float32))
        if not speakers:
            return Stretch([], np.zeros((0, self._extractor.dim), np.float32))
        merged = cluster(voices, apart=0.0, least=1, most=most)  # merges no more than it must
        places = {speaker: int(merged[index]) for index, speaker in enumerate(speakers)}
        centres = [voices[merged == number].mean(axis=0) for number in range(int(merged.max()) + 1)]
        return Stretch([(start, end, places[speaker]) for start, end, speaker in turns], normalised(np.stack(centres)))

    def _voice(self, samples: Samples, turns: Turns, speaker: int) -> Matrix:
        longest = sorted((turn for turn in turns if turn[2] == speaker), key=lambda turn: turn[0] - turn[1])
        pieces, length_s = [], 0.0
        for start_s, end_s, _ in longest:
            if length_s < VOICE_S:
                pieces.append(samples[int(start_s * SAMPLE_RATE_HZ) : int(end_s * SAMPLE_RATE_HZ)])
                length_s += end_s - start_s
        audio = np.concatenate(pieces)[: int(VOICE_S * SAMPLE_RATE_HZ)]
        audio = np.pad(audio, (0, max(0, int(MIN_VOICE_S * SAMPLE_RATE_HZ) - len(audio))))
        stream = self._extractor.create_stream()
        stream.accept_waveform(sample_rate=SAMPLE_RATE_HZ, waveform=audio)
        stream.input_finished()
        return np.asarray(self._extractor.compute(stream), np.float32)
