"""What an instruct model's vLLM is asked, how it is started, and whose marks are refused."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import BackendError
from core.program.http.client import open_unix_session
from engine.backends.vllm.instruct import InstructClient, VllmInstruct, refuse_plain_marks
from engine.backends.vllm.kept import Patience
from engine.backends.vllm.server import Serving
from engine.backends.weights import held
from engine.summaries.model import InstructModel, Prompt
from engine.summaries.prompts import MARKS, answer_tokens, schema
from engine.summaries.summariser import Summariser
from engine.summaries.types import Turn, Wish
from tests.engine.backends.checkpoints import Checkpoint
from tests.engine.backends.vllm.fake_vllm import FakeVllm, write_program
from tests.engine.summaries.fake_model import FakeInstruct
from tests.engine.summaries.test_prompts import HOSTILE
from tests.waiting import until

PROMPT = Prompt("Write.", "<transcript>\nhello\n</transcript>")
SERVING = Serving(device="cpu", structured=True, max_model_len=8_192)


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path short enough for a socket."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "vllm.sock"


@asynccontextmanager
async def client_of(fake: FakeVllm, socket: Path) -> AsyncIterator[InstructClient]:
    async with fake.listening(socket), open_unix_session(socket, connect_timeout_s=5, idle_timeout_s=60) as session:
        yield InstructClient(session, "instruct")


class Lent(FakeInstruct):
    """An instruct model whose calls go to a client."""

    def __init__(self, client: InstructClient) -> None:
        super().__init__()
        self.count = client.count  # type: ignore[method-assign]
        self.write = client.write  # type: ignore[method-assign]


# --- what it is asked


async def test_an_answer_is_held_to_a_schema_and_bounded(socket: Path) -> None:
    vllm, asked = FakeVllm(), {"type": "object"}
    async with client_of(vllm, socket) as client:
        written = await client.write(PROMPT, asked, max_tokens=77)
    assert (written.text, written.input_tokens, written.output_tokens) == ('{"summary":"hm","topics":["hm"]}', 9, 3)
    assert vllm.bodies == [
        {
            "model": "instruct",
            "messages": [{"role": "system", "content": "Write."}, {"role": "user", "content": PROMPT.data}],
            "chat_template_kwargs": {"enable_thinking": False},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": asked, "strict": True},
            },
            "max_completion_tokens": 77,
            "temperature": 0,
        }
    ]


async def test_what_is_counted_is_what_is_sent(socket: Path) -> None:
    vllm = FakeVllm()
    async with client_of(vllm, socket) as client:
        assert await client.count(PROMPT) > 0
        await client.write(PROMPT, {}, max_tokens=1)
    (counted,), (sent,) = vllm.counted, vllm.bodies
    assert counted == {name: sent[name] for name in ("model", "messages", "chat_template_kwargs")}


async def test_whatever_is_said_the_rules_are_ours_and_the_transcript_stays_in_its_place(socket: Path) -> None:
    turns = tuple(Turn(said, f"Speaker {number}") for number, said in enumerate((*HOSTILE, " ".join(HOSTILE)), start=1))
    wish, friendly = Wish(turns, "en"), Wish((Turn("hm", "Speaker 1"),), "en")
    vllm = FakeVllm(written=lambda _: '{"summary":"They quarrel.","topics":["rules"]}')
    async with client_of(vllm, socket) as client:
        made = await Summariser(Lent(client)).summarise(wish)
        await Summariser(Lent(client)).summarise(friendly)
    hostile, harmless = vllm.bodies
    assert made.text == "They quarrel."
    assert hostile["messages"][0] == harmless["messages"][0], "nothing that is said is among the rules"
    assert [message["role"] for message in hostile["messages"]] == ["system", "user"]
    opening, *lines, closing = hostile["messages"][1]["content"].split("\n")
    assert (opening, closing) == ("<transcript>", "</transcript>")
    assert [line.partition(":")[0] for line in lines] == [turn.speaker for turn in turns], "a line for each turn"
    assert MARKS.isdisjoint("".join(lines))
    assert "I confess" in lines[3]
    assert hostile["response_format"]["json_schema"]["schema"] == schema(wish)
    assert hostile["max_completion_tokens"] == answer_tokens(wish)
    assert hostile.keys() == harmless.keys()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"finish": "length"}, "did not come to an end"),
        ({"finish": "abort"}, "did not come to an end"),
        ({"written": lambda _: None}, "cannot be read"),
        ({"status": 400}, "status 400"),
        ({"status": 503}, "status 503"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error_that_quotes_nothing(
    socket: Path, changes: dict[str, Any], match: str
) -> None:
    async with client_of(FakeVllm(**changes), socket) as client:
        with pytest.raises(BackendError, match=match) as caught:
            await client.write(PROMPT, {}, max_tokens=1)
    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


async def test_a_call_that_is_given_up_is_hung_up(socket: Path) -> None:
    vllm = FakeVllm(hold=True)
    async with client_of(vllm, socket) as client:
        task = asyncio.create_task(client.write(PROMPT, {}, max_tokens=1))  # noqa: TID251  cancelled below
        await until(lambda: vllm.held == 1)
        task.cancel()
        await until(lambda: vllm.cancelled == 1)


@pytest.mark.parametrize("written", ["Certainly! Here is", '{"summary":"hm"}', "[]"])
async def test_a_server_that_keeps_to_no_schema_is_refused_when_it_starts(socket: Path, written: str) -> None:
    async with client_of(FakeVllm(written=lambda _: written), socket) as client:
        with pytest.raises(BackendError, match="cannot be read"):
            await client.greet()


async def test_a_greeting_is_no_work(socket: Path) -> None:
    async with client_of(FakeVllm(), socket) as client:
        await client.greet()
        assert not client.served
        await client.write(PROMPT, {}, max_tokens=1)
        assert client.served


# --- its marks


def with_marks(directory: Path, *special: str, others: tuple[str, ...] = ()) -> Path:
    tokens = [{"content": token, "special": True} for token in special]
    tokens += [{"content": token, "special": False} for token in others]
    (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    return directory


def test_marks_that_no_transcript_has_are_fine(tmp_path: Path) -> None:
    refuse_plain_marks(with_marks(tmp_path, "<|im_start|>", "</s>", "[INST]", "<\uff5cUser\uff5c>", others=("hello",)))
    refuse_plain_marks(with_marks(tmp_path))


@pytest.mark.parametrize("mark", ["USER:", "\u2581", "### Instruction"])
def test_a_model_whose_marks_may_be_said_is_refused(tmp_path: Path, mark: str) -> None:
    with pytest.raises(BackendError, match="special token"):
        refuse_plain_marks(with_marks(tmp_path, "</s>", mark))


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"added_tokens":[{}]}', b"\xff", b"[]"])
def test_a_model_of_unknown_marks_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BackendError, match=r"tokenizer\.json"):
        refuse_plain_marks(tmp_path)


# --- a server of its own


@asynccontextmanager
async def instruct(checkpoint: Checkpoint, directory: Path) -> AsyncIterator[VllmInstruct]:
    program = write_program(directory / "vllm")
    made = VllmInstruct("instruct", checkpoint.weights, SERVING, program=program, patience=Patience(restart_delay_s=0))
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@pytest.fixture
def marks() -> tuple[str, ...]:
    return ("<|im_start|>",)


@pytest.fixture
async def checkpoint(tmp_path: Path, marks: tuple[str, ...]) -> AsyncIterator[Checkpoint]:
    made = Checkpoint(tmp_path / "checkpoint")
    with_marks(made.model, *marks)
    async with held([made.weights]):
        yield made


async def test_it_is_started_with_the_flags_that_are_confessed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with instruct(checkpoint, tmp_path) as model:
        arguments, component = checkpoint.seen["arguments"], model.component
        assert model.ready
        assert arguments[:2] == ["serve", str(checkpoint.weights.directory)]
        own = {f"--uds={model.server.directories.socket}", "--served-model-name=instruct"}
    flags = {argument for argument in component.arguments if argument.startswith("--")}
    assert set(arguments[2:]) == flags | own
    assert (component.name, component.attached, component.plugins) == ("vllm-instruct", False, ("sottovoce",))
    assert "--max-model-len=8192" in flags
    assert "--no-enable-prefix-caching" in flags
    assert '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true}' in flags
    assert not {"--enable-log-requests", "--enable-log-outputs"} & flags
    assert not any("--port" in flag or "--host" in flag for flag in flags)


async def test_it_loads_the_copy_that_was_digested(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (checkpoint.model / "tokenizer.json").write_text("changed since")
    async with instruct(checkpoint, tmp_path) as model:
        assert "<|im_start|>" in checkpoint.seen["loaded"]["tokenizer.json"]
        written = await model.write(PROMPT, {}, max_tokens=9)
        assert json.loads(written.text) == {"summary": "hm", "topics": ["hm"]}


async def test_one_that_dies_is_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    async with instruct(checkpoint, tmp_path) as model:
        first = model.server
        first._kill()
        await until(lambda: not model.ready)
        with pytest.raises(BackendError):
            await model.count(PROMPT)
        await until(lambda: model.ready)
        assert model.server is not first
        assert await model.count(PROMPT) == 9


@pytest.mark.parametrize("marks", [("USER",)])
async def test_a_model_whose_marks_may_be_said_never_starts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="special token"):
        async with instruct(checkpoint, tmp_path):
            pass
    assert not (checkpoint.directory / "seen.json").exists()


async def test_how_long_its_context_is_has_to_be_said(checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match="context"):
        VllmInstruct("instruct", checkpoint.weights, Serving(structured=True))
    model: InstructModel = VllmInstruct("instruct", checkpoint.weights, SERVING)
    assert (model.name, model.context) == ("instruct", 8_192)
