"""What keeps jobs, in an SQLite file and in a PostgreSQL, with a fake engine behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.vault import KeyFile
from tests.proxy.jobs.postgres import Cluster, binaries, cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    if binaries() is None:
        pytest.skip("no PostgreSQL is installed")
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """Where jobs are kept: each test is for both databases."""
    key = tmp_path / "jobs.key"
    KeyFile.make(key)
    database: Path | str = tmp_path / "jobs.sqlite"
    if request.param == "postgresql":
        running: Cluster = request.getfixturevalue("postgres")
        database = running.new_database()
    return Places(database, tmp_path / "blobs", key)


@pytest.fixture
async def store(places: Places) -> AsyncIterator[Kept]:
    async with kept(places) as opened:
        yield opened
