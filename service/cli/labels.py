"""``stancery labels``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.options import opened, option, replacing, store_options

if TYPE_CHECKING:
    from models.taxonomy import Taxonomy
    from service.importing import ImportReport
    from service.store.database import Database

# A large file may take its time, and wait for its turn.
_PATIENCE = 60_000
_SAMPLES = 3
_SAMPLE_CHARS = 200


@click.group()
def labels() -> None:
    """Look after labelled data: check files, bring them into the store, take them out."""


@labels.command()
@click.argument("examples", type=click.Path(path_type=Path))
@option("--taxonomy", required=True, type=click.Path(path_type=Path), help="The topics and propositions, TOML.")
def check(examples: Path, taxonomy: Path) -> None:
    """Check a file of EXAMPLES: every fault with file and line, or what it holds."""
    from models.examples import STANCES, examples_hash, read_examples
    from models.taxonomy import read_taxonomy

    read = read_taxonomy(taxonomy)
    rows = read_examples(examples, read)
    click.echo(f"{len(rows):,} examples of {len({row.group for row in rows}):,} documents, no fault")
    click.echo(f"{sum(not row.topics for row in rows):,} off topic")
    click.echo(f"{sum(len(row.topics) > 1 for row in rows):,} of several topics")
    for name in read.ids:
        found = [row.topics[name] for row in rows if name in row.topics]
        counts = ", ".join(f"{stance} {found.count(stance):,}" for stance in STANCES)
        click.echo(f"  {name:<24}{len(found):>6,}  {counts}, no stance {found.count(None):,}")
    click.echo(f"hash {examples_hash(rows)}")


@labels.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--annotator", help="Whose labels they are, where the file does not say.  [default: the file's name]")
@click.option(
    "--taxonomy", type=click.Path(path_type=Path), help="The topics.  [default: those of the model that serves]"
)
@click.option(
    "--map", "renamed", multiple=True, metavar="LABEL=TOPIC", help="Read LABEL as TOPIC; LABEL= drops it. Repeatable."
)
@click.option("--dry-run", is_flag=True, help="Tell what would come in, and change nothing.")
@store_options
def import_(
    file: Path,
    annotator: str | None,
    taxonomy: Path | None,
    renamed: tuple[str, ...],
    dry_run: bool,
    home: Path,
    database_url: str | None,
) -> None:
    """Bring the labels of FILE, or of standard input as `-`, into the store, all of them or none.

    What FILE is is told by its content: examples as JSON Lines, exports of Label Studio, doccano and Prodigy, fastText,
    SemEval stance TSV, VAST CSV, or any CSV with named columns; UTF-8, UTF-16, Windows-1251, KOI8-R or
    Windows-1252.
    """
    from models.taxonomy import read_taxonomy
    from service import importing

    if any("=" not in pair for pair in renamed):
        raise click.BadParameter("must be LABEL=TOPIC", param_hint="--map")
    names = dict(pair.rsplit("=", 1) for pair in renamed)
    is_piped = str(file) == "-"
    source = "standard input" if is_piped else file.name
    with opened(home, database_url) as database:
        topics = read_taxonomy(taxonomy) if taxonomy else _serving_taxonomy(database, home)
        reading = importing.read(sys.stdin.buffer.read() if is_piped else file.read_bytes(), topics, renamed=names)
        try:
            with database.writing(_PATIENCE) as connection:
                origin = source if is_piped else f"file {source}"
                report = importing.add(
                    connection, reading, annotator=annotator or source, origin=origin, dry_run=dry_run
                )
        except importing.DryRun as dry:
            report = dry.report
    _tell(report)
    if report.dry_run:
        # Text read in a wrong encoding shows where it is not ASCII.
        for label in sorted(reading.labels, key=lambda label: label.text.isascii())[:_SAMPLES]:
            said = ", ".join(f"{topic}: {stance}" if stance else topic for topic, stance in label.topics.items())
            click.echo(f"  {label.where}: {said or 'off topic'}: {label.text[:_SAMPLE_CHARS]!r}")
        click.echo("nothing was changed")


def _serving_taxonomy(database: Database, home: Path) -> Taxonomy:
    from models.bundle import current_bundle, load_bundle
    from service.store import versions

    with database.reading() as connection:
        wanted = versions.wanted(connection)
    found = home / wanted.path if wanted else current_bundle(home)
    if found is None:
        raise click.UsageError("there is no model yet whose topics these could be; name a taxonomy with --taxonomy")
    return load_bundle(found).taxonomy


def _tell(report: ImportReport) -> None:
    click.echo(f"{report.received:,} labels ({report.format}, {report.encoding})")
    for name in ("new", "changed", "duplicate", "conflicting", "off_topic"):
        click.echo(f"  {name.replace('_', ' '):<14}{getattr(report, name):>8,}")
    for reason, count in report.skipped.items():
        click.echo(f"  {'skipped':<14}{count:>8,}  {reason}")
    for conflict in report.conflicts:
        said = "; ".join(f"{name}: {topics}" for name, topics in conflict.annotations.items())
        click.echo(f"  conflict: {conflict.id}: {said}")


@labels.command()
@click.option("--output", "-o", default="-", show_default=True, help="Where to.")
@store_options
def export(output: str, home: Path, database_url: str | None) -> None:
    """Write the store's labels as an examples file: every paragraph with its latest labels."""
    import msgspec

    from service.store import corpus

    with opened(home, database_url) as database, replacing(output) as stream:
        with database.reading() as connection:
            up_to = corpus.last_number(connection)
        for example in corpus.examples(database, up_to):
            stream.write(msgspec.json.encode(example) + b"\n")
