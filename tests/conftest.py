"""What every package's tests may use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.testing import LogCapture

from tests.engine.backends.real_vllm import vllm_engine  # noqa: F401  one server for all tests that want one

# onnxruntime reports its use at import, over the network and through files; here as in the programs it must not.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long an example takes says something of the machine and of what else runs on it, not of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What programs remember and cache for their user stays out of the home directory of whoever runs the tests."""
    home = tmp_path_factory.mktemp("home")
    os.environ.update(XDG_DATA_HOME=str(home / "data"), XDG_CACHE_HOME=str(home / "cache"))


@pytest.fixture
def log() -> Iterator[LogCapture]:
    """Everything that is logged through structlog meanwhile, as `log.entries`."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield capture
    structlog.configure(**before)
