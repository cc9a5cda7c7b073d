"""How does the database get the schema of this version? Forward only, one step after the other, in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, inspect, select

from proxy.jobs.errors import StoreError
from proxy.jobs.store.schema import METADATA, known_speakers, schema_version

_LOCK: Final = 5_380_414_417
"""Of PostgreSQL's advisory locks: replicas that start together migrate one after the other."""

_LEDGER_STAYS: Final = {
    "sqlite": ("CREATE TRIGGER ledger_{verb} BEFORE {verb} ON ledger BEGIN SELECT RAISE(ABORT, 'only added to'); END",),
    "postgresql": (
        (
            "CREATE FUNCTION ledger_stays_{verb}() RETURNS trigger AS "
            "$$ BEGIN RAISE EXCEPTION 'only added to'; END $$ LANGUAGE plpgsql"
        ),
        "CREATE TRIGGER ledger_{verb} BEFORE {verb} ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_stays_{verb}()",
    ),
}


def _first(connection: Connection) -> None:
    METADATA.create_all(connection)
    for verb in ("update", "delete"):
        for statement in _LEDGER_STAYS[connection.dialect.name]:
            connection.exec_driver_sql(statement.format(verb=verb))


def _known_speakers(connection: Connection) -> None:
    METADATA.create_all(connection, [known_speakers])  # where it is not there yet


MIGRATIONS: Final[tuple[Callable[[Connection], None], ...]] = (_first, _known_speakers)
"""The step at index n makes version n + 1. None is ever changed once a release has it."""


def migrate(connection: Connection) -> None:
    """Bring the database to this version. Raises StoreError for one of a later version."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise StoreError("the database of jobs was made by a later version of this program")
    for step in MIGRATIONS[version:]:
        step(connection)
    if version < len(MIGRATIONS):
        connection.execute(schema_version.delete())
        connection.execute(schema_version.insert().values(version=len(MIGRATIONS)))


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return int(connection.execute(select(schema_version.c.version)).scalar_one())
