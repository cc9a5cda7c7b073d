"""What cannot be a job is not one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.jobs.model import JobOptions, JobStatus


def test_a_count_of_speakers_without_telling_them_apart_means_nothing() -> None:
    plain = JobOptions()
    with pytest.raises(ValueError, match="diarize"):
        replace(plain, speaker_count=2)
    with pytest.raises(ValueError, match="diarize"):
        replace(plain, min_speakers=2)
    with pytest.raises(ValueError, match="diarize"):
        replace(plain, max_speakers=2)


def test_there_are_no_more_speakers_at_least_than_at_most() -> None:
    with pytest.raises(ValueError, match="at most"):
        JobOptions(diarize=True, min_speakers=3, max_speakers=2)


def test_a_job_is_over_when_it_completed_or_failed() -> None:
    assert {status for status in JobStatus if status.is_final} == {JobStatus.COMPLETED, JobStatus.FAILED}
