"""``stancery keys``."""

from __future__ import annotations

from pathlib import Path

import click

from service.cli.options import opened, store_options

SCOPES = ("classify", "label", "admin")


@click.group()
def keys() -> None:
    """Look after API keys.

    \b
    classify  label paragraphs, see models and metrics
    label     add and export annotations
    admin     train, and choose the model that serves
    """


@keys.command()
@click.argument("name")
@click.option("--scopes", required=True, help=f"What the key may do: some of {', '.join(SCOPES)}, parted by commas.")
@click.option("--requests-per-minute", type=click.IntRange(1), help="A limit of its own.")
@store_options
def create(name: str, scopes: str, requests_per_minute: int | None, home: Path, database_url: str | None) -> None:
    """Make a key for NAME and print it, for the only time. Its labels will carry the name.

    A running service knows it within a second.
    """
    from service.access import ADMIN, ANONYMOUS
    from service.store import keys as store

    asked = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    if not asked or set(asked) - set(SCOPES):
        raise click.BadParameter(f"allowed are {', '.join(SCOPES)}, parted by commas", param_hint="--scopes")
    if not name.strip() or len(name) > 100:
        raise click.BadParameter("must be 1 to 100 characters", param_hint="NAME")
    if name.strip() in (ADMIN, ANONYMOUS):
        raise click.BadParameter(f"{name.strip()} is who has another key or none; take another", param_hint="NAME")
    with opened(home, database_url) as database, database.writing() as connection:
        secret = store.create(connection, name, sorted(set(asked), key=SCOPES.index), requests_per_minute)
    click.echo(secret)


@keys.command("list")
@store_options
def list_keys(home: Path, database_url: str | None) -> None:
    """List the keys, without their secrets."""
    from service.store import keys as store

    with opened(home, database_url) as database, database.reading() as connection:
        rows = [
            (
                key.name,
                ",".join(key.scopes),
                key.created,
                f"{key.requests_per_minute} a minute" if key.requests_per_minute else "",
                f"revoked {key.revoked}" if key.revoked else "",
            )
            for key in store.every(connection)
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


@keys.command()
@click.argument("name")
@store_options
def revoke(name: str, home: Path, database_url: str | None) -> None:
    """Make the key of NAME useless, within a second."""
    from service.store import keys as store

    with opened(home, database_url) as database, database.writing() as connection:
        store.revoke(connection, name)
    click.echo(f"{name} is revoked")
