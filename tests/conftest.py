"""What every package's tests may use."""

from __future__ import annotations

import json
import logging  # noqa: TID251 - what it was is put back
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.testing import LogCapture
from xdist.scheduler import LoadScopeScheduling

import core.program.memory
from core.program.logs import LogFormat, LogLevel, configure_logging
from tests.engine.backends.vllm.real_vllm import USE_VLLM, vllm_engine  # noqa: F401  one server for all tests

# onnxruntime reports its use at import, over the network and through files; here as in the programs it must not.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A program that runs inside the tests would forbid core dumps to their process for good, and to all that it starts.
vars(core.program.memory).update(keep_memory_private=lambda: None)

# How long an example takes says something of the machine and of what else runs on it, not of the code.
# Each run draws other examples, but where a commit is judged: not by what was drawn that day.
settings.register_profile(
    "untimed",
    deadline=None,
    derandomize="SOTTOVOCE_TEST_REQUIRE_ALL" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests, the slow ones come first: none is left alone with them at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    sharing = {item.nodeid.partition("::")[0] for item in items if "vllm_engine" in getattr(item, "fixturenames", ())}
    assert sharing <= USE_VLLM


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, the tests of a file run in one process, in their order, and so do all that share the one vLLM."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "vLLM" if path in USE_VLLM else path


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What programs remember and cache for their user stays out of the home directory of whoever runs the tests."""
    home = tmp_path_factory.mktemp("home")
    os.environ.update(XDG_DATA_HOME=str(home / "data"), XDG_CACHE_HOME=str(home / "cache"))


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For tests of programs that configure logging for their whole process, which here is the tests' own."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def log() -> Iterator[LogCapture]:
    """Everything that is logged through structlog meanwhile, as `log.entries`."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield capture
    structlog.configure(**before)


class Printed:
    """What a program that logs as ours do, and the processes that it started, have printed so far."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._text = ""

    @property
    def text(self) -> str:
        self._text += "".join(self._capfd.readouterr())
        return self._text

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str], logging_as_it_was: None) -> Printed:
    """The log as its readers see it: through the programs' own configuration, to standard error."""
    configure_logging(LogFormat.JSON, LogLevel.DEBUG)
    # pytest puts another standard error in place for each phase of a test.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    return Printed(capfd)
