"""The client code that the documents of the APIs publish, as it stands there.

What was changed is named in `adapted`: the address, and the file where one is opened. The documents set it without line
breaks; they are put back.
"""

from __future__ import annotations

from typing import Final

SCRIPTIVOX: Final = "https://api.scriptivox.com/v1"
AUDIOTOTEXT: Final = "https://audiototextai.com/api/v1"
PRIVOCIO: Final = "https://api.privocio.com"

SCRIPTIVOX_LINK: Final = """
import requests
resp = requests.post(
    "https://api.scriptivox.com/v1/transcribe",
    headers={"Authorization": "sk_live_YOUR_KEY"},
    json={"url": "https://example.com/podcast-episode.mp3","diarize": True,"language": "en"})
job = resp.json()
# Poll for status
import time
while True:
    result = requests.get(
        f"https://api.scriptivox.com/v1/transcribe/{job['id']}",
        headers={"Authorization": "sk_live_YOUR_KEY"}).json()
    if result["status"] in ("completed", "failed"):
        break
    time.sleep(5)
"""

SCRIPTIVOX_UPLOAD: Final = """
import requests
resp = requests.post(
    "https://api.scriptivox.com/v1/upload",
    headers={"Authorization": "sk_live_YOUR_KEY"},
    json={"filename": "meeting.mp3"})
upload = resp.json()
with open("meeting.mp3", "rb") as f:
    requests.put(upload["upload_url"],headers=upload["headers"], data=f)
"""

SCRIPTIVOX_TRANSCRIBE: Final = """
resp = requests.post(
    "https://api.scriptivox.com/v1/transcribe",
    headers={"Authorization": "sk_live_YOUR_KEY"},
    json={"upload_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890","diarize": True,"speaker_count": 2,"language": "en"})
job = resp.json()
# Poll for status
import time
while True:
    result = requests.get(
        f"https://api.scriptivox.com/v1/transcribe/{job['id']}",
        headers={"Authorization": "sk_live_YOUR_KEY"}).json()
    if result["status"] in ("completed", "failed"):
        break
    time.sleep(5)
"""

SCRIPTIVOX_RESULT: Final = """
resp = requests.get(
    f"https://api.scriptivox.com/v1/transcribe/{job['id']}",
    headers={"Authorization": "sk_live_YOUR_KEY"})
result = resp.json()
if result["status"] == "completed":
    print(result["result"]["full_transcript"])
"""

SCRIPTIVOX_LIST: Final = """
import requests
resp = requests.get(
    "https://api.scriptivox.com/v1/transcriptions",
    headers={"Authorization": "sk_live_YOUR_KEY"},
    params={"status": "completed", "limit": 20})
page = resp.json()
for item in page["items"]:
    print(item["id"], item["status"])
if page["next_cursor"]:
    # fetch the next page
    resp = requests.get(
        "https://api.scriptivox.com/v1/transcriptions",
        headers={"Authorization": "sk_live_YOUR_KEY"},
        params={"cursor": page["next_cursor"]})
"""

SCRIPTIVOX_CANCEL: Final = """
import requests
requests.post(
    f"https://api.scriptivox.com/v1/transcribe/{transcription_id}/cancel",
    headers={"Authorization": "sk_live_YOUR_KEY"})
"""

SCRIPTIVOX_DELETE: Final = """
import requests
requests.delete(
    f"https://api.scriptivox.com/v1/transcribe/{transcription_id}",
    headers={"Authorization": "sk_live_YOUR_KEY"})
"""

SCRIPTIVOX_BALANCE: Final = """
import requests
resp = requests.get(
    "https://api.scriptivox.com/v1/balance",
    headers={"Authorization": "sk_live_YOUR_KEY"})
balance = resp.json()
print(f"Available: ${balance['available_cents'] / 100:.2f}")
print(f"Hours remaining: {balance['estimated_hours_available']:.1f}")
"""

SCRIPTIVOX_CAPTIONS: Final = r"""
# Short cues (TikTok-style, max 3 words, 2.5s each, no sentence-awareness)
curl "https://api.scriptivox.com/v1/transcribe/{id}?format=srt&max_words=3&max_duration=3&sentence_aware=false" \
  -H "Authorization: sk_live_YOUR_KEY"
# Standard SRT with default settings
curl "https://api.scriptivox.com/v1/transcribe/{id}?format=srt" \
  -H "Authorization: sk_live_YOUR_KEY"
# WebVTT, always show speaker tags, strip filler punctuation
curl "https://api.scriptivox.com/v1/transcribe/{id}?format=vtt&include_speakers=true&strip_chars=,." \
  -H "Authorization: sk_live_YOUR_KEY"
# Plain text without speaker prefixes
curl "https://api.scriptivox.com/v1/transcribe/{id}?format=text&include_speakers=false" \
  -H "Authorization: sk_live_YOUR_KEY"
"""

SCRIPTIVOX_IDEMPOTENCY: Final = r"""
curl -X POST https://api.scriptivox.com/v1/transcribe \
  -H "Authorization: sk_live_YOUR_KEY" \
  -H "Idempotency-Key: 7c8f5b3a-1234-4d56-90ab-cdef01234567" \
  -H "Content-Type: application/json" \
  -d '{"url": "https://example.com/audio.mp3"}'
"""

AUDIOTOTEXT_PYTHON: Final = """
import requests

API_KEY = "your-api-key"
BASE_URL = "https://audiototextai.com/api/v1"

# Upload and transcribe
with open("audio.mp3", "rb") as f:
    response = requests.post(
        f"{BASE_URL}/transcribe/",
        headers={"Authorization": f"Bearer {API_KEY}"},
        files={"file": f},
        data={"diarization": "true"}
    )
    job = response.json()
    print(f"Job ID: {job['id']}")

# Poll for results
import time
while True:
    result = requests.get(
        f"{BASE_URL}/transcribe/{job['id']}/",
        headers={"Authorization": f"Bearer {API_KEY}"},
        params={"segments": "true"}
    ).json()

    if result["status"] == "completed":
        print(result["transcript"])
        break
    elif result["status"] == "failed":
        print(f"Error: {result['error_message']}")
        break

    time.sleep(5)
"""

AUDIOTOTEXT_NODE: Final = """
const fs = require('fs');
const axios = require('axios');
const FormData = require('form-data');

const API_KEY = 'your-api-key';
const BASE_URL = 'https://audiototextai.com/api/v1';

async function transcribe(filePath) {
    const form = new FormData();
    form.append('file', fs.createReadStream(filePath));
    form.append('diarization', 'true');

    const { data: job } = await axios.post(
        `${BASE_URL}/transcribe/`,
        form,
        {
            headers: {
                'Authorization': `Bearer ${API_KEY}`,
                ...form.getHeaders()
            }
        }
    );

    console.log(`Job ID: ${job.id}`);

    // Poll for results
    while (true) {
        const { data: result } = await axios.get(
            `${BASE_URL}/transcribe/${job.id}/`,
            { headers: { 'Authorization': `Bearer ${API_KEY}` } }
        );

        if (result.status === 'completed') {
            return result;
        } else if (result.status === 'failed') {
            throw new Error(result.error_message);
        }

        await new Promise(r => setTimeout(r, 5000));
    }
}

transcribe('./audio.mp3').then(console.log);
"""

AUDIOTOTEXT_CURL_FILE: Final = r"""
curl -X POST https://audiototextai.com/api/v1/transcribe/ \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "file=@audio.mp3" \
  -F "diarization=true" \
  -F "language=en"
"""

AUDIOTOTEXT_CURL_LINK: Final = r"""
curl -X POST https://audiototextai.com/api/v1/transcribe/url/ \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{"url": "https://example.com/podcast.mp3", "diarization": true}'
"""

AUDIOTOTEXT_CURL_WEBHOOK: Final = r"""
curl -X POST https://audiototextai.com/api/v1/transcribe/ \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "file=@audio.mp3" \
  -F "webhook_url=https://yourapp.com/transcription-complete"
"""


PRIVOCIO_HTTPX: Final = """
import httpx

API_BASE = "https://api.privocio.com"
API_KEY = "YOUR_API_KEY"

with open("recording.wav", "rb") as audio_file:
    files = {"file": ("recording.wav", audio_file, "audio/wav")}
    data = {"model": "whisper-1", "language": "en"}
    response = httpx.post(
        f"{API_BASE}/v1/transcriptions",
        headers={"Authorization": f"Bearer {API_KEY}"},
        files=files,
        data=data,
        timeout=600.0,
    )
response.raise_for_status()
print(response.json())
"""

PRIVOCIO_GUIDE: Final = """
import os
import httpx

API_BASE = "https://api.privocio.com"
API_KEY = os.environ["PRIVOCIO_API_KEY"]

def transcribe_audio(path: str, language: str = "en") -> dict:
    with open(path, "rb") as audio_file:
        files = {"file": (path, audio_file, "audio/wav")}
        data = {
            "model": "whisper-1",
            "language": language,
        }
        response = httpx.post(
            f"{API_BASE}/v1/transcriptions",
            headers={"Authorization": f"Bearer {API_KEY}"},
            files=files,
            data=data,
            timeout=600.0,
        )
    response.raise_for_status()
    return response.json()

if __name__ == "__main__":
    transcript = transcribe_audio("recording.wav")
    print(transcript)
"""

PRIVOCIO_FETCH: Final = """
const API_BASE = "https://api.privocio.com";
const API_KEY = process.env.PRIVOCIO_API_KEY;
const form = new FormData();
form.append("file", audioBlob, "recording.wav");
form.append("model", "whisper-1");
form.append("language", "en");
const res = await fetch(`${API_BASE}/v1/transcriptions`, {
  method: "POST",
  headers: { Authorization: `Bearer ${API_KEY}` },
  body: form,
});
if (!res.ok) {
  const err = await res.json().catch(() => ({}));
  throw new Error(JSON.stringify(err));
}
const data = await res.json();
console.log(data.text);
"""

PRIVOCIO_STREAM: Final = r"""
const form = new FormData();
form.append("file", audioFile);
form.append("model", "whisper-1");
const res = await fetch("https://api.privocio.com/v1/transcriptions/stream", {
  method: "POST",
  headers: { Authorization: "Bearer YOUR_API_KEY" },
  body: form,
});
const reader = res.body.getReader();
const decoder = new TextDecoder();
let buffer = "";
while (true) {
  const { done, value } = await reader.read();
  if (done) break;
  buffer += decoder.decode(value, { stream: true });
  while (buffer.includes("\n\n")) {
    const idx = buffer.indexOf("\n\n");
    const block = buffer.slice(0, idx);
    buffer = buffer.slice(idx + 2);
    const match = block.match(/^event: (.+)\ndata: (.+)$/s);
    if (!match) continue;
    const [, event, data] = match;
    const parsed = JSON.parse(data);
    if (event === "segment") {
      console.log(parsed.text);
    }
  }
}
"""

PRIVOCIO_CURL: Final = r"""
# Health check (no auth)
curl -sS https://api.privocio.com/healthz | jq .
# Who am I (session or API key)
curl -sS -H "Authorization: Bearer YOUR_API_KEY" \
  https://api.privocio.com/v1/me | jq .
# Transcribe an audio file (batch — waits for full result)
curl -X POST https://api.privocio.com/v1/transcriptions \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "file=@recording.wav" \
  -F "model=whisper-1" \
  -F "language=en"
# Dedicated streaming route (SSE — segments in real time)
curl -N -X POST https://api.privocio.com/v1/transcriptions/stream \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "file=@recording.wav" \
  -F "model=whisper-1"
# Or use stream=true on the standard transcription endpoint
curl -N -X POST https://api.privocio.com/v1/transcriptions \
  -H "Authorization: Bearer YOUR_API_KEY" \
  -F "file=@recording.wav" \
  -F "model=whisper-1" \
  -F "stream=true"
"""


def adapted(code: str, url: str) -> str:
    """The code with the address of a proxy in place of each service's."""
    code = code.replace(SCRIPTIVOX, f"{url}/v1").replace(AUDIOTOTEXT, f"{url}/api/v1")
    return code.replace(PRIVOCIO, url)
