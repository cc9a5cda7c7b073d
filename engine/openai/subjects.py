"""Which field of a form is at fault? Where OpenAI's name for a thing is not the name it has among ourselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from core.transcript.faults import AUDIO, LANGUAGE, MODEL, Fault, Subject, option

_FIELDS: Final[Mapping[Subject, str]] = {AUDIO: "file", LANGUAGE: "language", MODEL: "model"}
_SUBJECTS: Final[Mapping[str, Subject]] = {field: subject for subject, field in _FIELDS.items()}


def param_of(fault: Fault) -> str | None:
    """The form field that is at fault, where one is."""
    subject = fault.subject
    if subject is None:
        return None
    return subject.name if subject.is_option else _FIELDS.get(subject)


def subject_of(field: str) -> Subject:
    """What a form field is about: an option of its name, unless it has one among ourselves."""
    return _SUBJECTS.get(field, option(field))
