"""Which bytes are a message of Binary HTTP, and which are none? `binary_http.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.conformance.authors.common import HEAD, MALFORMED, MESSAGE, accepted, refused

ABOUT: Final = "Messages of Binary HTTP (RFC 9292), as they come out of the envelope. See README.md."
GET: Final = {"method": "GET", "scheme": "https", "authority": "sottovoce.invalid", "path": "/v1/models"}
HELLO: Final = "68656c6c6f"
OURS: Final = "sottovoce"
OK_HEAD: Final = ["03", "40c8", "00"]
WRONG: Final = refused("malformed")

Case = dict[str, Any]


def _request(says: str, *message: Any, **more: Any) -> Case:
    opened = {"head": GET | {"headers": []}, "content": "", "trailers": []} | more.pop("opened", {})
    return {"says": says, "direction": "request", "message": list(message), **more, "expect": accepted(opened=opened)}


def _wrong(says: str, *message: Any, **more: Any) -> Case:
    return {"says": says, "direction": "request", "message": list(message), **more, "expect": MALFORMED}


def _head(**headers: str) -> Case:
    return {"head": GET | {"headers": [[name.replace("_", "-"), value] for name, value in headers.items()]}}


def _requests() -> Iterator[Case]:
    yield _request("of indeterminate length", *MESSAGE)
    yield _request("of indeterminate length, without trailers", *HEAD, "00")
    yield _request("with padding", *MESSAGE, {"zeros": 100})
    content = {"content": HELLO}
    yield _request("with content in one piece", *HEAD, "05", HELLO, "00", "00", opened=content)
    yield _request("with content in two pieces", *HEAD, "02", "6865", "03", "6c6c6f", "00", "00", opened=content)
    yield _request(
        "with a piece whose length takes eight bytes", *HEAD, "c000000000000005", HELLO, "00", "00", opened=content
    )
    accept = [*HEAD[:-1], {"string": "accept"}, {"string": "*/*"}, "00"]
    yield _request("with a header", *accept, "00", "00", opened=_head(accept="*/*"))
    empty = [*HEAD[:-1], {"string": "x-empty"}, "00", "00"]
    yield _request("with a header that is empty", *empty, "00", "00", opened=_head(x_empty=""))
    inner = [*HEAD[:-1], {"string": "x-spaced"}, {"string": "a b\tc"}, "00"]
    yield _request("with space inside of a value", *inner, "00", "00", opened=_head(x_spaced="a b\tc"))
    trailers = ["00", {"string": "x-sum"}, {"string": "1"}, "00"]
    yield _request("with a trailer", *HEAD, *trailers, opened={"trailers": [["x-sum", "1"]]})
    control = ["00", *HEAD[1:-1]]
    yield _request("of known length", *control, "00", "00", "00")
    yield _request("of known length, with content", *control, "00", "05", HELLO, "00", opened=content)
    yield _request("of known length, ended behind its content", *control, "00", "05", HELLO, opened=content)
    yield _request("of known length, ended behind its headers", *control, "00")
    yield _request(
        "of known length, with a header",
        *control,
        "0b",
        {"string": "accept"},
        {"string": "*/*"},
        "00",
        "00",
        opened=_head(accept="*/*"),
    )
    yield _request("of known length, padded", *control, "00", "00", "00", {"zeros": 30})
    yield _request(
        "sixteen pieces of one byte", *HEAD, {"repeat": "0178", "times": 16}, "00", "00", opened={"content": "78" * 16}
    )


def _wrong_requests() -> Iterator[Case]:
    yield _wrong("nothing")
    yield _wrong("an answer in place of a request", *OK_HEAD, "00", "00", profile=OURS)
    yield _wrong("an answer of known length in place of a request", "01", "40c8", "00", "00", "00", profile=OURS)
    yield _wrong("a framing that is unknown", "04", *MESSAGE[1:])
    for number, says in enumerate(("method", "scheme", "authority", "path", "headers"), 2):
        yield _wrong(f"cut before its {says}", *MESSAGE[: number - 1])
    yield _wrong("cut inside its method", "02", "03", "4745")
    yield _wrong("cut before the end of its headers", *HEAD[:-1])
    yield _wrong("cut behind the name of a header", *HEAD[:-1], {"string": "accept"})
    yield _wrong("cut inside the value of a header", *HEAD[:-1], {"string": "accept"}, "03", "2a2f")
    yield _wrong("cut before its content", *HEAD, profile=OURS)
    yield _wrong("cut inside its content", *HEAD, "05", "6865")
    yield _wrong("cut between two pieces of its content", *HEAD, "05", HELLO, profile=OURS)
    yield _wrong("cut inside the length of a piece", *HEAD, "40")
    yield _wrong("cut inside its trailers", *HEAD, "00", {"string": "x-sum"})
    yield _wrong("padding that is not zero", *MESSAGE, {"zeros": 10}, "01")
    yield _wrong("padding that is another message", *MESSAGE, *MESSAGE)
    yield _wrong("seventeen pieces of one byte", *HEAD, {"repeat": "0178", "times": 17}, "00", "00", profile=OURS)
    for says, at, text in (
        ("a method with a space", 1, "GE T"),
        ("a method that is empty", 1, ""),
        ("a scheme in capitals", 2, "HTTPS"),
        ("an authority with a slash", 3, "sottovoce.invalid/x"),
        ("an authority with a line break", 3, "sottovoce.invalid\r\n"),
        ("a path that does not start with a slash", 4, "v1/models"),
        ("a path with a space", 4, "/v1/models x"),
        ("a path with a fragment", 4, "/v1/models#x"),
        ("a path that is empty", 4, ""),
        ("an absolute path", 4, "https://sottovoce.invalid/v1/models"),
    ):
        yield _wrong(says, *MESSAGE[:at], {"string": text}, *MESSAGE[at + 1 :], profile=OURS)
    for says, name, value in (
        ("a header in capitals", "Accept", "*/*"),
        ("a pseudo-header", ":path", "/"),
        ("a header name with a space", "x y", "1"),
        ("a header name with a colon", "x:y", "1"),
        ("a header with a line break", "x-a", "1\r\nx-b: 2"),
        ("a header with a zero byte", "x-a", "1\0"),
        ("a header that starts with a space", "x-a", " 1"),
        ("a header that ends with a tab", "x-a", "1\t"),
    ):
        yield _wrong(says, *HEAD[:-1], {"string": name}, {"string": value}, "00", "00", "00", profile=OURS)
    trailer = ["00", {"string": "X-Sum"}, {"string": "1"}, "00"]
    yield _wrong("a trailer in capitals", *HEAD, *trailer, profile=OURS)
    yield _wrong("a header of 65,537 bytes", *HEAD[:-1], {"string": "x-long"}, "80010001", profile=OURS)
    yield _wrong("a path of 2^62 - 1 bytes", *HEAD[:4], "ffffffffffffffff", {"zeros": 20})
    yield _wrong("129 headers", *HEAD[:-1], {"repeat": "01780131", "times": 129}, "00", "00", "00", profile=OURS)
    control = ["00", *HEAD[1:-1]]
    yield _wrong("of known length, with a header that is longer than its section", *control, "03", "06", "6161")
    yield _wrong("of known length, whose headers end inside a field", *control, "02", "0178", "00", "00")
    yield _wrong("of known length, cut inside its content", *control, "00", "05", "6865")


def _answer(says: str, *message: Any, **opened: Any) -> Case:
    whole = {"head": {"status": 200, "headers": []}, "content": "", "trailers": [], "informational": []} | opened
    return {"says": says, "direction": "answer", "message": list(message), "expect": accepted(opened=whole)}


def _wrong_answer(says: str, *message: Any, **more: Any) -> Case:
    return {"says": says, "direction": "answer", "message": list(message), **more, "expect": WRONG}


def _answers() -> Iterator[Case]:
    yield _answer("an answer of 200", *OK_HEAD, "00", "00")
    yield _answer("an answer without trailers", *OK_HEAD, "00")
    yield _answer("an answer with padding", *OK_HEAD, "00", "00", {"zeros": 4000})
    yield _answer("an answer with content", *OK_HEAD, "05", HELLO, "00", "00", content=HELLO)
    yield _answer(
        "an answer in many small pieces", *OK_HEAD, {"repeat": "0178", "times": 100}, "00", "00", content="78" * 100
    )
    yield _answer("an answer behind a 102", "03", "4066", "00", "40c8", "00", "00", "00", informational=[102])
    yield _answer(
        "an answer behind three of them",
        "03",
        {"repeat": "406600", "times": 3},
        "40c8",
        "00",
        "00",
        "00",
        informational=[102, 102, 102],
    )
    field = [{"string": "content-type"}, {"string": "text/plain"}]
    yield _answer(
        "an answer with a header",
        "03",
        "40c8",
        *field,
        "00",
        "00",
        "00",
        head={"status": 200, "headers": [["content-type", "text/plain"]]},
    )
    yield _wrong_answer("a request in place of an answer", *MESSAGE)
    yield _wrong_answer("an answer of known length", "01", "40c8", "00", "00", "00", profile=OURS)
    yield _wrong_answer("a status of 99", "03", "4063", "00", "00", "00")
    yield _wrong_answer("a status of 600", "03", "4258", "00", "00", "00")
    yield _wrong_answer("an answer that is only informational", "03", "4066", "00")
    yield _wrong_answer("an answer that is cut before its content", *OK_HEAD, profile=OURS)
    yield _wrong_answer("an answer that is cut inside its content", *OK_HEAD, "05", "6865")
    yield _wrong_answer("an answer whose padding is not zero", *OK_HEAD, "00", "00", "0100")
    yield _wrong_answer("an answer with a header in capitals", "03", "40c8", "0158", "0131", "00", "00", "00")
    yield _wrong_answer("an answer with a line break in a header", "03", "40c8", "0178", "030d0a78", "00", "00", "00")


def figures() -> dict[str, Any]:
    """What stands in the file."""
    cases = [*_requests(), *_wrong_requests(), *_answers()]
    vectors = [
        {"id": f"binary-http/{number:03}", "says": case.pop("says"), "profile": case.pop("profile", "ohttp"), **case}
        for number, case in enumerate(cases, 1)
    ]
    return {"format": 1, "about": ABOUT, "vectors": vectors}
