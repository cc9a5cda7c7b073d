"""What is a caller told? One fixed sentence for every kind of fault at every subject: what is wrong, and the cure.

What must be sent is said by the row that reads it, so that no range told differs from the one that is checked. Nothing
of a request is quoted; figures in braces are limits and counts of ours, from the fault's `numbers`. Where a sentence
sounds less like the others it is OpenAI's own: clients look for its words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from core.media.types import MAX_FILE_BYTES
from core.transcript.faults import API_KEY, AUDIO, LANGUAGE, MODEL, TRANSCRIPT, Fault, FaultKind, Subject, option
from engine.openai import chunking, fields, form_headers, multipart, raw_audio, speakers
from engine.openai.form_headers import CHARSETS
from engine.openai.rendering import ResponseFormat
from engine.openai.unserved import REFUSED, REFUSED_WITHOUT_SPEAKERS
from engine.openai.values import Many, One, listed
from engine.speech.speakers import MAX_REFERENCE_S, MIN_REFERENCE_S
from engine.summaries import requests
from engine.summaries.summariser import MAX_PARTS

_Sentences = Mapping[tuple[FaultKind, Subject], str]

GENERAL: Final[Mapping[FaultKind, str]] = {
    FaultKind.INTERNAL: "The server had an error while processing your request.",
    FaultKind.INVALID: "A field of the form has a value that is not allowed.",
    FaultKind.MALFORMED: "The request body is not a complete and well-formed multipart/form-data message.",
    FaultKind.MEDIA_TYPE: "The request must be sent as multipart/form-data, without a content encoding.",
    FaultKind.METHOD: "The method is not allowed for this URL.",
    FaultKind.MISSING: "A required parameter is missing.",
    FaultKind.OVERLOADED: "The engine is currently overloaded. Please try again later.",
    FaultKind.OVER_QUOTA: "You exceeded your current quota. A new day of audio begins at 00:00 UTC.",
    FaultKind.OVER_RATE: "Rate limit reached. Please slow down.",
    FaultKind.REPEATED: "A field of the form was sent more than once.",
    FaultKind.TIMED_OUT: "The request timed out.",
    FaultKind.TOO_LARGE: f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded",
    FaultKind.TOO_LONG: "The audio is longer than the limit.",
    FaultKind.TOO_SHORT: "Audio file is too short. Minimum audio length is 0.1 seconds.",
    FaultKind.UNAUTHENTICATED: "Incorrect API key provided: it is not known here, or has expired.",
    FaultKind.UNAVAILABLE: "The speech backend is not available. Please try again.",
    FaultKind.UNKNOWN: "Invalid URL.",
    FaultKind.UNREADABLE: "Invalid file format.",
    FaultKind.UNSUPPORTED: "A parameter is not supported by this model.",
    FaultKind.UNSUPPORTED_VALUE: "A parameter has a value that is not supported by this model.",
    FaultKind.WRONG_TYPE: (
        "A file was sent in another field than `file`. Send the audio in the field `file`, and every other field "
        "without a file name."
    ),
}
"""For a fault without a subject, and for one that no sentence below is about."""

_OF_THE_FILE: Final[_Sentences] = {
    (FaultKind.MALFORMED, AUDIO): f"Raw audio must be {raw_audio.RULE}.",
    (FaultKind.MISSING, AUDIO): "You must provide an audio file in the field `file`.",
    (FaultKind.REPEATED, AUDIO): "`file` must be sent exactly once.",
    (FaultKind.TOO_LARGE, AUDIO): (
        f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded ({{read_bytes}} bytes read)"
    ),
    (FaultKind.TOO_LONG, AUDIO): "The audio is longer than the limit of {limit_s} seconds.",
    (FaultKind.TOO_SHORT, AUDIO): GENERAL[FaultKind.TOO_SHORT],
    (FaultKind.UNREADABLE, AUDIO): (
        "Invalid file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', "
        "'wav', 'webm']"
    ),
    (FaultKind.WRONG_TYPE, AUDIO): (
        "`file` must be an uploaded file, with a file name: with curl `-F file=@PATH`, not `-F file=PATH`."
    ),
}

_OF_THE_FORM: Final[_Sentences] = {
    (FaultKind.MALFORMED, form_headers.BOUNDARY): (
        "The Content-Type must be `multipart/form-data; boundary=...`, with a boundary of 1 to 70 characters that the "
        "body uses too. HTTP libraries write it if the header is left to them."
    ),
    (FaultKind.MALFORMED, form_headers.CHARSET): (
        "A field is not in the charset that its Content-Type names, or not in UTF-8 where it names none. "
        f"{listed(CHARSETS)} are read."
    ),
    (FaultKind.MALFORMED, form_headers.DISPOSITION): (
        'Every part of the form needs a header `Content-Disposition: form-data; name="..."`, with a `;` between its '
        "parameters and none of them twice."
    ),
    (FaultKind.MALFORMED, form_headers.FIELD_NAME): (
        "The name of a field is missing, longer than {limit_name_bytes} bytes, or not in UTF-8."
    ),
    (FaultKind.MALFORMED, form_headers.FILE_NAME): (
        'It is not clear where a file name ends. Write `name="file"; filename="..."`, with %22 for a quote in the '
        "file name and nothing behind it."
    ),
    (FaultKind.MALFORMED, form_headers.TRANSFER_ENCODING): (
        "A part of the form has a Content-Transfer-Encoding. Send its bytes as they are, without that header."
    ),
    (FaultKind.MALFORMED, multipart.BOUNDARY_LINE): "Nothing but blanks may follow a boundary on its line.",
    (FaultKind.MALFORMED, multipart.CLOSING): (
        "The form is cut short: its last line must be `--`, the boundary, and `--` again."
    ),
    (FaultKind.MALFORMED, multipart.FIELD): "A field of the form is larger than {limit_field_bytes} bytes.",
    (FaultKind.MALFORMED, multipart.FIELDS): (
        "The fields of the form are together larger than {limit_fields_bytes} bytes."
    ),
    (FaultKind.MALFORMED, multipart.LINE_END): "The lines of the form must end in CR LF, not in LF alone.",
    (FaultKind.MALFORMED, multipart.OPENING): (
        "Within the first {limit_preamble_bytes} bytes of the form no line is `--` and the boundary that the "
        "Content-Type names."
    ),
    (FaultKind.MALFORMED, multipart.PARTS): "The form has more than {limit_parts} parts.",
    (FaultKind.MALFORMED, multipart.PART_HEADERS): (
        "Each header of a part must be one line `Name: value` of at most {limit_header_bytes} bytes, without control "
        "characters, and stand once; a part may have {limit_headers}."
    ),
}

_BETWEEN_FIELDS: Final[_Sentences] = {
    (FaultKind.INVALID, fields.GRANULARITIES.subject): (
        f"`timestamp_granularities[]` may hold `segment` and `word`; `response_format` must be "
        f"`{ResponseFormat.VERBOSE_JSON}` if `word` (or `word_timestamps`) is asked for."
    ),
    (FaultKind.UNSUPPORTED, fields.GRANULARITIES.subject): (
        "This model does not time words. `timestamp_granularities[]` may hold `segment` only."
    ),
    (FaultKind.UNSUPPORTED_VALUE, fields.GRANULARITIES.subject): (
        "A translation has no word timestamps. `timestamp_granularities[]` may hold `segment` only."
    ),
    (FaultKind.UNSUPPORTED, fields.INCLUDE.subject): (
        "This model does not return log probabilities. Leave `include[]` out."
    ),
    (FaultKind.UNSUPPORTED_VALUE, fields.INCLUDE.subject): (
        "`include[]` may hold `logprobs` with the `response_format` `json`, and in no stream with "
        "`stream_include_usage` or `stream_continuous_usage_stats`; `speaker_embeddings` with `diarized_json`, or with "
        "`verbose_json` and `diarize`, of an engine that tells speakers apart by their voices, which `GET /v1/models` "
        "says."
    ),
    (FaultKind.UNSUPPORTED_VALUE, fields.RESPONSE_FORMAT.subject): (
        "The `response_format` `diarized_json` needs a transcription, and an engine that tells speakers apart, which "
        "`GET /v1/models` says."
    ),
    (FaultKind.UNSUPPORTED_VALUE, fields.STREAM.subject): (
        "`stream` needs the `response_format` `json`, `text` or `diarized_json`, and with the last neither "
        "`stream_include_usage` nor `stream_continuous_usage_stats`."
    ),
    (FaultKind.UNSUPPORTED_VALUE, fields.TASK.subject): (
        "`task` is `transcribe`, but the URL or `translate` asks for a translation. Transcriptions are made at "
        "/v1/audio/transcriptions."
    ),
    **{
        (FaultKind.UNSUPPORTED_VALUE, row.subject): (
            f"This model does not know the language that `{row.name}` names. `GET /v1/models` tells the languages of "
            "each model."
        )
        for row in (fields.LANGUAGE, fields.LANGUAGES)
    },
}

_LENGTH_OF_REFERENCES: Final = (
    f"Each recording in `{speakers.REFERENCES.name}[]` must be {MIN_REFERENCE_S:g} to {MAX_REFERENCE_S:g} seconds long."
)
_OF_SPEAKERS: Final[_Sentences] = {
    (FaultKind.INVALID, speakers.DIARIZE.subject): (
        f"`{speakers.DIARIZE.name}` must be {speakers.DIARIZE.reader.rule}, and needs the `response_format` "
        f"`{ResponseFormat.VERBOSE_JSON}` or `{ResponseFormat.DIARIZED_JSON}`."
    ),
    (
        FaultKind.UNSUPPORTED_VALUE,
        speakers.DIARIZE.subject,
    ): "A translation does not tell speakers apart. Leave `diarize` out.",
    (FaultKind.INVALID, speakers.LEAST.subject): (
        f"`{speakers.LEAST.name}` must be {speakers.LEAST.reader.rule}, and not above `{speakers.MOST.name}`."
    ),
    (FaultKind.INVALID, speakers.NAMES.subject): f"`{speakers.NAMES.name}[]` must be {speakers.NAMES_RULE}.",
    (FaultKind.INVALID, speakers.REFERENCES.subject): (
        f"`{speakers.REFERENCES.name}[]` must hold {speakers.REFERENCES_RULE}, in each of which one voice speaks, and "
        "no other."
    ),
    (FaultKind.TOO_LONG, speakers.REFERENCES.subject): _LENGTH_OF_REFERENCES,
    (FaultKind.TOO_SHORT, speakers.REFERENCES.subject): _LENGTH_OF_REFERENCES,
    (FaultKind.UNREADABLE, speakers.REFERENCES.subject): (
        f"A recording in `{speakers.REFERENCES.name}[]` is of no format that can be read."
    ),
    (FaultKind.UNSUPPORTED, AUDIO): (
        "This engine tells speakers apart by their channels. The audio must have two, with a speaker on each."
    ),
}

_OF_SUMMARIES: Final[_Sentences] = {
    (FaultKind.INVALID, requests.TOPICS): f"`{requests.TOPICS.name}` must be {requests.TOPICS_RULE}.",
    (FaultKind.INVALID, requests.WORDS): f"`{requests.WORDS.name}` must be {requests.WORDS_RULE}.",
    (FaultKind.MALFORMED, TRANSCRIPT): f"The body must be {requests.RULE}.",
    (FaultKind.MEDIA_TYPE, TRANSCRIPT): (
        f"The request must be sent as {requests.CONTENT_TYPE}, without a content encoding."
    ),
    (FaultKind.MISSING, TRANSCRIPT): "The transcript has no text.",
    (FaultKind.TOO_LARGE, TRANSCRIPT): (
        f"The transcript is too long: at most {requests.MAX_BODY_BYTES} bytes of JSON are read, and of their text at "
        f"most {MAX_PARTS} times what fits into the model's context."
    ),
}

_OTHERS: Final[_Sentences] = {
    (FaultKind.INVALID, chunking.SUBJECT): f"`{chunking.NAME}` must be {chunking.RULE}.",
    (FaultKind.REPEATED, chunking.SUBJECT): (
        f"`{chunking.NAME}` or one of its members was sent more than once. Send it once."
    ),
    (FaultKind.MISSING, API_KEY): (
        "You didn't provide an API key. Send it in the header `Authorization: Bearer YOUR_KEY`."
    ),
    (FaultKind.MISSING, MODEL): "You must provide a model parameter. `GET /v1/models` lists the models.",
    (FaultKind.MISSING, LANGUAGE): "You must provide a `language`: this model cannot tell which one is spoken.",
    (FaultKind.UNKNOWN, MODEL): (
        "The model does not exist or you do not have access to it. `GET /v1/models` lists the models."
    ),
    (FaultKind.UNSUPPORTED_VALUE, MODEL): (
        "This model does not translate. `GET /v1/models` tells the tasks of each model."
    ),
    (
        FaultKind.UNSUPPORTED_VALUE,
        option("intent"),
    ): "`intent` must be `transcription`. There are no conversations here.",
    (FaultKind.INVALID, option("idempotency-key")): "`Idempotency-Key` must be 1 to 255 printable ASCII characters.",
    (FaultKind.REPEATED, option("idempotency-key")): (
        "This `Idempotency-Key` came with another request before. Use a new one for each request."
    ),
    (FaultKind.INVALID, option("sottovoce-receipt")): "`Sottovoce-Receipt` must be 1, or left out.",
}


def _of_row(row: One[object] | Many[object]) -> Iterator[tuple[tuple[FaultKind, Subject], str]]:
    """What is said of one value alone."""
    if row.reader.rule:
        yield (row.error, row.subject), f"`{row.name}` must be {row.reader.rule}."
    if isinstance(row, One):
        other = f" (or {listed(row.also)})" if row.also else ""
        yield (FaultKind.REPEATED, row.subject), f"`{row.name}`{other} was sent more than once. Send it once."


def _of_rows() -> Iterator[tuple[tuple[FaultKind, Subject], str]]:
    for row in fields.ROWS:
        yield from _of_row(row)
    for sampling in fields.SAMPLING:
        yield (
            (FaultKind.UNSUPPORTED, sampling.subject),
            f"This model takes no `{sampling.name}` unless its operator lets it (`--sampling-fields`). Leave it out.",
        )
    for refused in (*REFUSED, *REFUSED_WITHOUT_SPEAKERS):
        yield (FaultKind.UNSUPPORTED, option(refused.name)), refused.sentence


SENTENCES: Final[_Sentences] = {
    **dict(_of_rows()),
    **_OF_THE_FILE,
    **_OF_THE_FORM,
    **_BETWEEN_FIELDS,
    **_OF_SPEAKERS,
    **_OF_SUMMARIES,
    **_OTHERS,
}
"""One row for every kind and subject that can occur together."""


def sentence_of(fault: Fault) -> str:
    """The sentence about `fault`, with its figures."""
    general = GENERAL[fault.kind]
    try:
        return SENTENCES[fault.kind, fault.subject].format_map(fault.numbers) if fault.subject else general
    except KeyError:  # a pair that nobody foresaw, or a figure that is not at hand
        return general
