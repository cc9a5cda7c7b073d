"""What every package's tests may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.testing import LogCapture

# onnxruntime reports its use at import, over the network and through files; here as in the programs it must not.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes says something of the machine and of what else runs on it, not of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def log() -> Iterator[LogCapture]:
    """Everything that is logged through structlog meanwhile, as `log.entries`."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield capture
    structlog.configure(**before)
