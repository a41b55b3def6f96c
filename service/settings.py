"""Everything about a running service that may be set."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The settings of one service; ``stancery serve --help`` says what each is for."""

    home: Path = Path("var")
    database_url: str | None = None
    bundle: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    allow_anonymous: bool | None = None
    admin_key: str | None = None
    key_requests_per_minute: int = 6000
    exact: bool = False
    promote: str = "auto"
    trainer: str = sys.executable
    train_jobs: int = 1
    train_seconds: float = 3600.0
    train_memory_mb: int = 4096
    max_body_bytes: int = 2_000_000
    max_labels_bytes: int = 32_000_000
    max_paragraphs: int = 1024
    max_paragraph_chars: int = 20_000
    max_explained_chars: int = 50_000
    max_waiting: int = 1024
    body_seconds: float = 30.0
    stream_spool_bytes: int = 256_000_000
    stream_stall_seconds: float = 60.0
    stop_seconds: int = 20

    @property
    def bundles(self) -> Path:
        return self.home / "bundles"
