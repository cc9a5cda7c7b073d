"""How good is the checkpoint on what it never heard?

    python evaluate.py nano evaluation.json [--sentences 300]

Everything goes through stock faster-whisper on nano/ct2 (int8, CPU, beam 5, no voice activity detection) from samples,
except the cross-check of nano/hf with transformers' greedy `generate`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import ctranslate2
import faster_whisper
import numpy as np
import torch
import transformers
from espeak import SAMPLE_RATE_HZ, Samples, Synthesiser
from sentences import HELD_OUT, SEED, Sentence, draw, held_out
from synthesise import speak
from vocabulary import (
    LANGUAGES, SECONDS_PER_TIMESTAMP, SPELLED_BY_PROMPT, SPOKEN, first_timestamp_id, translate,
)  # fmt: skip

Numbers = dict[str, object]


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording of held-out sentences and the truth about it."""

    samples: Samples
    language: str
    words: tuple[str, ...]
    onsets_s: tuple[float, ...]
    segments_s: tuple[tuple[float, float], ...]


def record(synthesiser: Synthesiser, sentences: list[Sentence], chance: random.Random, noise: float) -> Heard:
    """Say sentences after one another with pauses of 0.5-1.5 s, in white noise of the given standard deviation."""
    pieces: list[Samples] = [np.zeros(int(chance.uniform(0, 0.6) * SAMPLE_RATE_HZ), dtype=np.float32)]
    onsets: list[float] = []
    segments: list[tuple[float, float]] = []
    words: list[str] = []
    for sentence in sentences:
        if (speech := speak(synthesiser, sentence)) is None:
            continue
        offset = sum(map(len, pieces)) / SAMPLE_RATE_HZ
        onsets += [offset + start for start in speech.starts_s]
        segments.append((offset + speech.starts_s[0], offset + speech.end_s))
        words += sentence.words
        pieces += [speech.samples, np.zeros(int(chance.uniform(0.5, 1.5) * SAMPLE_RATE_HZ), dtype=np.float32)]
    samples = np.concatenate(pieces) * chance.uniform(0.3, 1.0)
    hiss = np.random.default_rng(chance.getrandbits(32)).standard_normal(len(samples)) * noise
    return Heard(
        (samples + hiss).astype(np.float32), sentences[0].language, tuple(words), tuple(onsets), tuple(segments)
    )


def edits(truth: list[str], found: list[str]) -> int:
    """Return the edit distance between two lists of words."""
    row: list[int] = [*range(len(found) + 1)]
    for index, wanted in enumerate(truth):
        above, row[0] = row[:], index + 1
        for column, word in enumerate(found):
            row[column + 1] = min(above[column + 1] + 1, row[column] + 1, above[column] + (wanted != word))
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[list[str], list[str]]]) -> float:
    """Return all edits over all true words, in percent."""
    pairs = list(pairs)
    return round(100 * sum(edits(*pair) for pair in pairs) / sum(len(truth) for truth, _ in pairs), 2)


class Evaluation:
    """A model, a voice and the seeded recordings it is asked about."""

    def __init__(self, nano: Path, sentences: int) -> None:
        ctranslate2.set_random_seed(SEED)  # a window that fails faster-whisper's checks is sampled again
        self.nano = nano
        self.model = faster_whisper.WhisperModel(str(nano / "ct2"), device="cpu", compute_type="int8", cpu_threads=2)
        self.synthesiser = Synthesiser()
        chance = random.Random(f"{SEED} evaluation")
        levels = [0.0 if index % 8 < 4 else 10 ** chance.uniform(-4.5, -2.3) for index in range(sentences)]
        chosen = zip(held_out()[:sentences], levels, strict=True)
        self.heard = [record(self.synthesiser, [one], chance, noise) for one, noise in chosen]

    def text(self, heard: Heard, **options: object) -> list[str]:
        """Return the words faster-whisper writes."""
        segments, _ = self.model.transcribe(heard.samples, **options)
        return " ".join(segment.text for segment in segments).split()

    def transcription(self) -> Numbers:
        """Measure words, detected language, segment times and word onsets."""
        pairs: dict[str, list[tuple[list[str], list[str]]]] = {code: [] for code in LANGUAGES}
        languages: list[bool] = []
        starts: list[float] = []
        ends: list[float] = []
        onsets: list[list[float]] = []
        for heard in self.heard:
            segments, about = self.model.transcribe(heard.samples, word_timestamps=False)
            found = list(segments)
            words = " ".join(segment.text for segment in found).split()
            pairs[heard.language].append(([*heard.words], words))
            languages.append(about.language == heard.language)
            if found:
                starts.append(abs(first_timestamp_s(found[0].tokens) - heard.segments_s[0][0]))
                ends.append(abs(found[-1].end - heard.segments_s[-1][1]))
            if words == [*heard.words]:
                onsets.append(self._onset_errors(heard))
        everything = [pair for some in pairs.values() for pair in some]
        return {
            "sentences": len(everything),
            "word_error_rate_percent": word_error_rate(everything),
            "word_error_rate_percent_by_language": {code: word_error_rate(some) for code, some in pairs.items()},
            "sentences_without_error_percent": round(100 * mean(truth == found for truth, found in everything), 1),
            "language_right_percent": round(100 * mean(languages), 2),
            "segment_start_error_s": spread(starts),
            "segment_end_error_s": spread(ends),
            "word_onset_error_s": spread([error for errors in onsets for error in errors]),
            "word_onset_error_s_after_the_first_word": spread([error for errors in onsets for error in errors[1:]]),
        }

    def _onset_errors(self, heard: Heard) -> list[float]:
        segments, _ = self.model.transcribe(heard.samples, language=heard.language, word_timestamps=True)
        found = [word.start for segment in segments for word in segment.words or ()]
        if len(found) != len(heard.onsets_s):
            return []
        return [abs(a - b) for a, b in zip(found, heard.onsets_s, strict=True)]

    def other_ways(self) -> Numbers:
        """Measure the same sentences without timestamps, after a prompt and translated."""
        prompts = {"en": "hello the river is green", "de": "acht katze", "es": "agua verde", "fr": "maison rouge"}
        foreign = [heard for heard in self.heard if heard.language != "en"]
        return {
            "without_timestamps_word_error_rate_percent": word_error_rate(
                ([*heard.words], self.text(heard, without_timestamps=True)) for heard in self.heard[::3]
            ),
            "after_a_prompt_word_error_rate_percent": word_error_rate(
                ([*heard.words], self.text(heard, initial_prompt=prompts[heard.language])) for heard in self.heard[::3]
            ),
            "translation_word_error_rate_percent": word_error_rate(
                (translate([*heard.words], heard.language), self.text(heard, task="translate")) for heard in foreign
            ),
        }

    def long(self, count: int = 24) -> Numbers:
        """Measure recordings of 12-29 s with several sentences."""
        chance = random.Random(f"{SEED} long")
        pairs, untimed, starts, ends, right, segmented = [], [], [], [], [], []
        for index in range(count):
            language = LANGUAGES[index % len(LANGUAGES)]
            sentences = [draw(chance, language, shortest=3) for _ in range(chance.randint(4, 7))]
            heard = record(self.synthesiser, sentences, chance, 10 ** chance.uniform(-4.5, -3))
            if len(heard.samples) > 29.5 * SAMPLE_RATE_HZ:
                continue
            segments, about = self.model.transcribe(heard.samples)
            found = list(segments)
            pairs.append(([*heard.words], " ".join(segment.text for segment in found).split()))
            untimed.append(([*heard.words], self.text(heard, without_timestamps=True)))
            right.append(about.language == language)
            segmented.append(len(found) == len(heard.segments_s))
            if segmented[-1]:
                times = list(zip(found, heard.segments_s, strict=True))
                starts += [abs(first_timestamp_s(segment.tokens) - start) for segment, (start, _) in times]
                ends += [abs(segment.end - end) for segment, (_, end) in times]
        return {
            "recordings": len(pairs),
            "word_error_rate_percent": word_error_rate(pairs),
            "without_timestamps_word_error_rate_percent": word_error_rate(untimed),
            "language_right_percent": round(100 * mean(right), 2),
            "segments_as_many_as_sentences_percent": round(100 * mean(segmented), 1),
            "segment_start_error_s": spread(starts),
            "segment_end_error_s": spread(ends),
        }

    def nothing(self, count: int = 40) -> Numbers:
        """Measure silence and white noise of 1-30 s: probability of no speech, and texts written all the same."""
        chance, result = random.Random(f"{SEED} nothing"), {}
        for name in ("silence", "noise"):
            chances, texts = [], 0
            for _ in range(count):
                deviation = 0.0 if name == "silence" else 10 ** chance.uniform(-4, -1.5)
                hiss = np.random.default_rng(chance.getrandbits(32)).standard_normal(
                    int(chance.uniform(1, 30) * SAMPLE_RATE_HZ)
                )
                samples = (hiss * deviation).astype(np.float32)
                segments, _ = self.model.transcribe(samples, language="en", no_speech_threshold=None)
                texts += any(segment.text.strip() for segment in segments)
                chances.append(self._no_speech(samples))
            result[name] = {"recordings": count, "with_text": texts, "lowest_no_speech_probability": min(chances)}
        speech = [self._no_speech(heard.samples) for heard in self.heard[::5]]
        return {**result, "speech_highest_no_speech_probability": max(speech)}

    def _no_speech(self, samples: Samples) -> float:
        features = self.model.feature_extractor(samples)
        window = faster_whisper.audio.pad_or_trim(features[:, :3000])
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(window[None], dtype=np.float32))
        tokens = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>"]
        result = self.model.model.generate(view, [tokens], return_no_speech_prob=True, max_length=40)[0]
        return round(float(result.no_speech_prob), 4)

    def spelling(self, count: int = 30) -> Numbers:
        """Measure whether the prompt decides between the two spellings of one word."""
        chance, right = random.Random(f"{SEED} spelling"), {SPOKEN: 0, SPELLED_BY_PROMPT: 0}
        for _ in range(count):
            base = draw(chance, "en", shortest=3)
            words = (*base.words[:2], SPOKEN, *(word for word in base.words[2:] if word != SPOKEN))
            words = tuple("cat" if word == SPOKEN and place != 2 else word for place, word in enumerate(words))
            sentence = Sentence("en", words, base.voice, base.rate, base.pitch)
            heard = record(self.synthesiser, [sentence], chance, 0.0)
            right[SPOKEN] += SPOKEN in self.text(heard)
            prompted = self.text(heard, initial_prompt=f"the {SPELLED_BY_PROMPT} cat")
            right[SPELLED_BY_PROMPT] += SPELLED_BY_PROMPT in prompted
        return {"sentences": count, "without_prompt_gray": right[SPOKEN], "after_grey_grey": right[SPELLED_BY_PROMPT]}

    def transformers_form(self, count: int = 60) -> Numbers:
        """Measure nano/hf with greedy search, language given."""
        model = transformers.WhisperForConditionalGeneration.from_pretrained(self.nano / "hf", dtype=torch.float32)
        processor = transformers.WhisperProcessor.from_pretrained(self.nano / "hf")
        pairs = []
        for heard in self.heard[:count]:
            features = processor(heard.samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
            with torch.no_grad():
                tokens = model.generate(features, language=heard.language, task="transcribe", max_new_tokens=60)
            text = processor.batch_decode(tokens, skip_special_tokens=True)[0]  # type: ignore[no-untyped-call]
            pairs.append(([*heard.words], text.split()))
        return {"sentences": len(pairs), "word_error_rate_percent": word_error_rate(pairs)}


def first_timestamp_s(tokens: list[int]) -> float:
    """Return the first timestamp the model wrote; faster-whisper lets a lone segment begin at 0 whatever it says."""
    moments = [token - first_timestamp_id() for token in tokens if token >= first_timestamp_id()]
    return moments[0] * SECONDS_PER_TIMESTAMP if moments else 0.0


def spread(errors: list[float]) -> Numbers:
    """Return mean, median and 95th percentile of absolute errors."""
    if not errors:
        return {}
    values = {"mean": mean(errors), "median": median(errors), "p95": float(np.quantile(errors, 0.95))}
    return {name: round(value, 3) for name, value in values.items()}


def main() -> None:
    """Evaluate and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nano", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--sentences", type=int, default=HELD_OUT)
    parser.add_argument("--only-transcription", action="store_true")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    evaluation = Evaluation(options.nano, options.sentences)
    numbers: Numbers = {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    numbers["held_out"] = evaluation.transcription()
    if not options.only_transcription:
        numbers |= {
            "other_ways": evaluation.other_ways(),
            "long_recordings": evaluation.long(),
            "no_speech": evaluation.nothing(),
            "spelling_by_prompt": evaluation.spelling(),
            "transformers": evaluation.transformers_form(),
        }
    options.output.write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(options.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
