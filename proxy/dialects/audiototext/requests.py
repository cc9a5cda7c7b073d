"""What does a request of AudioToTextAI's API ask for? The same options in a form and in JSON.

In a form every value is text: flags are true/false, 1/0, on/off, yes/no, and the vocabulary is a JSON array or has
commas. Unknown fields are left alone, as the document does not forbid them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core.program import strictjson
from proxy.dialects import extensions
from proxy.dialects.audiototext.errors import AudioToTextError, bad
from proxy.dialects.languages import NAMES, is_heard
from proxy.dialects.links import MAX_URL_CHARS, is_link
from proxy.jobs.model import Capabilities, JobOptions

MAX_BODY_BYTES: Final = 262_144
MAX_TERMS: Final = 100
MAX_TERM_CHARS: Final = 100

MODELS: Final = {"whisper-large-v3": "whisper-large-v3", "whisper-turbo": "whisper-large-v3-turbo"}
"""As the API names them, and as an engine does."""

ASKED_LANGUAGE: Final = "language"
UNTIMED: Final = "untimed"
"""In `JobOptions.extra`: `timestamps` was false."""

_TRUE: Final = ("true", "1", "on", "yes")
_FALSE: Final = ("false", "0", "off", "no", "")


def parse_url_request(body: bytes, can: Capabilities) -> tuple[str, JobOptions]:
    """The link and the options. Raises AudioToTextError."""
    try:
        fields = strictjson.loads(body, max_bytes=MAX_BODY_BYTES)
    except ValueError as exc:
        raise bad(f"The request body is not what it should be: {exc}.") from None
    if not isinstance(fields, dict):
        raise bad("The request body must be a JSON object.")
    url = fields.get("url")
    _check_link("url", url)
    return str(url), parse_options(fields, can)


def parse_options(fields: Mapping[str, Any], can: Capabilities) -> JobOptions:
    """Raises AudioToTextError, also for what the engine cannot do."""
    code = _language(fields.get("language"))
    diarize = parse_flag(fields, "diarization", default=False)
    words = parse_flag(fields, "word_timestamps", default=False)
    if diarize and not can.diarize:
        raise bad("diarization is not available: the engine in use does not tell speakers apart.")
    if words and not can.words:
        raise bad("word_timestamps is not available: the engine in use does not time words.")
    summary = parse_flag(fields, "summary", default=False)
    if summary and not can.summary:
        raise bad(
            "summary is not available: the engine in use has no model that writes one, and the proxy's extra "
            "`summaries` is not installed."
        )
    if webhook := fields.get("webhook_url"):
        _check_link("webhook_url", webhook)
    extra = {} if code is None or is_heard(code) else {ASKED_LANGUAGE: code}
    if not parse_flag(fields, "timestamps", default=True):
        extra[UNTIMED] = "true"
    options = JobOptions(
        model=_model(fields.get("model")),
        language=None if code is None or not is_heard(code) else code,
        vocabulary=_vocabulary(fields.get("vocabulary")),
        words=words,
        diarize=diarize,
        summary=summary,
        webhook_url=webhook or None,
        extra=extra,
    )
    try:
        return extensions.extended(options, fields, can)
    except extensions.ExtensionError as exc:
        raise bad(str(exc)) from None


def parse_flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Raises AudioToTextError."""
    value = fields.get(name, default)
    text = value.strip().lower() if isinstance(value, str) else None
    if isinstance(value, bool):
        return value
    if text not in (*_TRUE, *_FALSE):
        raise bad(f"{name} must be true or false.")
    return text in _TRUE


def _model(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in MODELS:
        raise bad(f"model must be one of: {', '.join(MODELS)}")
    return MODELS[value]


def _language(value: object) -> str | None:
    if value is None or value == "":
        return None
    code = value.lower() if isinstance(value, str) else ""
    if code not in NAMES:
        raise bad("language must be one of the codes of GET /api/v1/languages/, or empty.")
    return code


def _check_link(name: str, value: object) -> None:
    if not isinstance(value, str) or not is_link(value):
        raise bad(f"{name} must be an http or https URL of at most {MAX_URL_CHARS} characters.")


def _vocabulary(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = _array(value)
    if not isinstance(value, list) or not all(isinstance(term, str) for term in value):
        raise _not_a_vocabulary()
    terms = tuple(term.strip() for term in value if term.strip())
    if len(terms) > MAX_TERMS or any(len(term) > MAX_TERM_CHARS for term in terms):
        raise bad(f"vocabulary must have at most {MAX_TERMS} terms of {MAX_TERM_CHARS} characters.")
    return terms


def _array(text: str) -> object:
    if not text.lstrip().startswith("["):
        return text.split(",")
    try:
        return strictjson.loads(text.encode(), max_bytes=MAX_BODY_BYTES)
    except ValueError:
        raise _not_a_vocabulary() from None


def _not_a_vocabulary() -> AudioToTextError:
    return bad("vocabulary must be a JSON array of strings, or strings with commas between them.")
