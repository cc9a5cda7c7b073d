"""What are webhooks told when a job is final? Each API's own body, made from the job each time that it is sent.

AudioToTextAI promises the results, segments and all. Scriptivox's document shows no body: it gets the event and the job
without its result, so that whoever is told fetches what was said with a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.dialects.audiototext import rendering as audiototext
from proxy.dialects.audiototext.routes import DIALECT as AUDIOTOTEXT
from proxy.dialects.scriptivox import rendering as scriptivox
from proxy.dialects.scriptivox.routes import DIALECT as SCRIPTIVOX
from proxy.jobs.model import Job, JobStatus, WebhookEvent
from proxy.jobs.ports import Jobs
from proxy.jobs.webhooks import Bodies


def bodies(jobs: Jobs) -> Mapping[str, Bodies]:
    """By the name of the dialect that a job has."""
    return {SCRIPTIVOX: ScriptivoxBodies(), AUDIOTOTEXT: AudioToTextBodies(jobs)}


@dataclass(frozen=True, slots=True)
class ScriptivoxBodies:
    async def body(self, job: Job, event: WebhookEvent) -> bytes | None:
        told = {"event": f"transcription.{event.value}", "data": scriptivox.item(job)}
        return json.dumps(told, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class AudioToTextBodies:
    jobs: Jobs

    async def body(self, job: Job, event: WebhookEvent) -> bytes | None:  # noqa: ARG002 - the job says it too
        """Raises MissingError, StoreError."""
        result = await self.jobs.result(job.account, job.id) if job.status is JobStatus.COMPLETED else None
        return json.dumps(audiototext.job(job, result, segments=True), ensure_ascii=False).encode()
