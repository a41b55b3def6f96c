"""``stancery models``."""

from __future__ import annotations

from pathlib import Path

import click

from service.cli.options import bundle_at, home_option, opened, store_options


@click.group()
def models() -> None:
    """Look after bundles, and choose the one that serves."""


@models.command("list")
@store_options
def list_models(home: Path, database_url: str | None) -> None:
    """List the versions with their states, and the bundles at home that no service knows, newest first."""
    from models.bundle import bundles_at, read_manifest
    from models.errors import BundleError
    from service.store import versions

    with opened(home, database_url) as database, database.reading() as connection:
        known = versions.every(connection)
    for version in known:
        click.echo(f"{version.version}  {version.state:<9}  {version.created}  {_figure(version.metrics)}")
    names = {version.version for version in known}
    for path in bundles_at(home):
        try:
            manifest = read_manifest(path)
        except BundleError as error:
            click.echo(f"{path.name}  {error}", err=True)
            continue
        if manifest.version not in names:
            click.echo(f"{manifest.version}  {'new':<9}  {manifest.created}  {_figure(manifest.headline())}")


def _figure(metrics: dict[str, str]) -> str:
    return metrics.get("topic macro-F1", "")


@models.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@home_option
def show(bundle: Path, home: Path) -> None:
    """Print the model card of BUNDLE, a folder or a version at home, after verifying every file."""
    from models.bundle import load_bundle

    click.echo(load_bundle(bundle_at(home, bundle)).card)


@models.command()
@click.argument("version")
@store_options
def activate(version: str, home: Path, database_url: str | None) -> None:
    """Make VERSION the one that serves: promote a new one, or roll back to an old one. `newest` is the newest at home.

    The bundle is verified, and must score its canary paragraphs right, before anything changes. Services that run
    follow within two seconds, without a restart.
    """
    from models.bundle import bundles_at
    from models.errors import InvalidCall
    from service.serving import remember, verified
    from service.store import versions

    with opened(home, database_url) as database:
        with database.reading() as connection:
            known = {each.version: home / each.path for each in versions.every(connection)}
        at_home = bundles_at(home)
        path = (at_home[0] if at_home else None) if version == "newest" else known.get(version)
        path = path or next((each for each in at_home if each.name == version), None)
        if path is None:
            raise InvalidCall(f"{version}: no such version; `stancery models list` shows those there are")
        manifest = verified(path, version if version in known else None).manifest
        with database.writing() as connection:
            versions.register(connection, manifest, path, home)
            versions.activate(connection, manifest.version, "command line")
    remember(home, path)
    click.echo(f"{manifest.version} is active")
