"""``stancery serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from service.cli.options import option, store_options


@click.command()
@store_options
@option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="The bundle to begin with; later the store says which is active.  [default: the newest at home]",
)
@option("--host", default="127.0.0.1", help="Address to listen on.")
@option("--port", default=8000, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@option("--workers", default=1, type=click.IntRange(1, 64), help="Processes that answer.")
@option(
    "--allow-anonymous/--require-keys",
    default=None,
    help="Whether whoever has no key may do everything.  [default: on loopback alone]",
)
@option(
    "--key-requests-per-minute",
    default=6000,
    type=click.IntRange(1),
    help="What a key without a limit of its own may ask.",
)
@option("--exact", is_flag=True, help="Have a pair model read every topic, not those in reach of the heads alone.")
@option(
    "--promote",
    default="auto",
    type=click.Choice(["auto", "manual"]),
    help="Whether a new version that passes the gate takes over, or waits to be activated.",
)
@option(
    "--trainer", help="The Python that trains, where the training packages are not in this one.  [default: this one]"
)
@option("--train-jobs", default=1, type=click.IntRange(1), help="Processes that fit.")
@option("--train-seconds", default=3600.0, type=click.FloatRange(1), help="Longest training.")
@option("--train-memory-mb", default=4096, type=click.IntRange(64), help="Most memory of a training.")
@option(
    "--max-body-bytes", default=2_000_000, type=click.IntRange(1), help="Longest body of a request, or stream line."
)
@option("--max-labels-bytes", default=32_000_000, type=click.IntRange(1), help="Longest body of labels.")
@option("--max-paragraphs", default=1024, type=click.IntRange(1), help="Most paragraphs in a request.")
@option("--max-paragraph-chars", default=20_000, type=click.IntRange(1), help="Longest paragraph.")
@option(
    "--max-explained-chars",
    default=50_000,
    type=click.IntRange(1),
    help="Most text in a request that asks for every contribution.",
)
@option(
    "--max-waiting", default=1024, type=click.IntRange(1), help="Most requests that wait to be scored; more get a 503."
)
@option("--body-seconds", default=30.0, type=click.FloatRange(0.1), help="How long the body of a request may take.")
@option(
    "--stream-spool-bytes",
    default=256_000_000,
    type=click.IntRange(1),
    help="How much of a stream's answer may wait on disk for a client that is still sending.",
)
@option(
    "--stream-stall-seconds",
    default=60.0,
    type=click.FloatRange(0.1),
    help="How long a stream's client may neither take nor send anything.",
)
@option("--stop-seconds", default=20, type=click.IntRange(0), help="How long requests in flight have on stopping.")
def serve(trainer: str | None, **settings: Any) -> None:
    """Serve the HTTP API. The page /docs tells it.

    On loopback anybody on this machine may do everything. On another address the service starts only once there is a
    key (`stancery keys create`), or with the variable STANCERY_ADMIN_KEY, a secret of at least 32 characters that may
    do everything, or with --allow-anonymous.
    """
    from service.app import serve as run
    from service.settings import Settings

    admin_key = os.environ.get("STANCERY_ADMIN_KEY") or None
    if admin_key is not None and len(admin_key) < 32:
        raise click.UsageError("STANCERY_ADMIN_KEY: shorter than 32 characters, and so can be guessed")
    if trainer is not None:
        settings["trainer"] = trainer
    try:
        run(Settings(admin_key=admin_key, **settings))
    except SystemExit as ended:
        if ended.code:
            raise click.ClickException("the server could not start; its log says why") from ended
