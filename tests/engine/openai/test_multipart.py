"""Multipart bodies: any chunking, every truncation, each bound by itself, and nothing of a body in an error."""

from __future__ import annotations

import logging  # noqa: TID251 - what libraries log is looked at
import traceback
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media.types import MAX_FILE_BYTES
from core.transcript.faults import Fault, FaultKind
from engine.openai.errors import ErrorCode, code_of, to_response
from engine.openai.form_headers import CHARSET, FILE_NAME, MediaType
from engine.openai.multipart import BOUNDARY_LINE, LINE_END, OPENING, Form, Limits, MultipartReader
from engine.openai.subjects import param_of
from tests.engine.openai.forms import AUDIO, BOUNDARY, CONTENT_TYPE, body, close, field, file, part, read

CANARY = "Vlxqz7"


def refused(*pieces: bytes, reader: MultipartReader | None = None) -> Fault:
    with pytest.raises(Fault) as caught:
        read_pieces(pieces, reader or MultipartReader(CONTENT_TYPE))
    return caught.value


def read_pieces(pieces: Iterable[bytes], reader: MultipartReader) -> Form:
    for piece in pieces:
        reader.feed(piece)
    return reader.finish()


def limited(**limits: int) -> MultipartReader:
    return MultipartReader(CONTENT_TYPE, limits=Limits(**limits))


def contents(form: Form) -> tuple[object, ...]:
    return form.fields, audio_of(form), form.audio_type


def audio_of(form: Form) -> bytes | None:
    return None if form.audio is None else bytes(form.audio)


def outcome(pieces: list[bytes], limits: Limits | None = None) -> tuple[object, ...]:
    try:
        return contents(read_pieces(pieces, MultipartReader(CONTENT_TYPE, limits=limits or Limits())))
    except Fault as error:
        return error.kind, error.subject, error.numbers


@st.composite
def cut(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(bodies)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_fields_and_file_are_read_in_order() -> None:
    form = read(body(field("model", "whisper-1"), field("include[]", "logprobs"), field("a", "é"), file()))
    assert form.fields == (("model", "whisper-1"), ("include[]", "logprobs"), ("a", "é"))
    assert audio_of(form) == AUDIO
    assert isinstance(form.audio, bytearray)
    assert form.audio_type == MediaType("audio/x-wav", {})


def test_the_file_may_come_first_and_names_may_repeat() -> None:
    form = read(body(file(), field("keywords[]", "a"), field("keywords[]", "b")))
    assert form.fields == (("keywords[]", "a"), ("keywords[]", "b"))
    assert audio_of(form) == AUDIO


def test_a_form_without_a_file_has_no_audio() -> None:
    assert read(body(field("model", "m"))).audio is None
    assert read(close()).fields == ()


def test_an_empty_file_is_a_file() -> None:
    assert audio_of(read(body(file(b"")))) == b""


names = st.text(st.characters(min_codepoint=32, exclude_characters='"\\\x7f', codec="utf-8"), min_size=1, max_size=9)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
tricky = st.lists(
    st.sampled_from([b"\r\n--", b"\r", b"\n", b"--", b"-", BOUNDARY.encode()[:-1], b"--0123", b"\x00\xff", b"RIFF"]),
    max_size=12,
).map(b"".join)


@given(
    fields=st.lists(st.tuples(names.filter(lambda name: name != "file"), texts), max_size=5),
    audio=tricky,
    data=st.data(),
)
def test_every_chunking_reads_the_same_form(fields: list[tuple[str, str]], audio: bytes, data: st.DataObject) -> None:
    whole = body(*(field(name, text) for name, text in fields), file(audio))
    form = read_pieces(data.draw(cut(st.just(whole))), MultipartReader(CONTENT_TYPE))
    assert contents(form) == (tuple(fields), audio, MediaType("audio/x-wav"))


DELIMITER = f"--{BOUNDARY}".encode()
FRAGMENTS = (
    *(b"\r\n", b"\r", b"\n", b"-", b"--", b" ", b"\t", b"x", b":", b"X: y", b"\xff", b"\r\n\r\n"),
    *(close(), field("b", "c"), file(b""), DELIMITER, b"\r\n" + DELIMITER, DELIMITER[:11], b"\r\n" + DELIMITER[:11]),
    *(DELIMITER + b" \t\r\n", DELIMITER + b"-- \r\n", b"\n" + DELIMITER + b"\n"),
    *(b'Content-Disposition: form-data; name="a"', b'; filename="a"b"', b"Content-Type: text/plain; charset=utf-16"),
)
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(b"".join)
bodies = (
    fragments
    | fragments.map(lambda tail: part('name="a"', tail) + close())
    | fragments.map(lambda head: head + body(file()))
)


@given(cut(bodies))
def test_no_body_reads_differently_in_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert outcome(pieces) == outcome([whole]) == outcome([whole[i : i + 1] for i in range(len(whole))])


@given(cut(bodies), st.integers(1, 90))
def test_no_body_reads_differently_in_pieces_whatever_its_bounds(pieces: list[bytes], bound: int) -> None:
    bounds = Limits(preamble_bytes=bound, parts=2, part_headers=1, header_line_bytes=bound, field_bytes=bound)
    whole = b"".join(pieces)
    assert outcome(pieces, bounds) == outcome([whole], bounds)


@given(st.binary(max_size=200).map(lambda tail: f"--{BOUNDARY}\r\n".encode() + tail) | st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_with_a_code(data: bytes) -> None:
    outcome([data])


def test_a_body_truncated_anywhere_is_refused() -> None:
    whole = body(field("model", "whisper-1"), file())
    for length in range(len(whole) - len(b"\r\n")):
        assert code_of(refused(whole[:length])) is ErrorCode.INVALID_MULTIPART, length
    assert audio_of(read(whole[:-2])) == AUDIO, "the line break after the closing boundary is optional"


def test_what_follows_the_closing_boundary_is_no_part() -> None:
    form = read(body(field("a", "1")) + body(field("a", "2"), file()))
    assert form.fields == (("a", "1"),)
    assert form.audio is None


PREAMBLES = [
    b"\r\n\r\n",
    b"\n",
    b"This is a message with multiple parts in MIME format.\r\n",
    b"\r\nTwo\r\nlines\r\n",
    b"--\r\n",
    DELIMITER + b"x\r\n",
    b"x" + DELIMITER + b"\r\n",
    DELIMITER[:-1] + b"\r\n",
    b"\r" * 9 + b"\r\n",
]


@pytest.mark.parametrize("preamble", PREAMBLES)
def test_what_stands_before_the_first_boundary_is_no_part(preamble: bytes) -> None:
    form = read(preamble + body(field("a", "1"), file()))
    assert contents(form) == ((("a", "1"),), AUDIO, MediaType("audio/x-wav"))
    assert read(preamble + close()).fields == ()


@given(st.sampled_from(PREAMBLES), st.data())
def test_a_preamble_is_skipped_however_it_is_cut(preamble: bytes, data: st.DataObject) -> None:
    pieces = data.draw(cut(st.just(preamble + body(field("a", "1")))))
    assert read_pieces(pieces, MultipartReader(CONTENT_TYPE)).fields == (("a", "1"),)


def test_a_preamble_is_bounded() -> None:
    opening = b"\r\n" + DELIMITER + b"\r\n"
    rest = body(field("a", "1"))[len(opening) - 2 :]
    fits = b"x" * (4096 - len(opening))
    assert read(fits + opening + rest).fields == (("a", "1"),)
    for pieces in ([b"x" + fits + opening + rest], [b"x" * 4096], [b"x"] * 4096):
        error = refused(*pieces)
        assert (error.kind, error.subject) == (FaultKind.MALFORMED, OPENING)
        assert error.numbers == {"limit_preamble_bytes": 4096}


@pytest.mark.parametrize("padding", [b" ", b"\t", b" \t " * 50])
def test_blanks_may_follow_every_boundary(padding: bytes) -> None:
    line_end = padding + b"\r\n"
    data = body(field("a", "1"), file())
    for delimiter in (DELIMITER, DELIMITER + b"--"):
        data = data.replace(delimiter + b"\r\n", delimiter + line_end)
    assert data.count(line_end) >= 3
    assert contents(read(data)) == ((("a", "1"),), AUDIO, MediaType("audio/x-wav"))
    assert outcome([data[i : i + 1] for i in range(len(data))]) == outcome([data])


@pytest.mark.parametrize("padding", [b" x", b"\t-", b" \r"])
def test_anything_but_blanks_after_a_boundary_is_refused_as_that(padding: bytes) -> None:
    data = body(field("a", "1") + field("b", "2").replace(b"\r\n", padding + b"\r\n", 1))
    assert (refused(data).kind, refused(data).subject) == (FaultKind.MALFORMED, BOUNDARY_LINE)


def test_a_longer_word_is_not_the_boundary_it_begins_with() -> None:
    value = f"1\r\n--{BOUNDARY}x\r\n2"
    assert read(body(field("a", value))).fields == (("a", value),)


@pytest.mark.parametrize(
    "data",
    [body(file()).replace(b"\r\n", b"\n"), b"Hello.\n" + body(file()), DELIMITER + b" \n", b"\n" + DELIMITER + b"\n"],
)
def test_lines_that_end_in_a_line_feed_alone_are_refused_as_that(data: bytes) -> None:
    assert (refused(data).kind, refused(data).subject) == (FaultKind.MALFORMED, LINE_END)


@pytest.mark.parametrize("content_type", [None, "", "application/json", "multipart/mixed; boundary=a", "text/plain"])
def test_another_content_type_is_an_unsupported_media_type(content_type: str | None) -> None:
    with pytest.raises(Fault) as caught:
        MultipartReader(content_type)
    assert code_of(caught.value) is ErrorCode.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize(
    "parameters",
    [
        *("", ";", "; boundary", "; boundary=", '; boundary=""', "; boundary=a; boundary=b", "; boundary=a b"),
        *(
            '; boundary="a ',
            '; boundary="a "',
            '; boundary="a\u00e9"',
            '; boundary="\x7f"',
            "; boundary=a\r\n",
            '; boundary="a\r\nb"',
        ),
        f"; boundary={'a' * 71}",
    ],
)
def test_a_content_type_without_a_usable_boundary_is_refused(parameters: str) -> None:
    with pytest.raises(Fault) as caught:
        MultipartReader("multipart/form-data" + parameters)
    assert code_of(caught.value) is ErrorCode.INVALID_MULTIPART


@pytest.mark.parametrize(
    "content_type",
    [
        f"Multipart/Form-Data;boundary={BOUNDARY}",
        f'multipart/form-data ; charset=utf-8; Boundary="{BOUNDARY}" ;',
        f"multipart/form-data; boundary={BOUNDARY}; charset=utf-8",
    ],
)
def test_the_boundary_is_found_in_every_legal_spelling(content_type: str) -> None:
    assert audio_of(read(body(file()), MultipartReader(content_type))) == AUDIO


@pytest.mark.parametrize("boundary", ["*****", "{b}", "a b", "=_?:(1)'+,/.", "b" * 70])
def test_a_boundary_may_have_any_characters_that_can_be_written(boundary: str) -> None:
    reader = MultipartReader(f'multipart/form-data; boundary="{boundary}"')
    assert audio_of(read(body(file()).replace(BOUNDARY.encode(), boundary.encode()), reader)) == AUDIO


@pytest.mark.parametrize("encoding", ["gzip", "identity", ""])
def test_a_content_encoding_is_an_unsupported_media_type(encoding: str) -> None:
    with pytest.raises(Fault) as caught:
        MultipartReader(CONTENT_TYPE, content_encoding=encoding)
    assert code_of(caught.value) is ErrorCode.UNSUPPORTED_MEDIA_TYPE


def test_a_file_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not() -> None:
    audio = bytes(MAX_FILE_BYTES)
    form = read(body(file(audio)))
    assert form.audio is not None
    assert len(form.audio) == 26_214_400
    error = refused(body(file(audio + b"\x00")))
    assert (code_of(error), param_of(error)) == (ErrorCode.FILE_TOO_LARGE, "file")
    assert error.numbers == {"limit_bytes": 26_214_400, "read_bytes": 26_214_401}


def test_a_file_is_refused_as_soon_as_it_is_too_large() -> None:
    reader = MultipartReader(CONTENT_TYPE, max_file_bytes=10)
    reader.feed(file(b"x" * 10)[:-2])
    with pytest.raises(Fault) as caught:
        reader.feed(b"y")
    assert caught.value.numbers == {"limit_bytes": 10, "read_bytes": 11}


def test_a_reader_that_refused_goes_on_refusing() -> None:
    reader = MultipartReader(CONTENT_TYPE, max_file_bytes=1)
    for data in (file(b"xy"), body(file(b"x"))):
        assert code_of(refused(data, reader=reader)) is ErrorCode.FILE_TOO_LARGE
    assert code_of(refused(reader=reader)) is ErrorCode.FILE_TOO_LARGE


HEADERS = {"limit_headers": 16, "limit_header_bytes": 8192}


@pytest.mark.parametrize(
    ("limits", "fits", "one_more", "numbers"),
    [
        ({"parts": 2}, [field("a", "1"), file()], field("b", "2"), {"limit_parts": 2}),
        ({"name_bytes": 3}, [field("abc", "1")], field("abcd", "1"), {"limit_name_bytes": 3}),
        ({"name_bytes": 3}, [field("é", "1")], field("éé", "1"), {"limit_name_bytes": 3}),
        ({"field_bytes": 4}, [field("a", "1234")], field("a", "12345"), {"limit_field_bytes": 4}),
        ({"fields_bytes": 8}, [field("a", "1234"), field("a", "1234")], field("b", "1"), {"limit_fields_bytes": 8}),
        ({"part_headers": 2}, [file()], part('name="a"', b"", "A: b", "C: d"), HEADERS | {"limit_headers": 2}),
        (
            {"header_line_bytes": 70},
            [file()],
            part('name="a"', b"", "A: " + "b" * 70),
            HEADERS | {"limit_header_bytes": 70},
        ),
    ],
)
def test_each_bound_refuses_what_exceeds_it(
    limits: dict[str, int], fits: list[bytes], one_more: bytes, numbers: dict[str, int]
) -> None:
    read(body(*fits), limited(**limits))
    error = refused(body(*fits, one_more), reader=limited(**limits))
    assert (code_of(error), param_of(error), error.numbers) == (ErrorCode.INVALID_MULTIPART, None, numbers)


def test_a_body_that_never_ends_is_refused() -> None:
    reader = MultipartReader(CONTENT_TYPE, max_file_bytes=100, limits=Limits(framing_bytes=1000))
    error = refused(body(file()), *[b"\r\n" * 100] * 6, reader=reader)
    assert code_of(error) is ErrorCode.FILE_TOO_LARGE
    assert error.numbers == {"limit_bytes": 100, "read_bytes": 1179}


def test_a_file_sent_as_text_has_the_wrong_type() -> None:
    error = refused(body(field("file", "RIFF")))
    assert (code_of(error), param_of(error)) == (ErrorCode.INVALID_TYPE, "file")


def test_a_file_in_another_field_has_the_wrong_type() -> None:
    error = refused(body(part('name="prompt"; filename="blob"', b"x")))
    assert (code_of(error), param_of(error)) == (ErrorCode.INVALID_TYPE, None)


def test_two_files_are_refused() -> None:
    error = refused(body(file(b""), file(b"")))
    assert (code_of(error), param_of(error)) == (ErrorCode.INVALID_VALUE, "file")


PASTED = [
    'name="file"; filename="my "best" take.wav"',
    'name="file"; filename="""',
    'name="file"; filename="C:\\recordings\\"',
    'name="file"; filename="a.wav\\"',
    'name="file"; filename=my best take.wav',
    "name=file; filename= a b ; c.wav",
    'name="file"; filename="a"b.wav"; filename*=UTF-8\'\'a%22b.wav',
    'NAME="file";FILENAME="a" b',
]
"""File names as scripts paste them into the header, without a thought for its syntax."""


@pytest.mark.parametrize(
    "disposition",
    [
        'name="file"; filename="a\\"b;c.wav"',
        'name="file"; filename=""',
        "name=file; filename=a.wav",
        "name=\"file\"; filename*=UTF-8''%e2%82%ac.wav",
        'name="file"; filename="C:\\dir\\a.wav"',
        'NAME="file" ; FileName = "a.wav" ; ',
        *PASTED,
        'name="file"; filename="日本.wav"',
    ],
)
def test_a_file_is_known_by_its_file_name_however_spelled(disposition: str) -> None:
    assert audio_of(read(body(part(disposition, AUDIO)))) == AUDIO


@pytest.mark.parametrize(
    "disposition",
    [
        *("", "name=", 'name=""', "filename=a", 'name="a', 'name="a"b', 'name="a" name="b"', 'name="a"; name="b"'),
        *("name*=utf-8''a", 'name="a"; "x"', 'name="a";; x=y'),
    ],
)
def test_a_part_without_exactly_one_clear_name_is_refused(disposition: str) -> None:
    assert code_of(refused(body(part(disposition, b"x")))) is ErrorCode.INVALID_MULTIPART


@pytest.mark.parametrize(
    "disposition",
    [
        'name="file"; filename="a"b"; name="model"',
        'name="file"; filename=a b; name=model',
        'name="file"; filename="a"; filename="b"',
        'name="file"; filename="a"b"; x=y; filename*=UTF-8\'\'a',
        'filename="a\\"; name="file"',
        'filename="a" b; name="file"',
        'name="fi\\"le; filename="a" b',
    ],
)
def test_a_file_name_that_could_hold_another_parameter_is_refused_as_that(disposition: str) -> None:
    error = refused(body(part(disposition, b"x")))
    assert (error.kind, error.subject) == (FaultKind.MALFORMED, FILE_NAME)


@given(st.text(st.characters(min_codepoint=32, exclude_characters=";\x7f", codec="utf-8"), max_size=20))
def test_no_file_name_without_a_semicolon_is_refused(name: str) -> None:
    for pasted in (f'"{name}"', name):
        form = read(body(part(f'name="file"; filename={pasted}', AUDIO), field("a", "b")))
        assert contents(form) == ((("a", "b"),), AUDIO, None)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: text/plain",
        b'Content-Disposition: attachment; name="a"',
        b'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="b"',
        b'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="a"',
        b'Content-Disposition: form-data; name="a"\nX: y',
        b'Content-Disposition: form-data; name="a\x00"',
        b'Content-Disposition: form-data; name="a"\r\n continued',
        b'Content-Disposition : form-data; name="a"',
        b'Content-Disposition: form-data; name="a"\rX: y',
        b": form-data",
        b'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="\xff"',
    ],
)
def test_injected_ambiguous_or_encoded_part_headers_are_refused(headers: bytes) -> None:
    data = f"--{BOUNDARY}\r\n".encode() + headers + b"\r\n\r\nx\r\n" + close()
    assert code_of(refused(data)) is ErrorCode.INVALID_MULTIPART


def test_other_part_headers_are_ignored() -> None:
    headers = ("Content-Length: 1", "X-Anything: at all", "Content-Transfer-Encoding: 8BIT")
    assert read(body(part('name="a"', b"x", *headers))).fields == (("a", "x"),)


@pytest.mark.parametrize(
    ("content_type", "value"),
    [
        ("text/plain", "Zoë".encode()),
        ("text/plain; charset=UTF-8", "Zoë".encode()),
        ('text/plain;charset="utf-8"', "Zoë".encode()),
        ("text/plain; charset=US-ASCII", "Zoë".encode()),
        ("text/plain; charset=ISO-8859-1", b"Zo\xeb"),
        ("application/octet-stream; charset=windows-1252", b"Zo\xeb"),
        ("text/plain; charset=utf-16", "Zoë".encode("utf-16")),
        ("text/plain; charset=utf-16le", "Zoë".encode("utf-16-le")),
        ("text/plain; charset=utf-16be", "Zoë".encode("utf-16-be")),
        ("text/plain; charset", "Zoë".encode()),
        ("nonsense", "Zoë".encode()),
    ],
)
def test_a_field_is_read_in_the_charset_that_its_type_names(content_type: str, value: bytes) -> None:
    form = read(body(part('name="prompt"', value, f"Content-Type: {content_type}")))
    assert form.fields == (("prompt", "Zoë"),)


@pytest.mark.parametrize(
    ("charset", "value"),
    [
        *[(name, b"a") for name in ("utf-7", "koi8-r", "rot13", "base64", "unicode_escape", "idna", "x", "")],
        *[("koi8-r", b""), ("utf-8", b"\xff"), ("us-ascii", b"\xeb"), ("windows-1252", b"\x81"), ("utf-16", b"a")],
        ("utf-16le", b"\x00\xd8"),
    ],
)
def test_a_field_in_another_charset_is_refused_as_that(charset: str, value: bytes) -> None:
    error = refused(body(part('name="a"', value, f'Content-Type: text/plain; charset="{charset}"')))
    assert (error.kind, error.subject) == (FaultKind.MALFORMED, CHARSET)


def test_a_value_that_is_not_utf8_is_refused() -> None:
    assert code_of(refused(body(part('name="a"', b"\xff")))) is ErrorCode.INVALID_MULTIPART


def test_a_replacement_character_is_a_character() -> None:
    assert read(body(field("a", "\ufffd"))).fields == (("a", "\ufffd"),)


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        ("audio/PCM; Rate=16000", MediaType("audio/pcm", {"rate": "16000"})),
        ('audio/l16;rate="8000" ; channels=2;', MediaType("audio/l16", {"rate": "8000", "channels": "2"})),
        ("Audio/L16", MediaType("audio/l16", {})),
        ("audio/pcm; rate", MediaType("audio/pcm", None)),
        ("audio/pcm; rate=8000; rate=16000", MediaType("audio/pcm", None)),
        ("nonsense", None),
        ("a/b/c", None),
        ("", None),
    ],
)
def test_the_media_type_of_the_file_is_kept(header: str, media_type: MediaType | None) -> None:
    form = read(body(part('name="file"; filename="a"', b"x", f"Content-Type: {header}")))
    assert form.audio_type == media_type


LEAKS = [
    f"{CANARY}".encode(),
    f"--{BOUNDARY}{CANARY}".encode(),
    f"--{BOUNDARY}\r\n{CANARY}".encode(),
    f"--{BOUNDARY}\r\n{CANARY}\x01: x\r\n\r\n".encode(),
    body(part(f'name="{CANARY * 100}"', b"x")),
    body(part(f'name="{CANARY}"; filename="{CANARY}"', CANARY.encode())),
    body(part(f'name="{CANARY}', CANARY.encode())),
    body(field("file", CANARY)),
    body(part('name="a"', CANARY.encode() + b"\xff")),
    body(part('name="a"', b"x", f"Content-Transfer-Encoding: {CANARY}")),
    body(field("a", CANARY * 20_000)),
    body(file(CANARY.encode()), file(CANARY.encode())),
    body(file(CANARY.encode()))[:-20],
]


@pytest.mark.parametrize("data", LEAKS, ids=range(len(LEAKS)))
def test_nothing_of_a_refused_body_is_echoed_or_logged(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        error = refused(data)
    trace = "".join(traceback.format_exception(error))
    seen = f"{error!r} {error} {param_of(error)} {to_response(error).body!r} {trace}"
    assert CANARY not in seen
    assert error.__context__ is None
    assert not caplog.records


def test_a_form_does_not_show_what_it_holds() -> None:
    assert CANARY not in repr(read(body(field("a", CANARY), field(CANARY, "b"), file(CANARY.encode()))))
