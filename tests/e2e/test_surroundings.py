"""What whoever starts the shipped engine names in variables: nothing of it gets into the engine or its processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.program.isolation import FIXED
from engine.cli import PREFIXES, VARIABLES
from tests import foreign
from tests.e2e.processes import engine
from tests.e2e.test_memory import descendants

CANARY = "canary-4711"

pytestmark = [
    pytest.mark.slow,
    # The engine lets nobody else look into its processes.
    pytest.mark.skipif(
        not Path("/proc/self/maps").exists() or os.getuid() != 0, reason="read from Linux's /proc, by root"
    ),
]


def variables_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


async def test_no_process_of_the_engine_holds_code_or_variables_of_a_stranger(tmp_path: Path) -> None:
    hostile = {"SECRET": CANARY, "PYTHONSTARTUP": CANARY, "LD_LIBRARY_PATH": CANARY, "SSL_CERT_FILE": CANARY}
    for way in foreign.WAYS:
        hostile |= way(tmp_path)
    kept = {"NO_PROXY": "*", "SOTTOVOCE_DRAIN_S": "1", "NVIDIA_VISIBLE_DEVICES": "none"}
    async with engine(tmp_path / "log", variables=hostile | kept) as behind:
        pids = descendants(behind.process.pid)
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
        environments = [variables_of(pid) for pid in pids]
    assert len(pids) == 3, "the engine, its decoder and its recogniser"
    assert [text for text in maps if "stranger.so" in text] == []
    assert CANARY not in repr(environments)
    assert str(tmp_path) not in repr(environments)
    engines = environments[0]
    assert set(engines) <= {*VARIABLES, *FIXED} | {name for name in engines if name.startswith(PREFIXES)}
    assert kept.items() <= engines.items()
