"""Annotations, trainings, model versions and keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("revoked", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("name", name="uq_api_keys_name"),
    )
    op.create_table(
        "model_versions",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("taxonomy", sa.String(length=64), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('candidate', 'active', 'retired', 'rejected')", name="ck_model_versions_state"),
        sa.PrimaryKeyConstraint("version", name="pk_model_versions"),
    )
    op.create_index(
        "one_active_version",
        "model_versions",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "paragraphs",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("document_id", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_paragraphs"),
        sa.UniqueConstraint("digest", name="uq_paragraphs_digest"),
        sa.UniqueConstraint("id", name="uq_paragraphs_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "requests",
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("actor", "key", name="pk_requests"),
    )
    op.create_index("requests_by_age", "requests", ["created"], unique=False)
    op.create_table(
        "trainings",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("started", sa.String(length=32), nullable=True),
        sa.Column("ended", sa.String(length=32), nullable=True),
        sa.Column("runner", sa.Text(), nullable=True),
        sa.Column("beat", sa.Integer(), nullable=False),
        sa.Column("cancelled_by", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("audit", sa.Text(), nullable=True),
        sa.Column("gate", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')",
            name="ck_trainings_state",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_trainings"),
        sa.UniqueConstraint("id", name="uq_trainings_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "one_running_training",
        "trainings",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "activations",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["model_versions.version"], name="fk_activations_version"),
        sa.PrimaryKeyConstraint("number", name="pk_activations"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "annotations",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("paragraph", NUMBER, nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("topics", sa.Text(), nullable=False),
        sa.Column("speaker", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["paragraph"], ["paragraphs.number"], name="fk_annotations_paragraph"),
        sa.PrimaryKeyConstraint("number", name="pk_annotations"),
        sqlite_autoincrement=True,
    )
    op.create_index("annotations_of_paragraph", "annotations", ["paragraph", "number"], unique=False)
