"""What was heard, in our own API's JSON, where speakers were told apart."""

from __future__ import annotations

import json

from core.transcript.types import Segment, Speaker, Task, Transcript
from proxy.dialects.own.parsing import parse_result
from proxy.dialects.own.rendering import result_body
from proxy.jobs.model import JobResult

SEGMENTS = (Segment(0.0, 1.0, " Hello.", speaker=0), Segment(1.0, 2.0, " It is Bo.", speaker=1))


def test_speakers_are_called_by_name_or_by_letters_as_they_begin() -> None:
    speakers = (Speaker(None, 1.0), Speaker("Bo", 1.0), Speaker(None, 0.5))
    heard = Transcript(Task.TRANSCRIBE, "en", 2.0, "Hello. It is Bo.", SEGMENTS, speakers=speakers)
    told = json.loads(result_body(JobResult(heard), parse_result({}))[0])
    assert [(who["speaker"], who["label"], who["name"]) for who in told["speakers"]] == [
        (0, "A", None),
        (1, "Bo", "Bo"),
        (2, "B", None),
    ]
    assert [segment["speaker"] for segment in told["segments"]] == [0, 1]
