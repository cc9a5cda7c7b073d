"""Which files do the job APIs take by name, and what is their media type? The 25 of Scriptivox, 10 audio and 15 video.

What a file really is, the decoder finds out by its bytes; its name only opens the door.
"""

from __future__ import annotations

from typing import Final

MEDIA_TYPES: Final = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "m4a": "audio/mp4",
    "aac": "audio/aac",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "wma": "audio/x-ms-wma",
    "aiff": "audio/aiff",
    "caf": "audio/x-caf",
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "avi": "video/x-msvideo",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
    "flv": "video/x-flv",
    "m4v": "video/x-m4v",
    "3gp": "video/3gpp",
    "mpeg": "video/mpeg",
    "mts": "video/mp2t",
    "ogv": "video/ogg",
    "ts": "video/mp2t",
    "vob": "video/dvd",
    "f4v": "video/mp4",
}
"""Extension, in lower case, to media type."""
