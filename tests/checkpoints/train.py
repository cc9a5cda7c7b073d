"""How is the checkpoint trained?

    python train.py CORPUS RUN [--steps 3500]

Teacher forcing; two more losses that training alone knows show the way early: which word is spoken in each encoder
frame, and where one head of the first and of the last decoder layer listens. RUN/last.pt is written every 250 steps and
resumed from; it holds the weights, their running average (what is exported) and the optimiser.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import FRAME_CLASSES, Batch, Kind, Mixer
from network import Nano
from sentences import SEED
from synthesise import read_corpus
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, Dataset

PEAK_RATE = 2e-3
AVERAGING = 0.995
WORKERS = 2
"""Processes of one thread each: on a busy machine they lose less time than one process of two threads."""


def kind(step: int, steps: int) -> Kind:
    """Return what step `step` trains on: single words first, then sentences, then more and more of them in one clip."""
    lot = step * 7919 % 100 / 100
    if step < 500:
        return "first"
    if step < 0.35 * steps:
        return "short" if lot < 0.8 else "medium" if lot < 0.9 else "long" if lot < 0.95 else "full"
    return "short" if lot < 0.3 else "medium" if lot < 0.65 else "long" if lot < 0.83 else "full"


def rate(step: int, steps: int) -> float:
    """Return the learning rate: warm-up, plateau, and a fall to nothing over the last 45 %."""
    falling = (steps - step) / (0.45 * steps)
    return PEAK_RATE * min(1.0, (step + 1) / 300, max(0.01, falling))


class Steps(Dataset[Batch]):
    """The batches of one worker, for its loader process."""

    def __init__(self, mixer: Mixer, first: int, steps: int, worker: int) -> None:
        self._mixer, self._first, self._steps, self._worker = mixer, first, steps, worker

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> Batch:
        step = self._first + index
        return self._mixer.batch(step * WORKERS + self._worker, kind(step, self._steps))


def guidance(attention: list[Tensor], looks: Tensor) -> Tensor:
    """Return how little attention lies where it should, in one head of the first and one of the last decoder layer.

    The last layer should listen to the word it is about to write, the first to the word that was written just before.
    """
    row, position, first, last = looks.unbind(1)
    frame = torch.arange(attention[0].shape[3])
    inside = (frame >= first[:, None]) & (frame < last[:, None])
    written = position + 1 < attention[0].shape[2]
    before = attention[0][row[written], 0, position[written] + 1]
    now = attention[-1][row, 0, position]
    return _missed(now, inside) + 0.5 * _missed(before, inside[written])


def _missed(weights: Tensor, inside: Tensor) -> Tensor:
    return -(weights * inside).sum(1).clamp(min=1e-4).log().mean()


def losses(model: Nano, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the losses of tokens, guided attention and frames, and the share of tokens predicted right."""
    chosen = batch.targets >= 0
    output = model(batch.features, batch.tokens, chosen)
    wanted = batch.targets[chosen]
    frames = F.cross_entropy(output.frames.flatten(0, 1), batch.frames.flatten(), ignore_index=-1)
    right = (output.logits.argmax(1) == wanted).float().mean()
    return F.cross_entropy(output.logits, wanted), guidance(output.attention, batch.looks), frames, right


def share(gradients: list[Tensor]) -> None:
    """Replace the gradients by their mean over the workers."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= WORKERS
    for gradient, mean in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def work(worker: int, options: argparse.Namespace) -> None:
    """Train as one of the workers, which keep the same weights; the first writes them down."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    meeting = f"file://{(options.run / 'meeting').resolve()}"
    distributed.init_process_group("gloo", init_method=meeting, rank=worker, world_size=WORKERS)
    model = Nano(1 + len(FRAME_CLASSES), dropout=0.0)
    average = copy.deepcopy(model).eval()
    trained: list[Tensor] = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    step, last = 0, options.run / "last.pt"
    if last.exists():
        state = torch.load(last)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    torch.manual_seed(SEED + WORKERS * step + worker)

    averaged: list[Tensor] = [value for value in average.parameters() if value.requires_grad]
    steps = Steps(Mixer(read_corpus(options.corpus)), step, options.steps, worker)
    started, totals = time.monotonic(), torch.zeros(4)
    for batch in DataLoader(steps, batch_size=None, num_workers=1):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, options.steps)
        tokens, looking, frames, right = losses(model, batch)
        hint = 0.5 if step < 0.8 * options.steps else 0.2
        torch.autograd.backward(tokens + hint * (looking + frames))
        share([value.grad for value in trained if value.grad is not None])
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, trained, 1 - min(AVERAGING, step / (step + 10)))
            totals += torch.stack([tokens, looking, frames, right])
        if worker > 0:
            continue
        if step % 50 == 0:
            values = " ".join(f"{value:.3f}" for value in (totals / 50).tolist())
            print(f"{step} {values} {(time.monotonic() - started) / 50:.2f} s/step", flush=True)
            started, totals = time.monotonic(), torch.zeros(4)
        if step % 250 == 0 or step == options.steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "step": step}
            torch.save(state | {"optimiser": optimiser.state_dict()}, last.with_suffix(".new"))
            os.replace(last.with_suffix(".new"), last)


def main() -> None:
    """Train, from the last checkpoint where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=3500)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    (options.run / "meeting").unlink(missing_ok=True)
    spawn(work, args=(options,), nprocs=WORKERS)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
