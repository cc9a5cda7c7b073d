"""A PostgreSQL of our own: Debian's server on a Unix socket, in a directory that goes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_OWNER = "postgres"
_names = count()


def binaries() -> Path | None:
    """Where the server's programs are; None without one."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@dataclass(frozen=True)
class Cluster:
    directory: Path
    bin: Path

    def run(self, *command: str, variables: Mapping[str, str] | None = None) -> str:
        """As the server's owner: it does not start as root. variables: of the environment, beside ours."""
        user = _OWNER if os.geteuid() == 0 else None
        program, *arguments = command
        done = subprocess.run(
            [self.bin / program, *arguments],
            check=True,
            text=True,
            user=user,
            cwd=self.directory,
            env={**os.environ, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off"
        self.run(
            "pg_ctl",
            "-D",
            f"{self.directory}/data",
            "-l",
            f"{self.directory}/log",
            "-o",
            options,
            "-w",
            "start",
            variables=variables,
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", f"{self.directory}/data", "-m", mode, "-w", "stop")

    def sql(self, statement: str, database: str = "postgres") -> str:
        return self.run("psql", "-h", str(self.directory), "-U", _OWNER, "-d", database, "-tAc", statement)

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"jobs_{next(_names)}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://{_OWNER}@/{name}?host={self.directory}"


@contextmanager
def cluster() -> Iterator[Cluster]:
    bin_ = binaries()
    assert bin_ is not None
    directory = Path(tempfile.mkdtemp(prefix="sottovoce-pg-"))
    if os.geteuid() == 0:
        shutil.chown(directory, _OWNER)
    made = Cluster(directory, bin_)
    try:
        made.run("initdb", "-D", f"{directory}/data", "-U", _OWNER, "-A", "trust", "-E", "UTF8", "--no-sync")
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory)
