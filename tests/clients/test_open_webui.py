"""What Open WebUI sends when its AUDIO_STT_ENGINE is `openai`, header by header and part by part.

The application itself is too large to install here; its requests are few. Releases up to 0.6 build them with requests,
which gives the file part no Content-Type; later ones with aiohttp, which guesses one from the file's name. Both put
`model` first, then `language` where the user chose one, then the file under a random name with the extension that the
browser's recorder chose. Unless the status is 200 the same is sent once more without `language`. `text` is what is
read of the answer, and `error.message` is what the user is shown.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp
import av
import pytest

from tests.clients.conftest import ALIAS, KEY
from tests.e2e.processes import RECORDING, SAID

pytestmark = pytest.mark.slow

# Sent where ENABLE_FORWARD_USER_INFO_HEADERS is on; the name is percent-encoded.
USER = {
    "X-OpenWebUI-User-Name": "Zo%C3%AB",
    "X-OpenWebUI-User-Id": "5f0b1c9e-7d53-4d29-9a44-0d1f7a2f6a10",
    "X-OpenWebUI-User-Email": "zoe@example.org",
    "X-OpenWebUI-User-Role": "user",
}
Body = tuple[dict[str, str], Any]


def with_aiohttp(fields: dict[str, str], name: str, file: bytes) -> Body:
    form = aiohttp.FormData()
    for key, value in fields.items():
        form.add_field(key, value)
    form.add_field("file", io.BytesIO(file), filename=name)
    return {}, form


def with_requests(fields: dict[str, str], name: str, file: bytes) -> Body:
    boundary = uuid.uuid4().hex
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    texts = "".join(f'{part}{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
    body = f'{texts}{part}file"; filename="{name}"\r\n\r\n'.encode() + file + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "User-Agent": "python-requests/2.32.5",
        "Accept-Encoding": "gzip, deflate, br",
        "Accept": "*/*",
        "Connection": "keep-alive",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    return headers, body


Build = Callable[[dict[str, str], str, bytes], Body]
BUILDS = [with_aiohttp, with_requests]


async def transcribe(
    base_url: str,
    build: Build,
    *,
    language: str | None = None,
    file: bytes | None = None,
    extension: str = "wav",
    model: str = "nano",
    user: dict[str, str] | None = None,
    key: str = KEY,
) -> tuple[int, Any]:
    """One transcription as Open WebUI does it, with its second try; the status and the JSON of the last answer."""
    file = RECORDING.read_bytes() if file is None else file
    name = f"{uuid.uuid4()}.{extension}"
    async with aiohttp.ClientSession() as session:
        for tried in (language, None):
            headers, body = build({"model": model} | ({"language": tried} if tried else {}), name, file)
            headers = {"Authorization": f"Bearer {key}"} | (user or {}) | headers
            async with session.post(f"{base_url}/audio/transcriptions", headers=headers, data=body) as response:
                status, answer = response.status, await response.json()
            if status == 200:
                break
    return status, answer


def recorded(container: str, codec: str) -> bytes:
    """The recording as a browser's MediaRecorder would have stored it."""
    file = io.BytesIO()
    with av.open(str(RECORDING)) as source, av.open(file, "w", format=container) as target:
        stream = target.add_stream(codec, rate=48_000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"model": ALIAS}, {"language": "en"}, {"user": USER}, {"key": ""}],
    ids=["by default", "by an alias", "with a language", "with the user's name", "without a key"],
)
async def test_what_it_sends_becomes_text(base_url: str, build: Build, options: dict[str, Any]) -> None:
    status, answer = await transcribe(base_url, build, **options)
    assert (status, answer["text"]) == (200, SAID)


@pytest.mark.parametrize("build", BUILDS)
async def test_a_language_that_is_none_gives_way_to_detection(base_url: str, build: Build) -> None:
    status, answer = await transcribe(base_url, build, language="klingon")
    assert (status, answer["text"]) == (200, SAID)


@pytest.mark.parametrize(
    ("extension", "container", "codec"), [("webm", "webm", "libopus"), ("mp4", "mp4", "aac"), ("ogg", "ogg", "libopus")]
)
async def test_what_browsers_record_is_understood(base_url: str, extension: str, container: str, codec: str) -> None:
    file = recorded(container, codec)
    status, answer = await transcribe(base_url, with_aiohttp, file=file, extension=extension)
    assert status == 200
    assert isinstance(answer["text"], str)  # of a lossy copy the small checkpoint may hear something else


@pytest.mark.parametrize("build", BUILDS)
async def test_a_refusal_has_a_sentence_to_show(base_url: str, build: Build) -> None:
    status, answer = await transcribe(base_url, build, model="absent")
    assert status == 404
    assert answer["error"]["message"].startswith("The model does not exist")


async def test_its_json_form_which_is_not_openais_is_refused_with_a_sentence(base_url: str) -> None:
    body = {"model": "nano", "input_audio": {"data": "", "format": "wav"}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{base_url}/audio/transcriptions", json=body) as response,
    ):
        answer = await response.json()
    assert response.status == 415
    assert "multipart/form-data" in answer["error"]["message"]
