"""What is promised of live sessions, by number. A test says with `@pytest.mark.behaviour(...)` which of it it shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

BEHAVIOURS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "`session.created` comes at once, with every member",
        2: "what known clients set up is in force",
        3: "an update keeps what it does not name, `null` sets back",
        4: "another kind of session is refused, and the session lives",
        5: "an app's event id is in its error alone; the server's ids are unique",
        6: "`?model=` is a default, and refused where nobody serves it",
        7: "keys in the header, in a subprotocol, and secrets open; two different keys are refused",
        8: "the answer to the upgrade names `realtime` alone, and no key",
        9: "a wrong key is told in the session, which closes with 3000",
        10: "a foreign page, or another host, is refused before the upgrade",
        11: "the older header or event switches the names throughout",
        12: "audio before the settings is heard",
        13: "every form of audio gives the same words",
        14: "it makes no difference how audio is cut",
        15: "half a sample is carried over, empty audio passed over, bad base64 one error",
        16: "more than 15 MiB at a time are refused",
        17: "99 ms are too little to commit, in OpenAI's words; 100 ms are not",
        18: "the order of a turn's events",
        19: "items are chained, the first to null",
        20: "`completed` comes once for each item, in order, with `usage` and `content_index`",
        21: "no text where nobody speaks",
        22: "`clear` forgets audio and looks; the next item is another",
        23: "times count from the first sample; start and stop share their item",
        24: "numbers of voice activity act, and are refused out of range",
        25: "a commit during speech ends the turn, once",
        26: "a shorter silence is in a turn, a longer one between two",
        27: "the first word after a long silence is whole",
        28: "every eagerness ends turns",
        29: "what is about answers brings no error",
        30: "deltas are never taken back, and joined are the text where nothing was revised",
        31: "a full backend gets no looks, but its finals",
        32: "no word of long speech is lost",
        33: "after long speech only its end is left to be heard",
        34: "Japanese and Thai come in pieces",
        35: "languages, keywords, prompt as for files",
        36: "log probabilities where they are included",
        37: "a failed text is told, the next turn works",
        38: "what cannot be followed is one error",
        39: "a session of an hour ends, and one that is idle",
        40: "what a session held is free when its app is gone",
        41: "an engine that dies is a stream that was cut, 1011",
        42: "another policy ends a session; another key does not",
        43: "one session too many is refused, a used-up day ends it",
        44: "a client that reads nothing is cut, one that sends too much is read no further",
        45: "fifty sessions get their texts, and files get on",
        46: "secrets last as long as they may, and open nothing once changed or expired",
        47: "the older way to a secret",
        48: "as many bytes a second whatever is said",
        49: "the dialogues of known clients, and the clients themselves",
        50: "OpenAI's SDK for JavaScript, over TLS",
        51: "no key, audio or text on the wire, in logs or in metrics",
        52: "a final text is begun before the turn ends; how soon it is there is published",
    }
)


def shown(source: str) -> Iterator[int]:
    """The numbers that the tests of a module are marked with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.behaviour":
                    yield from (int(ast.literal_eval(number)) for number in mark.args)
