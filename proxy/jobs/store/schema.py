"""What stands in the database, in the clear and sealed? One schema for SQLite and PostgreSQL.

Clear is what is asked for: ids, accounts, states, times, lengths, sizes, amounts, kinds of failure. Sealed (`sealed_*`)
is what somebody said or named: options, names, links, parts, results, answers. `record_key` has each record's key,
wrapped; the deletion of its row is the deletion of the record. Times are milliseconds, amounts millionths.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

METADATA: Final = MetaData()

TO_FORGET: Final = "keep_ms IS NOT NULL AND deleted_ms IS NULL"
ACTIVE: Final = "status IN ('created', 'downloading', 'pending', 'processing')"


def _partial(name: str, *columns: str, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


schema_version = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))

record_key = Table(
    "record_key",
    METADATA,
    Column("record", String, primary_key=True),
    Column("kek", String, nullable=False, index=True),
    Column("wrapped", LargeBinary, nullable=False),
)

# One row: the key-encryption key that wraps. Whoever wraps a key shares it until that is committed.
kek_in_force = Table(
    "kek_in_force",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("kek", String, nullable=False),
)

plan = Table(
    "plan",
    METADATA,
    Column("name", String, primary_key=True),
    Column("meter", String, nullable=False),
    Column("max_active_keys", Integer),
    Column("requests_per_minute", Integer),
    Column("concurrency", Integer),
    Column("max_audio_ms", BigInteger),
    Column("max_upload_bytes", BigInteger),
    Column("quota_ms", BigInteger),
    Column("price_per_hour_micro", BigInteger, nullable=False),
)

# served_ms: when a job of theirs was last begun, for the order of turns.
account = Table(
    "account",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("plan", String, ForeignKey("plan.name"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("served_ms", BigInteger, nullable=False, server_default="0"),
)

api_key = Table(
    "api_key",
    METADATA,
    Column("id", String, primary_key=True),
    Column("account", String, ForeignKey("account.id"), nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("is_session", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("seal", LargeBinary, nullable=False),
)

ledger = Table(
    "ledger",
    METADATA,
    Column("id", String, primary_key=True),
    Column("account", String, ForeignKey("account.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("job", String),
    Column("kind", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("amount_micro", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    UniqueConstraint("job", "kind"),
    UniqueConstraint("account", "number"),
)

# purses: sums of the lines, as JSON.
ledger_head = Table(
    "ledger_head",
    METADATA,
    Column("account", String, ForeignKey("account.id"), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("purses", String, nullable=False),
    Column("seal", LargeBinary, nullable=False),
)

# hits_ms: moments, as JSON.
rate_window = Table(
    "rate_window",
    METADATA,
    Column("key", LargeBinary, primary_key=True),
    Column("hits_ms", String, nullable=False),
    Column("until_ms", BigInteger, nullable=False, index=True),
)

blob = Table(
    "blob",
    METADATA,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False, index=True),
    Column("size_bytes", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
)

upload = Table(
    "upload",
    METADATA,
    Column("id", String, primary_key=True),
    Column("account", String, ForeignKey("account.id"), nullable=False),
    Column("state", String, nullable=False),
    Column("blob", String, index=True),
    Column("size_bytes", BigInteger),
    Column("created_ms", BigInteger, nullable=False, index=True),
    Column("expires_ms", BigInteger, nullable=False),
    Column("sealed_file", LargeBinary, nullable=False),
)

# state_ms: when it last got on: it was submitted, its recording arrived, it was planned, a part was heard, or it ended;
# a claim is none of these. fence: of the last claim; whoever has an older one has lost the job. due_ms: not before
# then. notify: somebody wants to be told when it is final. rank: lower ones are begun first among those of their
# account. keep_ms: so long after its end its content is forgotten. sealed_blob: which recording is its, where that is
# another than the one it was submitted with.
job = Table(
    "job",
    METADATA,
    Column("id", String, primary_key=True),
    Column("account", String, ForeignKey("account.id"), nullable=False),
    Column("key", String),
    Column("dialect", String, nullable=False),
    Column("source", String, nullable=False),
    Column("status", String, nullable=False),
    Column("state_ms", BigInteger, nullable=False),
    Column("blob", String, index=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),
    Column("completed_ms", BigInteger),
    Column("deleted_ms", BigInteger),
    Column("progress_pct", Integer, nullable=False, server_default="0"),
    Column("audio_ms", BigInteger),
    Column("size_bytes", BigInteger),
    Column("amount_micro", BigInteger),
    Column("released_micro", BigInteger),
    Column("failure", String),
    Column("failure_numbers", String),
    Column("notify", Boolean, nullable=False),
    Column("rank", Integer, nullable=False, server_default="0"),
    Column("keep_ms", BigInteger),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("worker", String),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("lease_ms", BigInteger, nullable=False, server_default="0"),
    Column("due_ms", BigInteger, nullable=False, server_default="0"),
    Column("sealed_details", LargeBinary, nullable=False),
    Column("sealed_blob", LargeBinary),
    _partial("job_listed", "account", "created_ms", "id", where="deleted_ms IS NULL"),
    _partial("job_listed_by_status", "account", "status", "created_ms", "id", where="deleted_ms IS NULL"),
    _partial("job_next", "account", "rank", "created_ms", "id", where=ACTIVE),
    _partial("job_to_forget", "completed_ms", where=TO_FORGET),
    _partial("job_with_recording", "completed_ms", where="blob IS NOT NULL"),
    _partial("job_with_result", "completed_ms", where="deleted_ms IS NULL"),
    Index("job_deleted", "deleted_ms"),
)

part = Table(
    "part",
    METADATA,
    Column("job", String, ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger),
    Column("sealed_transcript", LargeBinary),
    Column("sealed_receipt", LargeBinary),
)

# The voices of those whom the caller knows, until the job is over.
known_speakers = Table(
    "known_speakers",
    METADATA,
    Column("job", String, ForeignKey("job.id"), primary_key=True),
    Column("sealed_speakers", LargeBinary, nullable=False),
)

result = Table(
    "result",
    METADATA,
    Column("job", String, ForeignKey("job.id"), primary_key=True),
    Column("sealed_result", LargeBinary, nullable=False),
)

delivery = Table(
    "delivery",
    METADATA,
    Column("id", String, primary_key=True),
    Column("job", String, ForeignKey("job.id"), nullable=False),
    Column("account", String, nullable=False),
    Column("event", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("due_ms", BigInteger, nullable=False),
    UniqueConstraint("job", "event"),
    Index("delivery_due", "state", "due_ms"),
)

answer = Table(
    "answer",
    METADATA,
    Column("account", String, primary_key=True),
    Column("route", String, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("body_digest", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    Column("until_ms", BigInteger, nullable=False, index=True),
    Column("sealed_answer", LargeBinary),
)
