"""``stancery serve``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from service.cli.options import F, option, store_options
from service.settings import Settings


def _setting(name: str, **attributes: Any) -> Callable[[F], F]:
    """An option that is a field of the settings, which have its default."""
    field = name.partition("/")[0].removeprefix("--").replace("-", "_")
    return option(name, default=getattr(Settings, field), **attributes)


def _host(context: click.Context, parameter: click.Parameter, value: str) -> str:  # noqa: ARG001 - click's order
    try:
        value.encode("idna")
    except UnicodeError as error:
        raise click.BadParameter(f"{value!r} is neither an address nor a host's name") from error
    return value


@click.command()
@store_options
@_setting(
    "--bundle",
    type=click.Path(path_type=Path),
    help="The bundle to begin with; later the store says which is active.  [default: the newest at home]",
)
@_setting("--host", callback=_host, help="Address to listen on.")
@_setting("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@_setting("--workers", type=click.IntRange(1, 64), help="Processes that answer.")
@_setting(
    "--allow-anonymous/--require-keys",
    help="Whether whoever has no key may do everything.  [default: on loopback alone]",
)
@_setting(
    "--key-requests-per-minute",
    type=click.IntRange(1),
    help="What a key without a limit of its own may ask.",
)
@_setting("--exact", is_flag=True, help="Have a pair model read every topic, not those in reach of the heads alone.")
@_setting(
    "--promote",
    type=click.Choice(["auto", "manual"]),
    help="Whether a new version that passes the gate takes over, or waits to be activated.",
)
@_setting(
    "--trainer",
    show_default="this one",
    help="The Python that trains, where the training packages are not in this one.",
)
@_setting("--train-jobs", type=click.IntRange(1), help="Processes that fit.")
@_setting("--train-seconds", type=click.FloatRange(1), help="Longest training.")
@_setting("--train-memory-mb", type=click.IntRange(64), help="Most memory of a training.")
@_setting("--max-body-bytes", type=click.IntRange(1), help="Longest body of a request, or stream line.")
@_setting("--max-labels-bytes", type=click.IntRange(1), help="Longest body of labels.")
@_setting("--max-paragraphs", type=click.IntRange(1), help="Most paragraphs in a request.")
@_setting("--max-paragraph-chars", type=click.IntRange(1), help="Longest paragraph.")
@_setting(
    "--max-explained-chars",
    type=click.IntRange(1),
    help="Most text in a request that asks for every contribution.",
)
@_setting("--max-waiting", type=click.IntRange(1), help="Most requests that wait to be scored; more get a 503.")
@_setting("--body-seconds", type=click.FloatRange(0.1), help="How long the body of a request may take.")
@_setting(
    "--stream-spool-bytes",
    type=click.IntRange(1),
    help="How much of a stream's answer may wait on disk for a client that is still sending.",
)
@_setting(
    "--stream-stall-seconds",
    type=click.FloatRange(0.1),
    help="How long a stream's client may neither take nor send anything.",
)
@_setting("--stop-seconds", type=click.IntRange(0), help="How long requests in flight have on stopping.")
def serve(**given: Any) -> None:
    """Serve the HTTP API. The page /docs tells it.

    On loopback anybody on this machine may do everything. On another address the service starts only once there is a
    key (`stancery keys create`), or with the variable STANCERY_ADMIN_KEY, a secret of at least 32 characters that may
    do everything, or with --allow-anonymous.
    """
    from models.errors import BundleError
    from service.app import serve as run

    admin_key = os.environ.get("STANCERY_ADMIN_KEY") or None
    if admin_key is not None and len(admin_key) < 32:
        raise click.UsageError("STANCERY_ADMIN_KEY: shorter than 32 characters, and so can be guessed")
    settings = Settings(admin_key=admin_key, **given)
    try:
        run(settings)
    except BundleError as error:
        if settings.bundle is None or settings.bundle.is_dir():
            raise
        raise click.BadParameter(f"{settings.bundle}: no such folder", param_hint="--bundle") from error
    except SystemExit as ended:
        if ended.code:
            raise click.ClickException("the server could not start; its log says why") from ended
