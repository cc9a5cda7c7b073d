"""What sounds like something and says nothing? Silence, noise, hum and music, from which no text may be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.recordings import RATE_HZ, Recording, as_wav

EACH = 30
"""Clips of a kind."""

Signal = npt.NDArray[np.float64]
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)
CHORDS = ((0, 4, 7), (-3, 0, 4), (5, 9, 12), (7, 11, 14))
MIDDLE_C_HZ = 261.63


def sounds(each: int = EACH, seed: int = 0) -> Iterator[Recording]:
    """So many of every kind of sound, in lengths of 1 to 60 s and at all levels."""
    for kind, make in KINDS.items():
        random = np.random.default_rng([seed, *kind.encode()])
        for number in range(each):
            length = int(RATE_HZ * np.exp(random.uniform(0, np.log(60))))
            yield Recording(f"{kind}-{number:02}", "", "", as_wav(make(random, length, number)))


def _silence(random: np.random.Generator, length: int, number: int) -> Signal:
    """Nothing at all, or the last bit of a converter."""
    return random.uniform(-1, 1, length) * (number % 3) / 32767


def _noise(random: np.random.Generator, length: int, number: int) -> Signal:
    """White, pink or brown, steady, swelling or in bursts."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    slope = (0.0, 0.5, 1.0)[number % 3]
    coloured = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope, length)
    seconds = np.arange(length) / RATE_HZ
    shape = (
        np.ones(length),
        0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(0.1, 1) * seconds),
        (np.sin(2 * np.pi * random.uniform(1, 3) * seconds) > 0.8).astype(float) + 0.05,
    )[number // 3 % 3]
    return _at_level(coloured * shape, random.uniform(-65, -12))


def _hum(random: np.random.Generator, length: int, number: int) -> Signal:
    """Mains, a motor or a fan: harmonics of a low tone, and a little noise."""
    seconds = np.arange(length) / RATE_HZ
    base_hz = (50.0, 60.0, random.uniform(25, 250))[number % 3]
    wobble = random.uniform(0, 0.5) * np.sin(2 * np.pi * random.uniform(0.2, 5) * seconds)
    harmonics = sum(
        random.uniform(0, 1) / order * np.sin(2 * np.pi * base_hz * order * seconds + order * wobble)
        for order in range(1, 20)
    )
    return _at_level(harmonics + 0.02 * random.standard_normal(length), random.uniform(-55, -12))


def _music(random: np.random.Generator, length: int, number: int) -> Signal:
    """Chords of an organ, a melody of plucked strings, or both with a drum."""
    beat = int(RATE_HZ * random.uniform(0.25, 0.6))
    key = MIDDLE_C_HZ * 2 ** (random.integers(-12, 8) / 12)
    track = np.zeros(length)
    for turn, start in enumerate(range(0, length, beat)):
        left = length - start
        if number % 3 != 1 and turn % 4 == 0:
            for step in CHORDS[turn // 4 % len(CHORDS)]:
                _add(track, start, _organ(key * 2 ** (step / 12), min(4 * beat, left)))
        if number % 3 != 0:
            _add(
                track,
                start,
                2 * _string(random, key * 2 ** (SCALE[random.integers(len(SCALE))] / 12), min(2 * beat, left)),
            )
        if number % 3 == 2:
            _add(track, start, _drum(random, min(beat, left), low=turn % 2 == 0))
    return _at_level(track, random.uniform(-40, -10))


def _organ(hz: float, length: int) -> Signal:
    seconds = np.arange(length) / RATE_HZ
    tone: Signal = np.sum([np.sin(2 * np.pi * hz * order * seconds) / order for order in (1, 2, 3, 4, 6)], axis=0)
    return tone * np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.03 * RATE_HZ))


def _string(random: np.random.Generator, hz: float, length: int) -> Signal:
    """Karplus and Strong's plucked string."""
    period = max(int(RATE_HZ / hz), 2)
    waves = [random.uniform(-1, 1, period)]
    while len(waves) * period < length:
        waves.append(0.498 * (waves[-1] + np.roll(waves[-1], 1)))
    return np.concatenate(waves)[:length]


def _drum(random: np.random.Generator, length: int, *, low: bool) -> Signal:
    seconds = np.arange(length) / RATE_HZ
    hit = np.sin(2 * np.pi * 60 * seconds) if low else random.standard_normal(length)
    return hit * np.exp(-seconds * (12 if low else 40))


def _add(track: Signal, start: int, sound: Signal) -> None:
    track[start : start + len(sound)] += sound


def _at_level(signal: Signal, level_dbfs: float) -> Signal:
    rms = float(np.sqrt(np.mean(np.square(signal))))
    return signal * (10 ** (level_dbfs / 20) / max(rms, 1e-9))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Signal]] = {
    "silence": _silence,
    "noise": _noise,
    "hum": _hum,
    "music": _music,
}
