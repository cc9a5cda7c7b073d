"""Which token may come next? Whisper's decoding rules, for all rows of a batch at once.

OpenAI's `whisper/decoding.py`: `SuppressBlank`, `SuppressTokens` and `ApplyTimestampRules`, the numbers from the
checkpoint's `generation_config.json`. vLLM applies none of them. Two rules are ours:

- **Every segment is closed.** vLLM drops what stands behind the last timestamp. Where the model would end inside a
  segment, the likeliest timestamp takes over the probability of `<|endoftext|>`; the text stays as it was.
- **Languages and silence are reported.** The decoder is given `<|startoftranscript|>` alone and the probabilities of
  what follows are written down in tokens, since vLLM's transcription route returns nothing else: for `<|nospeech|>`,
  unless it is next to impossible, and for each of the likeliest languages its token, then twice the timestamp of 20 s
  times its probability. vLLM cuts that into "segments", with the token as text and the probability in the end. A
  language's is its share among languages, that of `<|nospeech|>` its share of all (OpenAI's `no_speech_prob`). Of a
  checkpoint for English, English is certain.

Pure: tensors in, tensors out, on whichever device they are, and no step waits for that device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from engine.backends.vllm.inside.prompt import TIMESTAMPS

Tensor: TypeAlias = torch.Tensor

REPORTED_LANGUAGES = 5
REPORTED_MASS = 0.99
"""No more languages are reported than it takes to hold so much of the probability; each costs three decoding steps."""

LEVELS = 1000
"""Timestamp number `LEVELS`, 20 s, stands for a probability of one."""

NEVER = float("-inf")


class Wants(IntEnum):
    """What a row's prompt asks for, seen from its last token."""

    TEXT = 0
    TIMESTAMPS = 1
    LANGUAGES = 2


class History(NamedTuple):
    """What each row has written so far; `rows` integers (int64) each, on the device of the logits.

    wants: a `Wants`.
    slot: the row's place in `Rules.reports`, its own for as long as the request lives.
    count: how many tokens it has written. remaining: how many it may still write, at least 1.
    last, before_last: the tokens written last; anything where there are none.
    newest_timestamp: the latest timestamp written, or -1.
    """

    wants: Tensor
    slot: Tensor
    count: Tensor
    remaining: Tensor
    last: Tensor
    before_last: Tensor
    newest_timestamp: Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The token numbers that the rules need, from `generation_config.json`."""

    end: int
    start: int
    no_timestamps: int
    max_initial_timestamp: int
    languages: tuple[int, ...]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    english_only: bool = False

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1

    @property
    def no_speech(self) -> int:
        """Right before `<|notimestamps|>` in every Whisper; older ones call it `<|nocaptions|>`."""
        return self.no_timestamps - 1

    @property
    def previous(self) -> int:
        """`<|startofprev|>`, right before `<|nospeech|>` in every Whisper."""
        return self.no_timestamps - 2

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Read a checkpoint's numbers. Raises OSError, KeyError, TypeError or ValueError."""
        config = json.loads((directory / "generation_config.json").read_text())
        end, start = config["eos_token_id"], int(config["decoder_start_token_id"])
        english_only = config.get("is_multilingual") is False
        no_timestamps = int(config["no_timestamps_token_id"])
        # Where no languages are named: in every Whisper they stand between the start, English first, and five others.
        languages = sorted(map(int, config.get("lang_to_id", {}).values())) or range(start + 1, no_timestamps - 5)
        return cls(
            end=int(end[0] if isinstance(end, list) else end),
            start=start,
            no_timestamps=no_timestamps,
            max_initial_timestamp=int(config.get("max_initial_timestamp_index") or 50),
            languages=(start + 1,) if english_only else tuple(languages),
            suppressed=tuple(map(int, config.get("suppress_tokens") or ())),
            suppressed_first=tuple(map(int, config.get("begin_suppress_tokens") or ())),
            english_only=english_only,
        )

    def wants(self, before_last: Tensor, last: Tensor) -> Tensor:
        """What prompts that end in these tokens ask for, as numbers of `Wants` (`prompt`)."""
        languages = last == self.start
        if self.english_only:
            languages &= before_last == self.previous
        return Wants.TIMESTAMPS - (last == self.no_timestamps).long() + languages.long()


class Rules:
    """The rules for one checkpoint on one device."""

    def __init__(self, checkpoint: Checkpoint, *, vocabulary: int, slots: int, device: torch.device) -> None:
        self._ids = checkpoint
        self._tokens = torch.arange(vocabulary, device=device)
        self._is_timestamp = self._tokens >= checkpoint.first_timestamp
        self._is_text = self._tokens < checkpoint.end
        # Between the end of text and the timestamps stand languages, tasks and other marks: never part of an answer.
        self._never = ~self._is_text & ~self._is_timestamp & (self._tokens != checkpoint.end)
        self._never |= self._tokens >= checkpoint.first_timestamp + TIMESTAMPS
        self._never |= self._is_one_of(checkpoint.suppressed)
        self._never_first = self._is_one_of(checkpoint.suppressed_first)
        self._languages = torch.tensor(checkpoint.languages, dtype=torch.int64, device=device)
        self._reported = min(REPORTED_LANGUAGES, len(checkpoint.languages))
        self._reports = torch.full((slots, 3 * (1 + self._reported) + 1), checkpoint.end, device=device)

    def apply(self, logits: Tensor, history: History) -> None:
        """Forbid in place what may not come next. logits: rows by vocabulary, float."""
        languages, silence = logits[:, self._languages], self._silence(logits)
        logits.masked_fill_(self._never, NEVER)
        logits.masked_fill_(_rows(history.count == 0) & self._never_first, NEVER)
        logits.masked_fill_(_rows(history.wants == Wants.TEXT) & self._is_timestamp, NEVER)
        self._apply_timestamps(logits, history)
        if self._reported:
            self._write_report(logits, self._report(languages, silence), history)

    def forget(self, slots: list[int]) -> None:
        """Clear what was kept for former requests in these slots. (A request that was put off, and then resumed in
        another slot, so reports no further languages.)"""
        if slots:
            self._reports[torch.tensor(slots, device=self._reports.device)] = self._ids.end

    def _is_one_of(self, tokens: tuple[int, ...]) -> Tensor:
        return torch.isin(self._tokens, torch.tensor(tokens, dtype=torch.int64, device=self._tokens.device))

    def _apply_timestamps(self, logits: Tensor, history: History) -> None:
        rows = history.wants == Wants.TIMESTAMPS
        logits.masked_fill_(_rows(rows) & self._out_of_order(history), NEVER)
        # If timestamps together are likelier than any one piece of text, a timestamp it is.
        first = self._ids.first_timestamp
        likelier = logits[:, first:].logsumexp(1) > logits[:, :first].amax(1)
        logits.masked_fill_(_rows(rows & likelier) & ~self._is_timestamp, NEVER)
        self._close_segments(logits, rows & (history.count > 0) & (history.last < first))

    def _out_of_order(self, history: History) -> Tensor:
        """Mark, per row, the tokens that would break the order of timestamps: in pairs, and never backwards."""
        first = self._ids.first_timestamp
        begins = history.count == 0
        after_timestamp = ~begins & (history.last >= first)
        opened = after_timestamp & ((history.count < 2) | (history.before_last >= first))
        closed = after_timestamp & ~opened
        in_text = ~begins & ~after_timestamp

        wrong = _rows(begins) & (~self._is_timestamp | (self._tokens > first + self._ids.max_initial_timestamp))
        wrong |= _rows(opened) & self._is_timestamp
        wrong |= _rows(closed) & self._is_text
        # A segment is not empty; the next may begin where it ends. `<|30.00|>` stays, so that any can be closed.
        earliest = history.newest_timestamp + (~closed).long()
        earliest = earliest.clamp(max=first + TIMESTAMPS - 1)
        wrong |= self._is_timestamp & (self._tokens < _rows(earliest))
        # The last token there is room for closes a segment, or at least opens none.
        last_chance = history.remaining <= 1
        wrong |= _rows(last_chance & in_text) & ~self._is_timestamp
        wrong |= _rows(last_chance & opened) & self._is_text
        return wrong

    def _close_segments(self, logits: Tensor, unfinished: Tensor) -> None:
        """Turn the end of the text into the likeliest timestamp, in the rows given."""
        first, end = self._ids.first_timestamp, self._ids.end
        likeliest = logits[:, first:].argmax(1, keepdim=True) + first
        here = logits.gather(1, likeliest)
        both = torch.logaddexp(here, logits[:, end : end + 1])
        logits.scatter_(1, likeliest, torch.where(_rows(unfinished), both, here))
        logits[:, end].masked_fill_(unfinished, NEVER)

    def _write_report(self, logits: Tensor, new: Tensor, history: History) -> None:
        rows = history.wants == Wants.LANGUAGES
        begins = rows & (history.count == 0)
        kept = self._reports[history.slot]
        report = torch.where(_rows(begins), new, kept)
        self._reports[history.slot] = report
        step = history.count.clamp(max=report.shape[1] - 1)
        forced = report.gather(1, _rows(step))
        logits.masked_fill_(_rows(rows), NEVER)
        logits.scatter_(1, forced, torch.where(_rows(rows), 0.0, logits.gather(1, forced)))

    def _silence(self, logits: Tensor) -> Tensor:
        """The probability of `<|nospeech|>` in each row."""
        return (logits[:, self._ids.no_speech].float() - logits.float().logsumexp(1)).exp()

    def _report(self, languages: Tensor, silence: Tensor) -> Tensor:
        """Write down silence and the likeliest languages of each row: token, timestamp, timestamp; behind them ends."""
        probabilities, order = languages.float().softmax(1).topk(self._reported, dim=1)
        token = self._languages[order]
        level = (probabilities * LEVELS).round().long() + self._ids.first_timestamp
        needed = probabilities.cumsum(1) - probabilities < REPORTED_MASS
        triples = torch.stack((token, level, level), dim=2).masked_fill(~needed[:, :, None], self._ids.end)
        report = torch.nn.functional.pad(triples.flatten(1), (0, 4), value=self._ids.end)
        heard = (silence * LEVELS).round().long()
        level = heard + self._ids.first_timestamp
        no_speech = torch.stack((torch.full_like(level, self._ids.no_speech), level, level), dim=1)
        return torch.where(_rows(heard > 0), torch.cat((no_speech, report[:, :-3]), dim=1), report)


def _rows(values: Tensor) -> Tensor:
    """Stand one value per row beside the vocabulary."""
    return values[:, None]
