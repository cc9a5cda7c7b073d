"""How do Whisper's rules get into vLLM's sampler? One class for the two interfaces that vLLM has for it.

The model runner of today (V2, GPUs) keeps every request in a numbered slot and its tokens on the device; the older one
(V1, still the only one for CPUs) keeps lists in the order of the batch and says what moved. Either way the tokens
become a `History`, and `engine.backends.vllm.inside.rules` does the rest. An installed processor has to serve whichever
runner vLLM chooses, so both interfaces are on `WhisperLogits`: they differ in their arguments, and share no state.

Interfaces: `vllm/v1/worker/gpu/sample/logits_processor/interface.py`, `vllm/v1/sample/logits_processor/interface.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from engine.backends.vllm.inside.entry_points import refuse_foreign_plugins
from engine.backends.vllm.inside.rules import Checkpoint, History, Rules, Tensor

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState


class WhisperLogits(LogitsProcessor):  # type: ignore[misc]  # vLLM is not installed here
    """Applies Whisper's decoding rules to Whisper, and nothing to any other model."""

    def __init__(self, vllm_config: VllmConfig, where: Any, is_pin_memory: bool | None = None) -> None:
        """where: the device (V1, which also says whether memory is pinned), or the requests' state (V2)."""
        # Once more: a plugin by our name may have taken the place of `engine.backends.vllm.inside.plugin.register`.
        refuse_foreign_plugins()
        self._listed: ListedRequests | None = None
        self._stored: StoredRequests | None = None
        self._rules: Rules | None = None
        config = vllm_config.model_config
        if config.hf_config.model_type != "whisper":
            return
        checkpoint = Checkpoint.read(Path(config.model))
        slots, device = vllm_config.scheduler_config.max_num_seqs, where
        if is_pin_memory is None:
            self._stored = StoredRequests(checkpoint, where, max_length=config.max_model_len)
            slots, device = where.max_num_reqs, where.device
        elif vllm_config.scheduler_config.async_scheduling:
            raise ValueError("this model runner tells a logits processor no tokens under --async-scheduling")
        else:
            self._listed = ListedRequests(checkpoint, slots=slots, max_length=config.max_model_len)
        self._rules = Rules(checkpoint, vocabulary=config.get_vocab_size(), slots=slots, device=device)

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """Change the logits of a step, in place. ctx: which request each row belongs to (V2)."""
        if self._rules is not None:
            if self._listed is not None:
                self._rules.apply(logits, self._listed.history(logits.device))
            elif self._stored is not None and ctx is not None:
                self._rules.apply(logits, self._stored.history(ctx))
        return logits

    # --- V2

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Note a request that enters a slot; say whether its logits are changed."""
        if self._stored is None:
            return False
        self._stored.add(req_idx, sampling_params)
        return True

    def apply_staged_writes(self) -> None:
        """Bring what was noted to the device."""
        if self._stored is not None and self._rules is not None:
            self._rules.forget(self._stored.flush())

    # --- V1

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch: who left, who came, who moved."""
        if self._listed is not None and self._rules is not None and batch_update is not None:
            self._rules.forget(self._listed.update(batch_update))


class StoredRequests:
    """Requests in the slots of the V2 runner, read on the device."""

    def __init__(self, checkpoint: Checkpoint, state: LogitsProcRequestState, *, max_length: int) -> None:
        self._ids = checkpoint
        self._state = state
        self._max_length = max_length
        self._limits = torch.zeros(state.max_num_reqs, dtype=torch.int64, device=state.device)
        self._new: dict[int, int] = {}

    def add(self, slot: int, params: SamplingParams) -> None:
        self._new[slot] = self._max_length if params.max_tokens is None else params.max_tokens

    def flush(self) -> list[int]:
        """Bring what was added to the device; return the slots that have new occupants."""
        slots, limits = list(self._new), list(self._new.values())
        if slots:
            device = self._limits.device
            self._limits[torch.tensor(slots, device=device)] = torch.tensor(limits, device=device)
        self._new.clear()
        return slots

    def history(self, ctx: LogitsContext) -> History:
        slot = ctx.expanded_idx_mapping.long()
        prompt = self._state.prompt_len.gpu[slot].long()
        return history_of(
            self._state.all_token_ids.gpu[slot].long(),
            slot=slot,
            prompt=prompt,
            total=self._state.total_len.gpu[slot].long(),
            limit=torch.minimum(self._limits[slot], self._max_length - prompt),
            checkpoint=self._ids,
        )


def history_of(
    tokens: Tensor, *, slot: Tensor, prompt: Tensor, total: Tensor, limit: Tensor, checkpoint: Checkpoint
) -> History:
    """Read the histories of rows whose tokens, prompt first, stand in `tokens` (rows by positions).

    prompt, total: how many tokens are the prompt's, and how many there are. limit: how many a row may write.
    """

    def token(position: Tensor) -> Tensor:
        return tokens.gather(1, position.clamp(min=0)[:, None])[:, 0]

    position = torch.arange(tokens.shape[1], device=tokens.device)
    written = (position >= prompt[:, None]) & (position < total[:, None])
    timestamps = tokens.masked_fill(~written | (tokens < checkpoint.first_timestamp), -1)
    return History(
        wants=checkpoint.wants(token(prompt - 2), token(prompt - 1)),
        slot=slot,
        count=total - prompt,
        remaining=limit - (total - prompt),
        last=token(total - 1),
        before_last=token(total - 2),
        newest_timestamp=timestamps.amax(1),
    )


@dataclass(slots=True)
class Listed:
    """A request in the batch of the V1 runner. written: its output, a list that the runner appends to."""

    wants: int
    slot: int
    limit: int
    written: list[int]


class ListedRequests:
    """Requests in the order of the V1 runner's batch."""

    def __init__(self, checkpoint: Checkpoint, *, slots: int, max_length: int) -> None:
        self._ids = checkpoint
        self._max_length = max_length
        self._free = list(range(slots))
        self._rows: dict[int, Listed] = {}

    def update(self, change: BatchUpdate) -> list[int]:
        """Follow a change of the batch, in the interface's order; return the slots that have new occupants."""
        for row in change.removed:
            self._drop(row)
        new = []
        for row, params, prompt, written in change.added:
            self._drop(row)
            self._rows[row] = self._request(params, prompt or [], written)
            new.append(self._rows[row].slot)
        for source, target, direction in change.moved:
            moving, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moving is not None:
                self._rows[target] = moving
            if replaced is not None and direction.name == "SWAP":
                self._rows[source] = replaced
            elif replaced is not None:
                self._free.append(replaced.slot)
        return new

    def history(self, device: torch.device) -> History:
        """The history of rows 0, 1, 2, ... of the batch."""
        rows = [self._rows[row] for row in range(len(self._rows))]
        columns = zip(*map(self._read, rows), strict=True)
        return History(*(torch.tensor(column, dtype=torch.int64, device=device) for column in columns))

    def _read(self, row: Listed) -> tuple[int, int, int, int, int, int, int]:
        written, count = row.written, len(row.written)
        first = self._ids.first_timestamp
        return (
            row.wants,
            row.slot,
            count,
            row.limit - count,
            written[-1] if count else -1,
            written[-2] if count > 1 else -1,
            next((token for token in reversed(written) if token >= first), -1),
        )

    def _request(self, params: SamplingParams, prompt: list[int], written: list[int]) -> Listed:
        room = self._max_length - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        before_last, last = torch.tensor([-1, -1, *prompt[-2:]])[-2:]
        return Listed(int(self._ids.wants(before_last, last)), self._free.pop(), limit, written)

    def _drop(self, row: int) -> None:
        gone = self._rows.pop(row, None)
        if gone is not None:
            self._free.append(gone.slot)
