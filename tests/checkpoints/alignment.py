"""Which decoder heads know when a word is spoken?

The dynamic-time-warping of OpenAI's whisper/timing.py, run for each cross-attention head on sentences whose word times
are known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from batches import Clip, Frames, Placed
from features import FLOOR, normalise
from network import DECODER_LAYERS, HEADS, Nano
from scipy.ndimage import median_filter
from synthesise import Utterance
from vocabulary import special_id, word_id

SECONDS_PER_ENCODER_FRAME = 0.02
WINDOW = 3000

Matrix = npt.NDArray[np.float64]


def warp(cost: Matrix) -> tuple[list[int], list[int]]:
    """Return the cheapest monotonic path through `cost`: its rows and its columns."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    came = np.zeros((rows + 1, columns + 1), dtype=np.int8)
    for column in range(1, columns + 1):
        for row in range(1, rows + 1):
            before = (total[row - 1, column - 1], total[row - 1, column], total[row, column - 1])
            best = int(np.argmin(before))
            total[row, column], came[row, column] = cost[row - 1, column - 1] + before[best], best
    path, row, column = [], rows, columns
    while row > 0 and column > 0:
        path.append((row - 1, column - 1))
        step = came[row, column]
        row, column = row - (step != 2), column - (step != 1)
    path.reverse()
    return [row for row, _ in path], [column for _, column in path]


def onsets_s(weights: Matrix) -> list[float]:
    """Return when each row of attention `weights` (heads, tokens, frames) begins."""
    spread = (weights - weights.mean(-2, keepdims=True)) / (weights.std(-2, keepdims=True) + 1e-9)
    rows, columns = warp(-median_filter(spread, (1, 1, 7)).mean(0))
    return [columns[rows.index(row)] * SECONDS_PER_ENCODER_FRAME for row in range(weights.shape[1])]


def attention(model: Nano, utterance: Utterance, mel: Frames, first: int) -> tuple[Matrix, list[float]]:
    """Return the attention of all heads (layers x heads, words + 1, frames) in a whole window, and the true onsets."""
    placed = Placed(utterance, mel, first)
    clip = Clip((placed,), first + len(mel) + 30, utterance.language)
    canvas = torch.full((WINDOW, 80), FLOOR)
    canvas[first : first + len(mel)] = torch.from_numpy(np.asarray(mel, dtype=np.float32))
    names = ("startoftranscript", utterance.language, "transcribe", "notimestamps")
    tokens = [*map(special_id, names), *map(word_id, utterance.words)]
    with torch.no_grad():
        output = model(normalise(canvas).T[None], torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool))
    weights = torch.cat(output.attention, dim=1)[0, :, 3:, : clip.frames // 2]
    return weights.double().numpy(), [start for start, _ in placed.spans_s()]


def head_errors(model: Nano, sample: list[tuple[Utterance, Frames]]) -> dict[tuple[int, int], float]:
    """Return for each (layer, head) the mean error of the word onsets after the first, in seconds."""
    errors: dict[tuple[int, int], list[float]] = {
        (layer, head): [] for layer in range(DECODER_LAYERS) for head in range(HEADS)
    }
    for index, (utterance, mel) in enumerate(sample):
        weights, truth = attention(model, utterance, mel, 20 + 7 * index % 60)
        for (layer, head), found in errors.items():
            measured = onsets_s(weights[layer * HEADS + head][None])
            found += [abs(a - b) for a, b in zip(measured[1:-1], truth[1:], strict=True)]
    return {place: float(np.mean(found)) for place, found in errors.items()}
