"""Everything about a running service that may be set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The settings of one service; ``stancery serve --help`` says what each is for."""

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_body_bytes: int = 2_000_000
    max_paragraphs: int = 1024
    max_paragraph_chars: int = 20_000
    max_explained_chars: int = 50_000
    stream_spool_bytes: int = 256_000_000
    stream_stall_seconds: float = 60.0
    stop_seconds: int = 20
