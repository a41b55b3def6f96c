"""The tables. Times are ISO 8601 in UTC, as text: both databases then sort and return them alike."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION_STATES = ("candidate", "active", "retired", "rejected")
TRAINING_STATES = ("queued", "running", "succeeded", "failed", "cancelled", "interrupted")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
_number = BigInteger().with_variant(Integer, "sqlite")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _one_of(column: str, allowed: tuple[str, ...]) -> CheckConstraint:
    names = ", ".join(f"'{name}'" for name in allowed)
    return CheckConstraint(f"{column} IN ({names})", name=column)


# A paragraph is known by its text; what else it came with is what it came with first, so that the document, and with
# it the side of every split, never changes.
paragraphs = Table(
    "paragraphs",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("id", Text, nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("document_id", Text),
    Column("language", Text),
    Column("source", Text),
    sqlite_autoincrement=True,
)

# Append-only: who said what of a paragraph, when, and where it came from.
events = Table(
    "annotations",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("paragraph", _number, ForeignKey("paragraphs.number"), nullable=False),
    Column("annotator", Text, nullable=False),
    Column("topics", Text, nullable=False),
    Column("speaker", Text),
    Column("origin", Text, nullable=False),
    Column("created", String(32), nullable=False),
    Index("annotations_of_paragraph", "paragraph", "number"),
    sqlite_autoincrement=True,
)

# The answers given under an Idempotency-Key, so that a repeated request gets the same one.
requests = Table(
    "requests",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created", String(32), nullable=False),
    Index("requests_by_age", "created"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("version", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("created", String(32), nullable=False),
    Column("parent", Text),
    Column("taxonomy", String(64), nullable=False),
    Column("metrics", Text, nullable=False),
    _one_of("state", VERSION_STATES),
)
Index(
    "one_active_version",
    model_versions.c.state,
    unique=True,
    sqlite_where=model_versions.c.state == "active",
    postgresql_where=model_versions.c.state == "active",
)

# Append-only: every version that was made active, and every try that failed.
activations = Table(
    "activations",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("version", Text, ForeignKey("model_versions.version"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("failure", Text),
    Column("created", String(32), nullable=False),
    sqlite_autoincrement=True,
)

trainings = Table(
    "trainings",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False),
    Column("state", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created", String(32), nullable=False),
    Column("started", String(32)),
    Column("ended", String(32)),
    # Which process runs it, and a count that this process raises as long as it lives.
    Column("runner", Text),
    Column("beat", Integer, nullable=False, default=0),
    Column("cancelled_by", Text),
    Column("progress", Text),
    Column("model", Text),
    Column("reason", Text),
    Column("audit", Text),
    Column("gate", Text),
    UniqueConstraint("id"),
    _one_of("state", TRAINING_STATES),
    sqlite_autoincrement=True,
)
Index(
    "one_running_training",
    trainings.c.state,
    unique=True,
    sqlite_where=trainings.c.state == "running",
    postgresql_where=trainings.c.state == "running",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("requests_per_minute", Integer),
    Column("created", String(32), nullable=False),
    Column("revoked", String(32)),
)
