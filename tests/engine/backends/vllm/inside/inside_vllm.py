"""What our plugin does, checked where vLLM and torch are installed: run by vLLM's own Python, without pytest.

`python inside_vllm.py CHECKPOINT` runs every `check_*` and prints, as JSON, what went wrong with each.
"""

from __future__ import annotations

import json
import math
import random
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from engine.backends.vllm.inside.entry_points import BY_NAME, REFUSAL
from engine.backends.vllm.inside.logits import ListedRequests, WhisperLogits, history_of
from engine.backends.vllm.inside.prompt import TIMESTAMPS, Wanted
from engine.backends.vllm.inside.rules import NEVER, REPORTED_LANGUAGES, Checkpoint, History, Rules, Wants

# A small vocabulary in Whisper's order: ten pieces of text, then what is special, then the timestamps.
TEXT = range(10)
BLANK, SUPPRESSED = 8, 9
END, START = 10, 11
LANGUAGES = tuple(range(12, 19))
TRANSCRIBE, NO_SPEECH, NO_TIMESTAMPS = 19, 20, 21
FIRST = 22
LAST = FIRST + TIMESTAMPS - 1
VOCABULARY = LAST + 1
SMALL = Checkpoint(
    end=END,
    start=START,
    no_timestamps=NO_TIMESTAMPS,
    max_initial_timestamp=50,
    languages=LANGUAGES,
    suppressed=(SUPPRESSED,),
    suppressed_first=(BLANK, END),
)
CPU = torch.device("cpu")
PROMPTS = {Wants.TEXT: NO_TIMESTAMPS, Wants.TIMESTAMPS: TRANSCRIBE, Wants.LANGUAGES: START}


def rules(checkpoint: Checkpoint = SMALL) -> Rules:
    return Rules(checkpoint, vocabulary=VOCABULARY, slots=4, device=CPU)


def history(wants: Wants, written: Sequence[int], *, remaining: int = 100, slot: int = 0) -> History:
    tokens = torch.tensor([[PROMPTS[wants], *written]])
    return history_of(
        tokens,
        slot=torch.tensor([slot]),
        prompt=torch.tensor([1]),
        total=torch.tensor([1 + len(written)]),
        limit=torch.tensor([len(written) + remaining]),
        checkpoint=SMALL,
    )


def applied(wants: Wants, written: Sequence[int], logits: Any = None, **options: int) -> Any:
    row = torch.zeros(1, VOCABULARY) if logits is None else logits.clone()
    rules().apply(row, history(wants, written, **options))
    return row[0]


def allowed(wants: Wants, *written: int, **options: int) -> set[int]:
    """What may come next if text and timestamps are equally likely, so that only order decides."""
    # One piece of text that outweighs all timestamps together keeps the rule of likelihood out of it.
    logits = torch.zeros(1, VOCABULARY)
    logits[:, : END + 1] = 20.0
    return {token for token, value in enumerate(applied(wants, written, logits, **options).tolist()) if value > NEVER}


def at(hundredths: int) -> int:
    """The timestamp of so many hundredths of a second."""
    return FIRST + hundredths // 2


SPOKEN = set(TEXT) - {SUPPRESSED}


def check_text_alone_has_no_timestamps_and_no_marks() -> None:
    assert allowed(Wants.TEXT, 3) == SPOKEN | {END}


def check_text_alone_begins_with_text() -> None:
    assert allowed(Wants.TEXT) == SPOKEN - {BLANK}


def check_the_first_token_is_an_early_timestamp() -> None:
    assert allowed(Wants.TIMESTAMPS) == set(range(FIRST, FIRST + 51))


def check_a_segment_that_was_opened_gets_text_or_is_the_end() -> None:
    assert allowed(Wants.TIMESTAMPS, at(10)) == SPOKEN | {END}
    assert allowed(Wants.TIMESTAMPS, at(10), 3, at(50), at(50)) == SPOKEN | {END}


def check_in_a_segment_only_later_timestamps_may_come() -> None:
    assert allowed(Wants.TIMESTAMPS, at(10), 3) == SPOKEN | set(range(at(12), LAST + 1))


def check_a_closed_segment_is_followed_by_a_timestamp_or_the_end() -> None:
    assert allowed(Wants.TIMESTAMPS, at(10), 3, at(50)) == {END, *range(at(50), LAST + 1)}


def check_a_segment_can_be_closed_at_the_very_end_of_the_window() -> None:
    assert LAST in allowed(Wants.TIMESTAMPS, LAST, 3)


def check_the_last_token_there_is_room_for_closes_the_segment() -> None:
    assert allowed(Wants.TIMESTAMPS, at(10), 3, remaining=1) == set(range(at(12), LAST + 1))
    assert allowed(Wants.TIMESTAMPS, at(10), remaining=1) == {END}


def check_a_timestamp_comes_if_all_together_are_likelier_than_any_text() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 3] = 7.0  # e^7 = 1097, fewer than the 1496 timestamps that may come
    assert applied(Wants.TIMESTAMPS, [at(10), 4], logits)[3] == NEVER
    logits[0, 3] = 7.5
    assert applied(Wants.TIMESTAMPS, [at(10), 4], logits)[3] > NEVER


def check_the_end_of_the_text_becomes_the_likeliest_timestamp() -> None:
    logits = torch.full((1, VOCABULARY), -30.0)
    logits[0, END], logits[0, 3], logits[0, at(70)] = 5.0, 4.0, -2.0
    before = logits.exp().sum()
    row = applied(Wants.TIMESTAMPS, [at(10), 4], logits)
    assert row[END] == NEVER
    assert row.argmax() == at(70)
    assert torch.isclose(row[at(70)].exp(), logits[0, END].exp() + logits[0, at(70)].exp())
    assert torch.isclose(row.exp().sum(), before)


def check_no_other_rows_end_is_touched() -> None:
    logits = torch.zeros(1, VOCABULARY)
    for wants, written in ((Wants.TEXT, [3]), (Wants.TIMESTAMPS, [at(10)])):
        assert applied(wants, written, logits + 20 * torch.eye(VOCABULARY)[END])[END] == 20


def check_random_decoding_always_gives_closed_segments_in_order() -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(60):
        written = _decode(generator, room=random.Random(seed).randrange(1, 40))
        assert written[0] >= FIRST
        times = [token for token in written if token >= FIRST]
        assert times == sorted(times)
        opened = True
        for before, token in pairwise(written):
            if token >= FIRST:
                opened = before >= FIRST
            else:
                assert opened or before < FIRST, "text stands inside a segment"
        assert written[-1] >= FIRST, "the text ends with a timestamp"


def _decode(generator: Any, room: int) -> list[int]:
    written: list[int] = []
    while len(written) < room:
        logits = 3 * torch.randn(1, VOCABULARY, generator=generator)
        logits[:, : END + 1] += 5.0
        rules().apply(logits, history(Wants.TIMESTAMPS, written, remaining=room - len(written)))
        token = int(torch.multinomial(logits.softmax(1), 1, generator=generator))
        if token == END:
            break
        written.append(token)
    return written


def check_languages_are_written_down_with_their_probabilities() -> None:
    same = rules()
    written: list[int] = []
    logits = torch.full((1, VOCABULARY), 9.0)
    shares = [0.02, 0.9, 0.05, 0.01, 0.01, 0.005, 0.005]
    logits[0, list(LANGUAGES)] = torch.tensor(shares).log()
    logits[0, NO_SPEECH] = -9.0
    for _ in range(3 * REPORTED_LANGUAGES + 1):
        step = logits.clone() if not written else torch.randn(1, VOCABULARY)
        same.apply(step, history(Wants.LANGUAGES, written))
        assert (step > NEVER).sum() == 1, "every token is forced"
        written.append(int(step.argmax()))
    best, second, third = LANGUAGES[1], LANGUAGES[2], LANGUAGES[0]
    triples = [best, FIRST + 900, FIRST + 900, second, FIRST + 50, FIRST + 50, third, FIRST + 20, FIRST + 20]
    assert written[:9] == triples
    assert written[9] in (END, LANGUAGES[3], LANGUAGES[4]), "after 0.97 of the probability, one more"
    assert written[-1] == END


def check_silence_is_written_down_before_the_languages() -> None:
    for share, report in ((0.25, [NO_SPEECH, FIRST + 250, FIRST + 250]), (0.0004, [])):
        same = rules()
        logits = torch.full((1, VOCABULARY), NEVER)
        logits[0, LANGUAGES[2]], logits[0, NO_SPEECH] = math.log(1 - share), math.log(share)
        written: list[int] = []
        while END not in written:
            step = torch.randn(1, VOCABULARY) if written else logits.clone()
            same.apply(step, history(Wants.LANGUAGES, written))
            written.append(int(step.argmax()))
        assert written == [*report, LANGUAGES[2], FIRST + 1000, FIRST + 1000, END]


def check_the_checkpoint_calls_silence_by_the_token_that_is_reported() -> None:
    from vllm.tokenizers import get_tokenizer

    token = Checkpoint.read(Path(sys.argv[1])).no_speech
    assert get_tokenizer(sys.argv[1]).convert_ids_to_tokens(token) == "<|nospeech|>"


def check_a_language_that_is_certain_is_reported_alone() -> None:
    same = rules()
    logits = torch.zeros(1, VOCABULARY)
    logits[0, LANGUAGES[4]] = 30.0
    same.apply(logits, history(Wants.LANGUAGES, []))
    written = [int(logits.argmax())]
    for _ in range(3):
        step = torch.randn(1, VOCABULARY)
        same.apply(step, history(Wants.LANGUAGES, written))
        written.append(int(step.argmax()))
    assert written == [LANGUAGES[4], FIRST + 1000, FIRST + 1000, END]


def check_a_new_request_in_a_slot_hears_nothing_of_the_last() -> None:
    same = rules()
    same.apply(torch.randn(1, VOCABULARY), history(Wants.LANGUAGES, [], slot=2))
    same.forget([2])
    step = torch.randn(1, VOCABULARY)
    same.apply(step, history(Wants.LANGUAGES, [LANGUAGES[0]], slot=2))
    assert step.argmax() == END


def check_rows_of_a_batch_do_not_touch_each_other() -> None:
    cases = [
        (Wants.TEXT, [3]),
        (Wants.TIMESTAMPS, [at(10), 3]),
        (Wants.LANGUAGES, []),
        (Wants.TIMESTAMPS, [at(10), 3, at(20)]),
    ]
    logits = torch.randn(4, VOCABULARY)
    alone = [applied(wants, written, logits[row : row + 1], slot=row) for row, (wants, written) in enumerate(cases)]
    columns = zip(*(history(wants, written, slot=row) for row, (wants, written) in enumerate(cases)), strict=True)
    together = logits.clone()
    rules().apply(together, History(*(torch.cat(column) for column in columns)))
    assert torch.equal(together, torch.stack(alone))


ENGLISH = replace(SMALL, languages=(START + 1,), english_only=True)


def check_of_a_checkpoint_for_english_it_is_certain_and_silence_is_reported() -> None:
    same = rules(ENGLISH)
    logits = torch.full((1, VOCABULARY), NEVER)
    logits[0, list(LANGUAGES)] = math.log(0.75 / len(LANGUAGES))
    logits[0, NO_SPEECH] = math.log(0.25)
    written: list[int] = []
    while END not in written:
        step = torch.randn(1, VOCABULARY) if written else logits.clone()
        same.apply(step, history(Wants.LANGUAGES, written))
        written.append(int(step.argmax()))
    assert written == [NO_SPEECH, FIRST + 250, FIRST + 250, START + 1, FIRST + 1000, FIRST + 1000, END]


def check_the_prompts_for_english_are_told_apart_by_both_runners() -> None:
    cases = {
        (NO_TIMESTAMPS - 2, START): Wants.LANGUAGES,
        (START,): Wants.TIMESTAMPS,
        (NO_TIMESTAMPS - 2, 3, START): Wants.TIMESTAMPS,
        (START, NO_TIMESTAMPS): Wants.TEXT,
        (NO_TIMESTAMPS - 2, 3, START, NO_TIMESTAMPS): Wants.TEXT,
    }
    listed = ListedRequests(ENGLISH, slots=8, max_length=20)
    listed.update(change(new=[added(row, list(prompt), []) for row, prompt in enumerate(cases)]))
    assert listed.history(CPU).wants.tolist() == list(cases.values())
    for prompt, wants in cases.items():
        tokens, length = torch.tensor([[*prompt, LAST]]), torch.tensor([len(prompt)])
        ours = {"slot": length, "prompt": length, "total": length, "limit": length}
        assert history_of(tokens, **ours, checkpoint=ENGLISH).wants.item() == wants


def _read(**changes: Any) -> Checkpoint:
    """The numbers of the checkpoint with some of them changed, or left out where None."""
    config = json.loads((Path(sys.argv[1]) / "generation_config.json").read_text()) | changes
    with TemporaryDirectory() as directory:
        changed = {name: value for name, value in config.items() if value is not None}
        (Path(directory) / "generation_config.json").write_text(json.dumps(changed))
        return Checkpoint.read(Path(directory))


def check_a_checkpoint_for_english_has_one_language() -> None:
    own = Checkpoint.read(Path(sys.argv[1]))
    assert _read() == own
    assert not own.english_only
    english = _read(is_multilingual=False, lang_to_id=None)
    assert english == replace(own, languages=own.languages[:1], english_only=True)


def check_a_checkpoint_that_names_no_languages_has_those_of_its_layout() -> None:
    assert _read(lang_to_id=None) == _read(lang_to_id={}) == Checkpoint.read(Path(sys.argv[1]))


def check_the_token_before_a_text_is_where_it_is_looked_for() -> None:
    from vllm.tokenizers import get_tokenizer

    token = Checkpoint.read(Path(sys.argv[1])).previous
    assert get_tokenizer(sys.argv[1]).convert_ids_to_tokens(token) == "<|startofprev|>"


def check_a_checkpoint_without_languages_is_served_as_well() -> None:
    logits = torch.zeros(1, VOCABULARY)
    rules(replace(SMALL, languages=())).apply(logits, history(Wants.TEXT, []))
    assert logits[0, 3] == 0


# --- where the tokens come from


def added(row: int, prompt: list[int], written: list[int], max_tokens: int | None = None) -> Any:
    return row, SimpleNamespace(max_tokens=max_tokens), prompt, written


def change(*, removed: Any = (), new: Any = (), moved: Any = ()) -> Any:
    return SimpleNamespace(
        removed=removed,
        added=new,
        moved=[(source, target, SimpleNamespace(name=name)) for source, target, name in moved],
    )


def check_both_runners_tokens_give_the_same_history() -> None:
    cases = [([7, NO_TIMESTAMPS], [3, 4]), ([START], []), ([START, 12, TRANSCRIBE], [at(4), 3, at(9), at(9), 5])]
    listed = ListedRequests(SMALL, slots=8, max_length=20)
    slots = listed.update(change(new=[added(row, prompt, written, 10) for row, (prompt, written) in enumerate(cases)]))
    tokens = torch.zeros(3, 20, dtype=torch.int64)
    for row, (prompt, written) in enumerate(cases):
        tokens[row, : len(prompt) + len(written)] = torch.tensor(prompt + written)
        tokens[row, len(prompt) + len(written) :] = LAST  # what a former occupant of the slot left behind
    prompts = torch.tensor([len(prompt) for prompt, _ in cases])
    stored = history_of(
        tokens,
        slot=torch.tensor(slots),
        prompt=prompts,
        total=prompts + torch.tensor([len(written) for _, written in cases]),
        limit=torch.minimum(torch.tensor([10]), 20 - prompts),
        checkpoint=SMALL,
    )
    from_lists = listed.history(CPU)
    for name in ("wants", "slot", "count", "remaining", "newest_timestamp"):
        assert torch.equal(getattr(stored, name), getattr(from_lists, name)), name
    for name, least in (("last", 1), ("before_last", 2)):
        known = stored.count >= least
        assert torch.equal(getattr(stored, name)[known], getattr(from_lists, name)[known]), name


def check_requests_are_followed_through_the_batch() -> None:
    listed = ListedRequests(SMALL, slots=3, max_length=20)
    slots = listed.update(change(new=[added(row, [START], [row]) for row in range(3)]))
    assert sorted(slots) == [0, 1, 2]
    listed.update(change(moved=[(0, 2, "SWAP")]))
    assert listed.history(CPU).last.tolist() == [2, 1, 0]
    assert listed.history(CPU).slot.tolist() == [slots[2], slots[1], slots[0]]
    listed.update(change(removed=[1], moved=[(2, 1, "UNIDIRECTIONAL")]))
    assert listed.history(CPU).last.tolist() == [2, 0]
    [slot] = listed.update(change(new=[added(0, [START], [7])]))
    assert listed.history(CPU).last.tolist() == [7, 0]
    assert slot != slots[0], "still in use"
    assert listed.update(change(new=[added(2, [START], [8])]))[0] not in listed.history(CPU).slot.tolist()[:2]


def check_a_request_may_write_no_more_than_there_is_room_for() -> None:
    listed = ListedRequests(SMALL, slots=2, max_length=20)
    listed.update(change(new=[added(0, [START] * 15, []), added(1, [START] * 15, [], 3)]))
    assert listed.history(CPU).remaining.tolist() == [5, 3]


class Slots:
    """The V2 runner's state, on the CPU."""

    def __init__(self, tokens: list[list[int]], prompts: list[int]) -> None:
        rows = torch.zeros(len(tokens), 20, dtype=torch.int32)
        for row, values in enumerate(tokens):
            rows[row, : len(values)] = torch.tensor(values, dtype=torch.int32)
        self.device, self.max_num_reqs, self.vocab_size = CPU, len(tokens), VOCABULARY
        self.all_token_ids = SimpleNamespace(gpu=rows)
        self.prompt_len = SimpleNamespace(gpu=torch.tensor(prompts, dtype=torch.int32))
        self.total_len = SimpleNamespace(gpu=torch.tensor([len(values) for values in tokens], dtype=torch.int32))


def configuration(**model: Any) -> Any:
    defaults = {
        "model": sys.argv[1],
        "hf_config": SimpleNamespace(model_type="whisper"),
        "max_model_len": 20,
        "get_vocab_size": lambda: Checkpoint.read(Path(sys.argv[1])).first_timestamp + TIMESTAMPS,
    }
    return SimpleNamespace(
        model_config=SimpleNamespace(**defaults | model),
        scheduler_config=SimpleNamespace(max_num_seqs=4, async_scheduling=False),
    )


def check_both_runners_interfaces_apply_the_same_rules() -> None:
    checkpoint = Checkpoint.read(Path(sys.argv[1]))
    prompt, written = [checkpoint.start, 5], [checkpoint.first_timestamp + 5, 3]
    config = configuration()
    logits = torch.randn(1, config.model_config.get_vocab_size())

    older = WhisperLogits(config, CPU, False)
    older.update_state(change(new=[added(0, prompt, written)]))
    newer = WhisperLogits(config, Slots([[0], prompt + written], [1, 2]))
    assert newer.add_request(1, SimpleNamespace(max_tokens=None))
    newer.apply_staged_writes()

    by_older = older.apply(logits.clone())
    by_newer = newer.apply(logits.clone(), SimpleNamespace(expanded_idx_mapping=torch.tensor([1], dtype=torch.int32)))
    assert torch.equal(by_older, by_newer)
    assert not torch.equal(by_older, logits)


def check_other_models_are_left_alone() -> None:
    processor = WhisperLogits(configuration(hf_config=SimpleNamespace(model_type="llama")), CPU, False)
    logits = torch.randn(2, 9)
    processor.update_state(change(new=[added(0, [1], [])]))
    assert torch.equal(processor.apply(logits.clone()), logits)
    assert not processor.add_request(0, SimpleNamespace(max_tokens=1))


def check_tokens_that_are_not_told_are_not_guessed() -> None:
    config = configuration()
    config.scheduler_config.async_scheduling = True
    try:
        WhisperLogits(config, CPU, False)
    except ValueError:
        return
    raise AssertionError("the older runner tells no tokens under asynchronous scheduling")


def check_the_interfaces_are_vllms() -> None:
    from vllm.v1.sample.logits_processor import LogitsProcessor as Older
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Newer

    assert issubclass(WhisperLogits, Newer)
    assert {name for name in Older.__abstractmethods__ if not callable(getattr(WhisperLogits, name, None))} == set()


# --- the model


def check_vllm_finds_the_plugin() -> None:
    for group, attribute in (("vllm.general_plugins", "register"), ("vllm.logits_processors", "WhisperLogits")):
        [found] = [point for point in entry_points(group=group) if point.name == "sottovoce"]
        assert found.load().__name__ == attribute


def check_vllm_is_ended_by_a_logits_processor_that_is_not_ours() -> None:
    from vllm import plugins

    with TemporaryDirectory() as site:
        metadata = Path(site) / "other-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[vllm.logits_processors]\nother = other:Logits\n")
        sys.path.append(site)
        plugins.plugins_loaded = False
        try:
            plugins.load_general_plugins()
        except RuntimeError as error:
            ended_by = str(error)
        else:
            ended_by = "nothing"
        finally:
            sys.path.remove(site)
    assert ended_by == REFUSAL


def check_the_groups_vllm_filters_are_those_we_know() -> None:
    from vllm import plugins

    assert {value for name, value in vars(plugins).items() if name.endswith("_PLUGINS_GROUP")} == BY_NAME


def check_the_checkpoints_architecture_is_ours_once_registered() -> None:
    from vllm import ModelRegistry

    from engine.backends.vllm.inside.plugin import ARCHITECTURE, register

    register()
    register()
    assert ModelRegistry.models[ARCHITECTURE].module_name == "engine.backends.vllm.inside.model"


def prompt_of(directory: str = sys.argv[1], **fields: Any) -> list[str]:
    from vllm.config import ModelConfig
    from vllm.tokenizers import cached_tokenizer_from_config

    from engine.backends.vllm.inside.model import SottovoceWhisper

    config = ModelConfig(model=directory, dtype="float32")
    given = {"language": "en", "task_type": "transcribe", "request_prompt": "", "hotwords": None} | fields
    parameters = SimpleNamespace(
        audio=[0.0], stt_config=SimpleNamespace(sample_rate=16_000), model_config=config, **given
    )
    prompt = SottovoceWhisper.get_generation_prompt(parameters)["decoder_prompt"]
    assert "prompt" in prompt, "vLLM insists on it for verbose_json"
    names: list[str] = cached_tokenizer_from_config(config).convert_ids_to_tokens(prompt["prompt_token_ids"])
    return names


def check_the_prompt_begins_with_whispers_own_token() -> None:
    names = prompt_of(request_prompt="hello <|de|>")
    assert names[:2] == ["<|startofprev|>", "Ġhello"]
    assert "<|prev|>" not in names
    assert "<|de|>" not in names
    assert names[-4:] == ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def check_the_prompt_of_a_checkpoint_for_english_names_neither_language_nor_task() -> None:
    with TemporaryDirectory() as directory:
        for file in Path(sys.argv[1]).iterdir():
            (Path(directory) / file.name).symlink_to(file)
        own = Path(directory) / "generation_config.json"
        config = json.loads(own.read_text()) | {"is_multilingual": False}
        own.unlink()
        own.write_text(json.dumps(config))
        assert prompt_of(directory) == ["<|startoftranscript|>", "<|notimestamps|>"]
        assert prompt_of(directory, hotwords=Wanted.TIMESTAMPS.value) == ["<|startoftranscript|>"]


def check_vllm_puts_nothing_before_the_prompt() -> None:
    from vllm.inputs.engine import build_enc_dec_input, tokens_input

    from engine.backends.vllm.inside.model import SottovoceWhisper

    skip = SottovoceWhisper._processor_factory.processor.skip_decoder_start_token
    built = build_enc_dec_input(tokens_input([0]), tokens_input([5, START]), START, skip)
    assert built["decoder_prompt"]["prompt_token_ids"] == [5, START]


def check_a_language_vllm_does_not_know_has_its_token() -> None:
    from vllm.model_executor.models.whisper import ISO639_1_SUPPORTED_LANGS

    from engine.backends.vllm.inside.model import SottovoceWhisper

    assert "bn" not in ISO639_1_SUPPORTED_LANGS
    assert SottovoceWhisper.validate_language("bn") == "bn"
    assert prompt_of(language="bn", hotwords=Wanted.TIMESTAMPS.value)[-2:] == ["<|bn|>", "<|transcribe|>"]


def main() -> None:
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = ""
            except Exception:  # noqa: BLE001  whatever goes wrong is what the test shows
                results[name] = traceback.format_exc()
    sys.stdout.write("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
