"""Stancery's front door: the command line, and ``stancery.load(path).classify(texts)`` for Python users."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from models.bundle import Bundle

F = TypeVar("F", bound=Callable[..., Any])
HOME = Path("var")


class Classifier:
    """A loaded bundle.

    Attributes
    ----------
    version : str
    topics : list of dict
        The taxonomy, in order.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @property
    def version(self) -> str:
        return self._bundle.manifest.version

    @property
    def topics(self) -> list[dict[str, Any]]:
        import msgspec

        return [msgspec.to_builtins(topic) for topic in self._bundle.taxonomy.topics]

    def classify(
        self, texts: Iterable[str], *, topics: Sequence[str] = (), explain: bool = False
    ) -> list[dict[str, Any]]:
        """Label paragraphs.

        Parameters
        ----------
        texts : iterable of str
            One paragraph each.
        topics : sequence of str
            Topics to answer for whether or not they are present.
        explain : bool
            Give every chunk that carries weight and the bias, so that they add up to the logit.

        Returns
        -------
        list of dict
            In the order of the texts, of the shape that the HTTP API answers with.

        Raises
        ------
        models.errors.InvalidParagraph
            If a text is blank or holds NUL or a lone surrogate, or if a topic does not exist.
        """
        import msgspec

        scorer = self._bundle.scorer
        return [
            msgspec.to_builtins(scorer.classify(text, id=f"p{number}", topics=topics, explain=explain))
            for number, text in enumerate(texts, 1)
        ]


def load(path: str | Path) -> Classifier:
    """Verify and load a bundle.

    Raises
    ------
    models.errors.BundleError
        If it is missing or damaged, or of another format than this release reads.
    """
    from models.bundle import load_bundle

    return Classifier(load_bundle(path))


def option(name: str, *short: str, **attributes: Any) -> Callable[[F], F]:
    """An option that the environment can set too: ``--max-body-bytes`` is ``STANCERY_MAX_BODY_BYTES``."""
    variable = "STANCERY_" + name.removeprefix("--").replace("-", "_").upper()
    attributes.setdefault("show_default", True)
    return click.option(name, *short, envvar=variable, show_envvar=True, **attributes)


def home_option(command: F) -> F:
    return option("--home", type=click.Path(path_type=Path), default=HOME, help="Where bundles live.")(command)


def bundle_of(home: Path, given: Path | None) -> Path:
    """Return the bundle that is meant: the one given, or the newest one at home."""
    if given is not None:
        return given
    found = bundles_at(home)
    if not found:
        raise click.ClickException(
            f"no bundle in {home / 'bundles'}; name one with --bundle, or make one with "
            "`stancery train EXAMPLES --taxonomy TAXONOMY`"
        )
    return found[0]


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` only once it is whole; ``-`` is standard output."""
    if path == "-":
        yield sys.stdout.buffer
        return
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def bundles_at(home: Path) -> list[Path]:
    """Return the bundles at home, newest first."""
    found = [path.parent for path in (home / "bundles").glob("[!.]*/manifest.json")]
    return sorted(found, key=lambda path: (path / "manifest.json").stat().st_mtime, reverse=True)


class Commands(click.Group):
    """A group whose commands end in exit code 2 when the input is at fault and 1 when something else is."""

    def invoke(self, ctx: click.Context) -> Any:
        from models.errors import InvalidData, InvalidParagraph, StanceryError

        try:
            return super().invoke(ctx)
        except InvalidData as error:
            for fault in error.faults:
                click.echo(fault, err=True)
            ctx.exit(2)
        except StanceryError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2 if isinstance(error, InvalidParagraph) else 1)
        except OSError as error:
            click.echo(f"Error: {error.filename or ''}: {error.strerror or error}", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stancery")
def main() -> None:
    """Tell, for every paragraph of news, what it is about and where it stands.

    \b
    Start here:
      stancery train seeds/paragraphs.jsonl --taxonomy seeds/taxonomy.toml
      stancery classify article.txt
      stancery serve

    Exit codes: 0 done, 1 failed, 2 the input or the call is at fault.
    """


@main.command()
@home_option
@option("--bundle", type=click.Path(path_type=Path), help="The bundle to serve.  [default: the newest at home]")
@option("--host", default="127.0.0.1", help="Address to listen on.")
@option("--port", default=8000, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@option(
    "--max-body-bytes", default=2_000_000, type=click.IntRange(1), help="Longest body of a request, or stream line."
)
@option("--max-paragraphs", default=1024, type=click.IntRange(1), help="Most paragraphs in a request.")
@option("--max-paragraph-chars", default=20_000, type=click.IntRange(1), help="Longest paragraph.")
@option(
    "--max-explained-chars",
    default=50_000,
    type=click.IntRange(1),
    help="Most text in a request that asks for every contribution.",
)
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
def serve(home: Path, bundle: Path | None, **settings: Any) -> None:
    """Serve the HTTP API. The page /docs tells it."""
    from service.app import serve as run
    from service.settings import Settings

    try:
        run(Settings(bundle=bundle_of(home, bundle), **settings))
    except SystemExit as ended:
        raise click.ClickException("the server could not start; its log says why") from ended


@main.command()
@click.argument("file")
@home_option
@option("--bundle", type=click.Path(path_type=Path), help="The bundle to score with.  [default: the newest at home]")
@option("--output", "-o", default="-", show_default=True, help="Where to; .jsonl or .csv.")
@option(
    "--format", type=click.Choice(["jsonl", "csv", "parquet", "text"]), help="Format of FILE, if not by its extension."
)
@option("--output-format", type=click.Choice(["jsonl", "csv"]), help="Format of the output, if not by its extension.")
@option("--topics", default="", help="Topics to answer for whether or not present, parted by commas.")
@option("--explain", is_flag=True, help="Give every chunk that carries weight, and the bias.")
def classify(
    file: str,
    home: Path,
    bundle: Path | None,
    output: str,
    format: str | None,
    output_format: str | None,
    topics: str,
    explain: bool,
) -> None:
    """Label the paragraphs of FILE, or of standard input as `-`.

    FILE is JSON Lines (strings, or objects with text and maybe id), CSV or Parquet (columns text and maybe id), or
    plain text: one article, split into its paragraphs.
    """
    from tqdm import tqdm

    from models import tables
    from models.bundle import load_bundle

    read_as = format or tables.format_of(file)
    write_as = output_format or (tables.format_of(output, tables.OUTPUT_FORMATS) if output != "-" else "jsonl")
    scorer = load_bundle(bundle_of(home, bundle)).scorer
    names = [name for name in topics.split(",") if name]
    scorer.check_topics(names)
    with replacing(output) as stream:
        writer = tables.Writer(stream, write_as)
        for row in tqdm(tables.read_rows(file, read_as), unit=" paragraphs", disable=None):
            writer.write(scorer.classify(row.text, id=row.id, topics=names, explain=explain))


@main.command()
@click.argument("examples", type=click.Path(path_type=Path))
@option("--taxonomy", required=True, type=click.Path(path_type=Path), help="The topics and propositions, TOML.")
@option("--family", default="linear", type=click.Choice(["linear"]), help="How the classifier is built.")
@option(
    "--output", "-o", type=click.Path(path_type=Path), help="The bundle's folder.  [default: by its version, at home]"
)
@home_option
@option(
    "--holdout",
    default=0.1,
    type=click.FloatRange(0, 0.9),
    help="Part of the documents to measure on, never fitted on.",
)
@option("--seed", default=0, type=int, help="Deals documents to folds, and draws the intervals.")
@option("--jobs", default=2, type=click.IntRange(1), help="Processes that fit.")
def train(
    examples: Path, taxonomy: Path, family: str, output: Path | None, home: Path, holdout: float, seed: int, jobs: int
) -> None:
    """Fit a classifier on EXAMPLES and write it as a bundle.

    All rows are checked first; every fault is told, with its line, and nothing is fitted then.
    """
    try:
        from training.progress import bar
        from training.run import Options
        from training.run import train as run
    except ImportError as error:
        raise click.ClickException(f"training needs more packages: pip install 'stancery[train]' ({error})") from error
    from models.bundle import read_manifest

    options = Options(family=family, holdout=holdout, seed=seed, jobs=jobs)
    with bar() as tell:
        directory = run(examples, taxonomy, output or (lambda version: home / "bundles" / version), options, tell)
    manifest = read_manifest(directory)
    click.echo(f"{manifest.version} in {directory}")
    for name, figure in manifest.headline().items():
        click.echo(f"  {name:<34}{figure}")
    click.echo(f"  look at {directory / 'report.html'}")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("examples", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
@option("--seed", default=0, type=int, help="Draws the intervals.")
def evaluate(bundle: Path, examples: Path, as_json: bool, seed: int) -> None:
    """Measure BUNDLE on EXAMPLES, every figure with its interval. Never measure on what it was fitted on."""
    import msgspec

    from models.bundle import load_bundle
    from models.examples import read_examples
    from models.figures import headline, text_figure
    from training.evaluation import evaluate as measure

    loaded = load_bundle(bundle)
    report = measure(loaded.scorer, read_examples(examples, loaded.taxonomy), seed=seed)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"model": loaded.manifest.version, **report}), indent=2))
        return
    click.echo(f"{loaded.manifest.version} on {report['paragraphs']:,} paragraphs of {report['documents']:,} documents")
    for name, figure in headline(report):
        click.echo(f"  {name:<34}{figure}")
    for name, row in report["topics"]["per_topic"].items():
        click.echo(f"  F1 of {name:<28}{text_figure(row['f1'])}  ({row['support']} paragraphs)")


@main.group()
def labels() -> None:
    """Look after labelled data."""


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


@main.group()
def models() -> None:
    """Look after bundles."""


@models.command("list")
@home_option
def list_models(home: Path) -> None:
    """List the bundles at home, newest first."""
    from models.bundle import read_manifest
    from models.errors import BundleError

    for path in bundles_at(home):
        try:
            manifest = read_manifest(path)
        except BundleError as error:
            click.echo(f"{path.name}  {error}", err=True)
            continue
        click.echo(f"{manifest.version}  {manifest.created}  {manifest.headline().get('topic macro-F1', '')}")


@models.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def show(bundle: Path) -> None:
    """Print the model card of BUNDLE, after verifying every file."""
    from models.bundle import load_bundle

    click.echo(load_bundle(bundle).card)


@models.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["joblib"]), default="joblib", expose_value=False, help="What to write.")
@option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The file to write.")
def export(bundle: Path, output: Path) -> None:
    """Hand BUNDLE to a notebook as plain scikit-learn pipelines.

    joblib.load gives {"topics": {id: pipeline}, "stances": {id: pipeline}}; each pipeline's predict_proba takes texts.
    Such a file is a pickle: load it only where you trust its maker. The service never does.
    """
    from models.bundle import load_bundle
    from training.export import write_joblib

    write_joblib(load_bundle(bundle), output)


if __name__ == "__main__":
    sys.exit(main())
