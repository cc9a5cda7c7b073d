"""What is sent to the engine where nothing is cut? The whole recording as one part."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePath

from proxy.jobs.errors import FailedError
from proxy.jobs.model import Failure, FailureKind, JobOptions, PartPlan, Plan
from proxy.jobs.ports import Recording


@dataclass(frozen=True, slots=True)
class WholeContent:
    """A recording as it is. Its name is kept here: of that the engine is told the extension at most."""

    recording: Recording

    @property
    def filename(self) -> str:
        suffix = PurePath(self.recording.name or "").suffix.lower()
        return f"recording{suffix}" if suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= 6 else "recording"

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.filename)[0] or "application/octet-stream"

    def stream(self) -> AsyncIterator[bytes]:
        return self.recording.stream()


class WholeFile:
    """A `Splitter` that cuts nothing. The length of a recording is known only once it was heard."""

    async def plan(self, recording: Recording, _: JobOptions, *, max_audio_ms: int | None = None) -> Plan:  # noqa: ARG002 - not known here
        if recording.size_bytes == 0:
            raise FailedError(Failure(FailureKind.MEDIA_UNREADABLE))
        return Plan((PartPlan(0),))

    async def cut(self, recording: Recording, _: PartPlan) -> WholeContent:
        return WholeContent(recording)
