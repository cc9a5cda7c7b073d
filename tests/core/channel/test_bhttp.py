"""Binary HTTP against RFC 9292 section 5, in pieces of every size, and spoiled in every way we refuse."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.channel import varint
from core.channel.bhttp import (
    DEFAULT_MAX_HEAD_BYTES,
    MAX_FIELDS,
    PIECE_BYTES,
    SPARE_PIECES,
    Content,
    End,
    Event,
    Fields,
    RequestDecoder,
    RequestEncoder,
    RequestHead,
    ResponseDecoder,
    ResponseEncoder,
    ResponseHead,
)
from core.errors import ChannelError
from tests.core.channel.vectors import load, pieces
from tests.core.channel.work import processor_s

RFC = load("bhttp_rfc9292")
HEAD = RequestHead("POST", "https", "sottovoce.invalid", "/v1/audio/transcriptions", (("accept", "*/*"),))

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
inner = st.text([chr(code) for code in (*range(0x20, 0x7F), *range(0x80, 0x100), 0x09)], max_size=40)
values = inner.map(lambda text: text.strip(" \t"))
fields = st.lists(st.tuples(names, values), max_size=5).map(tuple)
contents = st.lists(st.binary(max_size=200), max_size=5)
sizes = st.lists(st.integers(1, 100), min_size=1, max_size=8)


def fields_of(figures: dict[str, Any]) -> Fields:
    return tuple((name, value) for name, value in figures["headers"])


def read(decoder: RequestDecoder | ResponseDecoder, data: bytes, cuts: list[int]) -> list[Event]:
    """Decode a whole message that arrives in pieces, and join its content again."""
    events = [event for piece in pieces(data, cuts) for event in decoder.feed(piece)] + decoder.finish()
    content = b"".join(event.data for event in events if isinstance(event, Content))
    heads = [event for event in events if isinstance(event, RequestHead | ResponseHead)]
    ends = [event for event in events if isinstance(event, End)]
    assert events[: len(heads)] == heads
    assert events[-1:] == ends
    return [*heads, *([Content(content)] if content else []), *ends]


def rfc_request_head() -> RequestHead:
    figures = RFC["request"]
    method, scheme, authority, path = (figures[part] for part in ("method", "scheme", "authority", "path"))
    return RequestHead(method, scheme, authority, path, fields_of(figures))


def test_the_request_of_rfc_9292_is_written() -> None:
    encoder = RequestEncoder()
    encoded = encoder.head(rfc_request_head()) + encoder.end(padding=RFC["request"]["padding"])
    assert encoded.hex() == RFC["request"]["indeterminate_length"]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_the_request_of_rfc_9292_is_read(size: int) -> None:
    encoded = bytes.fromhex(RFC["request"]["indeterminate_length"])
    assert read(RequestDecoder(), encoded, [size]) == [rfc_request_head(), End()]


def test_the_response_of_rfc_9292_is_written() -> None:
    figures, encoder = RFC["response"], ResponseEncoder()
    encoded = [encoder.informational(hint["status"], fields_of(hint)) for hint in figures["informational"]]
    encoded.append(encoder.head(ResponseHead(figures["status"], fields_of(figures))))
    encoded += [encoder.content(figures["content"].encode()), encoder.end()]
    assert b"".join(encoded).hex() == figures["indeterminate_length"]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_the_response_of_rfc_9292_is_read(size: int) -> None:
    figures = RFC["response"]
    assert read(ResponseDecoder(), bytes.fromhex(figures["indeterminate_length"]), [size]) == [
        *(ResponseHead(hint["status"], fields_of(hint)) for hint in figures["informational"]),
        ResponseHead(figures["status"], fields_of(figures)),
        Content(figures["content"].encode()),
        End(),
    ]


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_the_known_length_request_of_rfc_9292_is_read(size: int) -> None:
    encoded = bytes.fromhex(RFC["request"]["known_length"])
    assert read(RequestDecoder(), encoded, [size]) == [rfc_request_head(), End()]


def test_the_known_length_response_of_rfc_9292_is_refused() -> None:
    with pytest.raises(ChannelError, match="another kind"):
        ResponseDecoder().feed(bytes.fromhex(RFC["chunked_response"]["known_length"]))


@given(fields, contents, fields, st.integers(0, 300), sizes)
def test_a_request_is_read_as_it_was_written(
    headers: Fields, chunks: list[bytes], trailers: Fields, padding: int, cuts: list[int]
) -> None:
    head = RequestHead("PUT", "https", "a.example:443", "/x?y=%20", headers)
    encoder = RequestEncoder()
    encoded = encoder.head(head) + b"".join(map(encoder.content, chunks)) + encoder.end(trailers, padding)
    content = b"".join(chunks)
    expected = [head, *([Content(content)] if content else []), End(trailers)]
    assert read(RequestDecoder(), encoded, cuts) == expected


@given(fields, st.binary(max_size=1_000), fields, st.integers(0, 300), sizes)
def test_a_known_length_request_is_read_as_it_was_written(
    headers: Fields, content: bytes, trailers: Fields, padding: int, cuts: list[int]
) -> None:
    head = RequestHead("PUT", "https", "a.example:443", "/x?y=%20", headers)
    encoded = known_length_of(head, content, trailers) + bytes(padding)
    assert read(RequestDecoder(), encoded, cuts) == [head, *([Content(content)] if content else []), End(trailers)]


@given(fields, st.binary(max_size=300), fields)
def test_either_form_of_a_request_says_the_same(headers: Fields, content: bytes, trailers: Fields) -> None:
    head, encoder = RequestHead("GET", "https", "", "/", headers), RequestEncoder()
    indeterminate = encoder.head(head) + encoder.content(content) + encoder.end(trailers)
    known = known_length_of(head, content, trailers)
    assert read(RequestDecoder(), known, [7]) == read(RequestDecoder(), indeterminate, [7])


@given(st.lists(st.tuples(st.integers(100, 199), fields), max_size=4), st.integers(200, 599), contents, sizes)
def test_a_response_is_read_as_it_was_written(
    hints: list[tuple[int, Fields]], status: int, chunks: list[bytes], cuts: list[int]
) -> None:
    encoder = ResponseEncoder()
    encoded = b"".join(encoder.informational(*hint) for hint in hints)
    encoded += encoder.head(ResponseHead(status)) + b"".join(map(encoder.content, chunks)) + encoder.end()
    events = read(ResponseDecoder(), encoded, cuts)
    heads = [event for event in events if isinstance(event, ResponseHead)]
    assert heads == [*(ResponseHead(*hint) for hint in hints), ResponseHead(status)]
    assert [head.informational for head in heads] == [True] * len(hints) + [False]


def test_content_comes_as_it_arrives() -> None:
    decoder, encoder = RequestDecoder(), RequestEncoder()
    assert decoder.feed(encoder.head(HEAD) + varint.encode(1_000_000) + b"first") == [HEAD, Content(b"first")]
    assert decoder.feed(b"second") == [Content(b"second")]
    assert decoder.feed(bytes(999_989) + b"\x05third") == [Content(bytes(999_989) + b"third")]


def test_however_many_chunks_arrive_at_once_they_are_one_event() -> None:
    decoder = ResponseDecoder()
    decoder.feed(ResponseEncoder().head(ResponseHead(200)))
    assert decoder.feed(b"\x01x" * 10_000 + b"\0\0") == [Content(b"x" * 10_000), End()]


@given(st.lists(st.integers(1, 3 * PIECE_BYTES), min_size=1, max_size=60), sizes)
def test_content_is_refused_where_it_is_cut_too_finely_and_nowhere_else(lengths: list[int], cuts: list[int]) -> None:
    before = [0, *accumulate(lengths)]
    allowed = all(number < SPARE_PIECES + before[number] // PIECE_BYTES for number in range(len(lengths)))
    encoded = request(rest=b"".join(string(bytes(length)) for length in lengths) + b"\0\0")
    with nullcontext() if allowed else pytest.raises(ChannelError, match="cut too finely"):
        read(RequestDecoder(), encoded, [100 * cut for cut in cuts])


@given(st.lists(st.integers(0, 2_000), max_size=60), st.integers(1, 100))
def test_an_encoder_of_requests_never_cuts_too_finely(lengths: list[int], repeated: int) -> None:
    writes = [bytes([length % 251]) * length for length in lengths] * (repeated if sum(lengths) < 20_000 else 1)
    encoder = RequestEncoder()
    encoded = encoder.head(HEAD) + b"".join(map(encoder.content, writes)) + encoder.end()
    content = b"".join(writes)
    assert read(RequestDecoder(), encoded, [5_000]) == [HEAD, *([Content(content)] if content else []), End()]


def test_an_encoder_of_responses_holds_nothing_back() -> None:
    encoder = ResponseEncoder()
    encoder.head(ResponseHead(200))
    assert encoder.content(b"x") == b"\1x"


def test_one_content_chunk_of_25_mib_flows_through_in_linear_time() -> None:
    content = bytes(25 << 20)

    def write() -> bytes:
        encoder = RequestEncoder()
        return encoder.head(HEAD) + encoder.content(content) + encoder.end()

    def read() -> None:
        decoder = RequestDecoder()
        assert sum(len(e.data) for piece in cuts for e in decoder.feed(piece) if isinstance(e, Content)) == len(content)
        assert len(decoder._buffer) == 0

    cuts = pieces(write(), [65_000])
    assert processor_s(read) < 10 * processor_s(write)


# Encoded by hand, so that what no encoder writes can be written.
def string(data: bytes) -> bytes:
    return varint.encode(len(data)) + data


CONTROL = string(b"GET") + string(b"https") + string(b"a") + string(b"/")


def request(control: bytes = CONTROL, section: bytes = b"\0", rest: bytes = b"\0\0") -> bytes:
    return b"\x02" + control + section + rest


def known_length(section: bytes = b"", rest: bytes = b"\0\0") -> bytes:
    return b"\0" + CONTROL + string(section) + rest


def known_length_of(head: RequestHead, content: bytes, trailers: Fields) -> bytes:
    parts = (head.method, head.scheme, head.authority, head.path)
    return b"\0" + b"".join(
        (control(*(part.encode() for part in parts)), section(head.headers), string(content), section(trailers))
    )


def section(fields: Fields) -> bytes:
    return string(b"".join(field(name.encode(), value.encode("latin-1")) for name, value in fields))


def field(name: bytes, value: bytes = b"v") -> bytes:
    return string(name) + string(value)


def control(*parts: bytes) -> bytes:
    return b"".join(map(string, parts))


TOO_LONG = varint.encode(DEFAULT_MAX_HEAD_BYTES + 1)
TOO_MANY = b"".join(field(b"n%d" % number) for number in range(MAX_FIELDS + 1))

REFUSED_REQUESTS = {
    "a response": (b"\x03", "another kind"),
    "an unknown framing": (b"\x04", "another kind"),
    "a huge framing": (b"\xff" * 8, "another kind"),
    "an empty method": (request(control(b"", b"https", b"a", b"/")), "the method"),
    "a method with a space": (request(control(b"GET /", b"https", b"a", b"/")), "the method"),
    "an empty scheme": (request(control(b"GET", b"", b"a", b"/")), "the scheme"),
    "a scheme in capitals": (request(control(b"GET", b"HTTPS", b"a", b"/")), "the scheme"),
    "an authority with a user": (request(control(b"GET", b"https", b"me@a", b"/")), "the authority"),
    "an authority with a line end": (request(control(b"GET", b"https", b"a\r\n", b"/")), "the authority"),
    "an authority with a slash": (request(control(b"GET", b"https", b"a/b", b"/")), "the authority"),
    "an empty path": (request(control(b"CONNECT", b"https", b"a", b"")), "the path"),
    "an absolute path": (request(control(b"GET", b"https", b"a", b"https://b/")), "the path"),
    "a path with a space": (request(control(b"GET", b"https", b"a", b"/ HTTP/1.1")), "the path"),
    "a path with a line end": (request(control(b"GET", b"https", b"a", b"/\n")), "the path"),
    "a path outside ASCII": (request(control(b"GET", b"https", b"a", b"/\xe9")), "the path"),
    "a path with a fragment": (request(control(b"GET", b"https", b"a", b"/#x")), "the path"),
    "a method that is too long": (b"\x02" + TOO_LONG, "too long"),
    "a huge method": (b"\x02" + b"\xff" * 8, "too long"),
    "a pseudo-header": (request(section=field(b":path") + b"\0"), "pseudo-header"),
    "a pseudo-header we never heard of": (request(section=field(b":x") + b"\0"), "pseudo-header"),
    "a name in capitals": (request(section=field(b"Accept") + b"\0"), "lowercase token"),
    "a name with a space": (request(section=field(b"accept ") + b"\0"), "lowercase token"),
    "a name with a line end": (request(section=field(b"accept\n") + b"\0"), "lowercase token"),
    "a name outside ASCII": (request(section=field(b"\xe9") + b"\0"), "lowercase token"),
    "a value with a line feed": (request(section=field(b"n", b"a\nb: c") + b"\0"), "control character"),
    "a value with a return": (request(section=field(b"n", b"a\rb") + b"\0"), "control character"),
    "a value with a null": (request(section=field(b"n", b"a\0b") + b"\0"), "control character"),
    "a value that ends in a line": (request(section=field(b"n", b"a\n") + b"\0"), "control character"),
    "a value with an escape": (request(section=field(b"n", b"a\x1bb") + b"\0"), "control character"),
    "a value with a delete": (request(section=field(b"n", b"a\x7fb") + b"\0"), "control character"),
    "a value that starts with space": (request(section=field(b"n", b" a") + b"\0"), "space at an end"),
    "a value that ends with a tab": (request(section=field(b"n", b"a\t") + b"\0"), "space at an end"),
    "a name that is too long": (request(section=TOO_LONG), "too long"),
    "a value that is too long": (request(section=string(b"n") + TOO_LONG), "too long"),
    "headers that are too long": (request(section=field(b"n", bytes(20_000)) * 2), "too long"),
    "too many headers": (request(section=TOO_MANY), "too many fields"),
    "a pseudo-header in the trailers": (request(rest=b"\0" + field(b":status") + b"\0"), "pseudo-header"),
    "a control character in the trailers": (request(rest=b"\0" + field(b"n", b"\0") + b"\0"), "control char"),
    "too many trailers": (request(rest=b"\0" + TOO_MANY), "too many fields"),
    "a trailer that is too long": (request(rest=b"\0" + TOO_LONG), "too long"),
    "a section that is too long": (known_length()[:-3] + TOO_LONG, "too long"),
    "a huge section": (known_length()[:-3] + b"\xff" * 8, "too long"),
    "a name without a value": (known_length(string(b"n")), "inside a field"),
    "a value beyond its section": (known_length(string(b"n") + b"\x02v"), "longer than its section"),
    "a length beyond its section": (known_length(string(b"n") + b"\x40"), "longer than its section"),
    "a name that is empty": (known_length(field(b"")), "lowercase token"),
    "a pseudo-header of known length": (known_length(field(b":path")), "pseudo-header"),
    "too many headers of known length": (known_length(TOO_MANY), "too many fields"),
    "a control character in trailers of known length": (
        known_length(rest=b"\0" + string(field(b"n", b"\0"))),
        "control char",
    ),
    "trailers of known length that are too long": (known_length(rest=b"\0" + TOO_LONG), "too long"),
    "known-length padding that is not zero": (known_length(rest=b"\0\0\0\1"), "padding is not zero"),
    "a second piece of known-length content": (known_length(rest=b"\1x\1x"), "longer than its section"),
    "padding that is not zero": (request(rest=b"\0\0\0\0\1"), "padding is not zero"),
    "a second message": (request() + request(), "padding is not zero"),
}


@pytest.mark.parametrize("spoiled", REFUSED_REQUESTS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_request_is_refused_with(spoiled: str, size: int) -> None:
    data, reason = REFUSED_REQUESTS[spoiled]
    decoder = RequestDecoder()
    with pytest.raises(ChannelError, match=reason):
        _ = [decoder.feed(piece) for piece in pieces(data, [size])]
    with pytest.raises(ChannelError, match="failed before"):
        decoder.feed(b"")
    with pytest.raises(ChannelError, match="failed before"):
        decoder.finish()


@pytest.mark.parametrize("status", [0, 99, 600, 1_000, varint.MAX_VARINT])
def test_a_status_outside_100_to_599_is_refused(status: int) -> None:
    with pytest.raises(ChannelError, match="between 100 and 599"):
        ResponseDecoder().feed(b"\x03" + varint.encode(status) + b"\0")


def test_a_request_is_no_response() -> None:
    with pytest.raises(ChannelError, match="another kind"):
        ResponseDecoder().feed(request())


def test_what_is_refused_is_not_repeated_in_the_reason() -> None:
    for control_data, section in ((control(b"GET", b"https", b"a", b"secret"), b"\0"), (CONTROL, field(b"SECRET"))):
        with pytest.raises(ChannelError) as caught:
            RequestDecoder().feed(request(control_data, section + b"\0"))
        assert "secret" not in str(caught.value).lower()


def test_the_limit_of_a_head_can_be_chosen() -> None:
    small = request(section=field(b"n", b"v" * 50) + b"\0")
    assert read(RequestDecoder(max_head_bytes=70), small, [1_000])
    with pytest.raises(ChannelError, match="too long"):
        RequestDecoder(max_head_bytes=60).feed(small)


def test_every_informational_head_has_the_limit_to_itself() -> None:
    encoder, decoder = ResponseEncoder(), ResponseDecoder(max_head_bytes=100)
    for _ in range(50):
        (hint,) = decoder.feed(encoder.informational(102, (("n", "v" * 80),)))
        assert hint == ResponseHead(102, (("n", "v" * 80),))


def message_with_everything() -> bytes:
    encoder = RequestEncoder()
    return encoder.head(HEAD) + encoder.content(b"content" * 20) + encoder.end((("trailer", "x"),))


def cut_at(data: bytes, reason: str) -> str:
    decoder = RequestDecoder()
    decoder.feed(data)
    with pytest.raises(ChannelError, match=reason):
        decoder.finish()
    with pytest.raises(ChannelError, match="failed before"):
        decoder.finish()
    return reason


def test_every_truncation_is_refused_for_where_it_cuts() -> None:
    whole = message_with_everything()
    content_at = whole.index(b"content") - 2
    trailers_at = whole.index(b"trailer") - 1
    for size in range(len(whole)):
        if size == 0:
            cut_at(whole[:size], "is empty")
        elif size < len(b"\x02") + sum(len(string(b"x" * n)) for n in (4, 5, 17, 24)):
            cut_at(whole[:size], "inside its control data")
        elif size < content_at:
            cut_at(whole[:size], "inside its headers")
        elif size < content_at + 2 or size == trailers_at - 1:
            cut_at(whole[:size], "content terminator is missing")
        elif size < trailers_at - 1:
            cut_at(whole[:size], "inside its content")
        elif size > trailers_at:
            cut_at(whole[:size], "inside its trailers")


def test_every_truncation_of_a_known_length_request_is_refused_for_where_it_cuts() -> None:
    head = RequestHead("POST", "https", "a", "/", (("accept", "*/*"),))
    whole = known_length_of(head, b"content" * 20, (("trailer", "x"),))
    control_bytes = 1 + len(control(b"POST", b"https", b"a", b"/"))
    content_at = whole.index(b"content") - 2
    trailers_at = whole.index(b"trailer") - 2
    assert len(whole) - trailers_at == len(section((("trailer", "x"),)))
    for size in range(1, len(whole)):
        if size in (content_at, trailers_at):  # the rest may be empty, and left out
            decoder = RequestDecoder()
            decoder.feed(whole[:size])
            assert decoder.finish() == [End()]
        elif size < control_bytes:
            cut_at(whole[:size], "inside its control data")
        elif size < content_at:
            cut_at(whole[:size], "inside its headers")
        elif size == content_at + 1:
            cut_at(whole[:size], "content terminator is missing")
        elif size < trailers_at:
            cut_at(whole[:size], "inside its content")
        else:
            cut_at(whole[:size], "inside its trailers")


def test_content_of_known_length_comes_as_it_arrives() -> None:
    decoder = RequestDecoder()
    (head, first) = decoder.feed(known_length(rest=varint.encode(1_000_000) + b"first"))
    assert (head, first) == (RequestHead("GET", "https", "a", "/"), Content(b"first"))
    assert decoder.feed(bytes(999_995) + b"\0") == [Content(bytes(999_995)), End()]


def test_empty_trailers_may_be_left_out_but_not_the_content_terminator() -> None:
    encoded = RequestEncoder().head(HEAD)
    decoder = RequestDecoder()
    assert decoder.feed(encoded + b"\0") == [HEAD]
    assert decoder.finish() == [End()]
    cut_at(encoded, "content terminator is missing")


def test_a_longer_zero_than_needed_ends_a_section_too() -> None:
    assert RequestDecoder().feed(b"\x40\x02" + CONTROL + b"\x40\0" + b"\x80\0\0\0" + b"\x40\0")[1:] == [End()]


def test_an_authority_may_be_empty() -> None:
    (head, _) = RequestDecoder().feed(request(control(b"GET", b"https", b"", b"/")))
    assert head == RequestHead("GET", "https", "", "/")


@pytest.mark.parametrize("decoder", [RequestDecoder, ResponseDecoder])
def test_after_the_end_nothing_can_be_read(decoder: Any) -> None:
    encoder = ResponseEncoder()
    data = request() if decoder is RequestDecoder else encoder.head(ResponseHead(204)) + encoder.end()
    ended = decoder()
    ended.feed(data)
    assert ended.finish() == []
    with pytest.raises(RuntimeError, match="has ended"):
        ended.feed(b"\0")
    with pytest.raises(RuntimeError, match="has ended"):
        ended.finish()


def test_a_head_that_would_be_refused_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="the path"):
        RequestHead("GET", "https", "a", "no slash")
    with pytest.raises(ValueError, match="lowercase token"):
        RequestHead("GET", "https", "a", "/", (("Accept", "x"),))
    with pytest.raises(ValueError, match="control character"):
        ResponseHead(200, (("n", "a\r\nb: c"),))
    with pytest.raises(ValueError, match="control character"):
        ResponseHead(200, (("n", "snowman \u2603"),))
    with pytest.raises(ValueError, match="between 100 and 599"):
        ResponseHead(99)
    with pytest.raises(ValueError, match="pseudo-header"):
        End(((":status", "200"),))


def test_an_encoder_keeps_the_order() -> None:
    encoder = RequestEncoder()
    with pytest.raises(RuntimeError, match="its START"):
        encoder.content(b"x")
    with pytest.raises(RuntimeError, match="its START"):
        encoder.end()
    encoder.head(HEAD)
    with pytest.raises(RuntimeError, match="its CONTENT"):
        encoder.head(HEAD)
    encoder.end()
    with pytest.raises(RuntimeError, match="its ENDED"):
        encoder.content(b"x")
    with pytest.raises(RuntimeError, match="its ENDED"):
        encoder.end()


def test_informational_heads_come_before_the_final_one() -> None:
    encoder = ResponseEncoder()
    with pytest.raises(ValueError, match="200 is not an informational status"):
        encoder.informational(200)
    with pytest.raises(ValueError, match="102 is not a final status"):
        encoder.head(ResponseHead(102))
    assert encoder.informational(102) == b"\x03\x40\x66\0"
    assert encoder.informational(102) == b"\x40\x66\0"
    assert encoder.head(ResponseHead(200)) == b"\x40\xc8\0"
    with pytest.raises(RuntimeError, match="its CONTENT"):
        encoder.informational(102)


def test_no_content_is_no_chunk() -> None:
    encoder = RequestEncoder()
    encoder.head(HEAD)
    assert encoder.content(b"") == b""
