"""Forms as clients write them, byte for byte: curl, browsers and libraries, and scripts that write them by hand."""

from __future__ import annotations

import asyncio
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import HTTP

import aiohttp
import pytest
from aiohttp.abc import AbstractStreamWriter
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.faults import Fault, FaultKind
from engine.openai.form_headers import TRANSFER_ENCODING
from engine.openai.multipart import Form, MultipartReader
from tests.engine.openai.forms import read

AUDIO = b"RIFF\x00\xff"


def lines(*written: str | bytes) -> bytes:
    return b"\r\n".join(line if isinstance(line, bytes) else line.encode() for line in written)


CURL = (
    "multipart/form-data; boundary=------------------------fc8d6264e3219d56",
    lines(
        "--------------------------fc8d6264e3219d56",
        'Content-Disposition: form-data; name="file"; filename="a %22b%22 c;d.wav"',
        "Content-Type: application/octet-stream",
        "",
        AUDIO,
        "--------------------------fc8d6264e3219d56",
        'Content-Disposition: form-data; name="prompt"',
        "",
        "Zoë",
        "--------------------------fc8d6264e3219d56--",
        "",
    ),
)
OLDER_CURL = (
    CURL[0],
    CURL[1].replace(b"%22", b'\\"'),  # before 7.81
)
BROWSER = (
    "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
    lines(
        "------WebKitFormBoundary7MA4YWxkTrZu0gW",
        'Content-Disposition: form-data; name="prompt"',
        "",
        "Zoë",
        "------WebKitFormBoundary7MA4YWxkTrZu0gW",
        'Content-Disposition: form-data; name="file"; filename="C:\\d\\a %22b%22.wav"',
        "Content-Type: audio/wav",
        "",
        AUDIO,
        "------WebKitFormBoundary7MA4YWxkTrZu0gW--",
        "",
    ),
)
# A file name that ends in a backslash, which nobody escapes.
NODE = (
    "multipart/form-data; boundary=----formdata-undici-070718714192",
    lines(
        "------formdata-undici-070718714192",
        'Content-Disposition: form-data; name="prompt"',
        "",
        "Zoë",
        "------formdata-undici-070718714192",
        'Content-Disposition: form-data; name="file"; filename="a\\"',
        "Content-Type: application/octet-stream",
        "",
        AUDIO,
        "------formdata-undici-070718714192--",
        "",
    ),
)
# The npm package form-data before 4, as workflow programs embed it: quotes as they are.
NODE_PACKAGE = (
    "multipart/form-data; boundary=--------------------------515890814546601021194782",
    lines(
        "----------------------------515890814546601021194782",
        'Content-Disposition: form-data; name="prompt"',
        "",
        "Zoë",
        "----------------------------515890814546601021194782",
        'Content-Disposition: form-data; name="file"; filename="my "best" take.wav"',
        "Content-Type: audio/wav",
        "",
        AUDIO,
        "----------------------------515890814546601021194782--",
        "",
    ),
)
DOTNET = (
    'multipart/form-data; boundary="5f0c5d3e-6a3c-4d0e-9a43-6d2f0a4e6c11"',
    lines(
        "--5f0c5d3e-6a3c-4d0e-9a43-6d2f0a4e6c11",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Disposition: form-data; name=prompt",
        "",
        "Zoë",
        "--5f0c5d3e-6a3c-4d0e-9a43-6d2f0a4e6c11",
        "Content-Disposition: form-data; name=file; filename=\"my take.wav\"; filename*=utf-8''my%20take.wav",
        "",
        AUDIO,
        "--5f0c5d3e-6a3c-4d0e-9a43-6d2f0a4e6c11--",
        "",
    ),
)
APACHE = (
    "multipart/form-data; boundary=Xy-3_kJ9QbLw0pA; charset=ISO-8859-1",
    lines(
        "--Xy-3_kJ9QbLw0pA",
        'Content-Disposition: form-data; name="prompt"',
        "Content-Type: text/plain; charset=ISO-8859-1",
        "Content-Transfer-Encoding: 8bit",
        "",
        b"Zo\xeb",
        "--Xy-3_kJ9QbLw0pA",
        'Content-Disposition: form-data; name="file"; filename="a.wav"',
        "Content-Type: application/octet-stream",
        "Content-Transfer-Encoding: binary",
        "",
        AUDIO,
        "--Xy-3_kJ9QbLw0pA--",
        "",
    ),
)
ANDROID_TUTORIAL = (
    "multipart/form-data;boundary=*****",
    lines(
        "--*****",
        'Content-Disposition: form-data; name="prompt"',
        "",
        "Zoë",
        "--*****",
        'Content-Disposition: form-data; name="file";filename="a.wav"',
        "",
        AUDIO,
        "--*****--",
        "",
    ),
)
# With a preamble, blanks after its boundaries and an epilogue, as RFC 2046 (section 5.1.1) shows the format.
BY_THE_BOOK = (
    'multipart/form-data; boundary="gc0p4Jq0M2Yt08j34c0p"',
    lines(
        "This is a multi-part message in MIME format.",
        "",
        "--gc0p4Jq0M2Yt08j34c0p  ",
        'Content-Disposition: form-data; name="prompt"',
        "Content-Type: text/plain; charset=utf-16le",
        "",
        "Zoë".encode("utf-16-le"),
        "--gc0p4Jq0M2Yt08j34c0p\t",
        "Content-Disposition: form-data; name=file; filename=my take.wav",
        "",
        AUDIO,
        "--gc0p4Jq0M2Yt08j34c0p-- ",
        "This is the epilogue.  It is also to be ignored.",
    ),
)

CLIENTS = {
    "curl": CURL,
    "older curl": OLDER_CURL,
    "a browser": BROWSER,
    "node": NODE,
    "form-data of npm": NODE_PACKAGE,
    ".NET": DOTNET,
    "Apache": APACHE,
    "an Android tutorial": ANDROID_TUTORIAL,
    "RFC 2046": BY_THE_BOOK,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_form_is_read_whoever_wrote_it(client: str) -> None:
    content_type, data = CLIENTS[client]
    reader = MultipartReader(content_type)
    for start in range(len(data)):
        reader.feed(data[start : start + 1])
    for form in (reader.finish(), read(data, MultipartReader(content_type))):
        assert form.fields == (("prompt", "Zoë"),)
        assert form.audio == bytearray(AUDIO)


class Written(AbstractStreamWriter):
    """What aiohttp would have sent."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.data += chunk

    async def write_eof(self, chunk: bytes = b"") -> None: ...

    async def drain(self) -> None: ...

    def enable_compression(self, *args: object, **kwargs: object) -> None: ...

    def enable_chunking(self) -> None: ...

    async def write_headers(self, *args: object, **kwargs: object) -> None: ...


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20), st.booleans())
def test_a_file_of_any_name_arrives_from_aiohttp(name: str, quote: bool) -> None:
    writing = aiohttp.FormData(quote_fields=quote)
    writing.add_field("prompt", "Zoë")
    writing.add_field("file", AUDIO, filename=name)
    payload, written = writing(), Written()
    asyncio.run(payload.write(written))
    form = read(bytes(written.data), MultipartReader(payload.headers["Content-Type"]))
    assert (form.fields, form.audio) == ((("prompt", "Zoë"),), bytearray(AUDIO))


def mailed(*parts: MIMEText | MIMEApplication) -> Form:
    """The form that a script makes with the library for mail."""
    message = MIMEMultipart("form-data", policy=HTTP)
    message.preamble = "This is a multi-part message in MIME format."
    for part in parts:
        message.attach(part)
    head, _, data = message.as_bytes(policy=HTTP).partition(b"\r\n\r\n")
    [content_type] = [message["Content-Type"]]
    assert b"multipart/form-data" in head
    return read(data, MultipartReader(content_type))


def test_a_form_made_with_the_library_for_mail_is_read_and_its_base64_refused_by_name() -> None:
    prompt = MIMEText("Zoe", "plain", "us-ascii", policy=HTTP)
    prompt.add_header("Content-Disposition", "form-data", name="prompt")
    assert mailed(prompt).fields == (("prompt", "Zoe"),)
    audio = MIMEApplication(AUDIO, policy=HTTP)
    audio.add_header("Content-Disposition", "form-data", name="file", filename="a.wav")
    with pytest.raises(Fault) as caught:
        mailed(prompt, audio)
    assert (caught.value.kind, caught.value.subject) == (FaultKind.MALFORMED, TRANSFER_ENCODING)
