"""Stancery's front door: the command line, and ``stancery.load(path).classify(texts)`` for Python users."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.keys import keys
from service.cli.labels import labels
from service.cli.models import models
from service.cli.options import Commands, bundle_at, home_option, option, replacing
from service.cli.serve import serve

if TYPE_CHECKING:
    from models.bundle import Bundle


# What `train --remote` takes; the rest of its options are about a training here.
_REMOTE = ("remote", "key", "family", "seed")


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
        TypeError
            If the texts are one text, or one of them is none.
        models.errors.InvalidParagraph
            If a text is blank or holds NUL or a lone surrogate, or if a topic does not exist.
        """
        import msgspec

        if isinstance(texts, str):
            raise TypeError("texts: must be a list of texts, one a paragraph, not one text")
        texts = list(texts)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{place}]: must be text, not {type(text).__name__}")
        ids = [f"p{number}" for number in range(1, len(texts) + 1)]
        found = self._bundle.scorer.classify_all(texts, ids=ids, topics=topics, explain=explain)
        return [msgspec.to_builtins(result) for result in found]


def load(path: str | Path) -> Classifier:
    """Verify and load a bundle.

    Raises
    ------
    models.errors.BundleError
        If it is missing or damaged, or of another format than this release reads.
    """
    from models.bundle import load_bundle

    return Classifier(load_bundle(path))


def bundle_of(home: Path, given: Path | None) -> Path:
    """Return the bundle that is meant: the one given, a folder or a version at home, or the one that serves there."""
    if given is not None:
        return bundle_at(home, given)
    from models.bundle import current_bundle

    found = current_bundle(home)
    if found is None:
        raise click.ClickException(
            f"no bundle in {home / 'bundles'}; name one with --bundle, or make one with "
            "`stancery train EXAMPLES --taxonomy TAXONOMY`"
        )
    return found


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
@click.argument("file")
@home_option
@option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="A folder, or a version at home.  [default: what served last at home, else the newest there]",
)
@option("--output", "-o", default="-", show_default=True, help="Where to; .jsonl, .csv or .parquet.")
@option(
    "--format", type=click.Choice(["jsonl", "csv", "parquet", "text"]), help="Format of FILE, if not by its extension."
)
@option(
    "--output-format",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="Format of the output, if not by its extension.",
)
@option("--jobs", default=os.cpu_count() or 1, type=click.IntRange(1), help="Processes that score.")
@option("--resume", is_flag=True, help="Go on with what an interrupted run into the same output left.")
@option("--topics", default="", help="Topics to answer for whether or not present, parted by commas.")
@option("--explain", is_flag=True, help="Give every chunk that carries weight, and the bias.")
@option("--exact", is_flag=True, help="Have a pair model read every topic, not those in reach of the heads alone.")
def classify(
    file: str,
    home: Path,
    bundle: Path | None,
    output: str,
    format: str | None,
    output_format: str | None,
    jobs: int,
    resume: bool,
    topics: str,
    explain: bool,
    exact: bool,
) -> None:
    """Label the paragraphs of FILE, or of standard input as `-`.

    FILE is JSON Lines (strings, or objects with text and maybe id), CSV or Parquet (columns text and maybe id), or
    plain text: one article, split into its paragraphs.
    """
    from tqdm import tqdm

    from models import bulk, files, tables
    from models.bundle import read_manifest

    place = None if output == "-" else files.place_of(Path(output))
    source = Path("/dev/stdin" if file == "-" else file)
    if place is not None and place.exists() and source.exists() and place.samefile(source):
        raise click.UsageError(f"--output: {output} is what is read, and would be lost; name another")
    if place is None and resume:
        raise click.UsageError(
            "--resume: what went to standard output or a pipe cannot be gone on with; name a file with --output"
        )
    if file == "-" and resume:
        raise click.UsageError("--resume: standard input cannot be read again; name a FILE")
    path = bundle_of(home, bundle)
    # A pipe or a device may be called anything.
    nameless = place is None and not Path(output).suffix
    status = None if file == "-" or not Path(file).exists() else Path(file).stat()
    job = bulk.Job(
        str(path.absolute()),
        read_manifest(path).version,
        file,
        status.st_size if status else 0,
        status.st_mtime_ns if status else 0,
        format or tables.format_of(file),
        output_format or ("jsonl" if nameless else tables.format_of(output, tables.OUTPUT_FORMATS)),
        [name for name in topics.split(",") if name],
        explain,
        exact,
    )
    try:
        with tqdm(unit=" paragraphs", disable=None) as bar:
            if place is None:
                with replacing(output) as stream:
                    bulk.to_stream(job, stream, jobs=jobs, step=bar.update)
            else:
                bulk.to_file(job, place, jobs=jobs, resume=resume, step=bar.update)
    except (KeyboardInterrupt, OSError, bulk.WorkerDied):
        if place is not None and (kept := bulk.parts_of(place)).is_dir():
            click.echo(f"cut short; what is done lies in {kept}: go on with --resume", err=True)
        raise


@main.command()
@click.argument("examples", type=click.Path(path_type=Path), required=False)
@option("--taxonomy", type=click.Path(path_type=Path), help="The topics and propositions, TOML.")
@option(
    "--family",
    type=click.Choice(["linear", "encoder", "tuned", "crossencoder"]),
    help="linear: n-grams. encoder: a sentence encoder beside them (best with few labels). tuned: one beside them that "
    "is fine-tuned on the labels (best with many). crossencoder: beside a sentence encoder a pair model, fine-tuned to "
    "read each proposition with the paragraph (slow; for topics without labels).  [default: linear, or encoder where "
    "one is named; with --remote, what serves]",
)
@option(
    "--encoder",
    metavar="CHECKPOINT",
    help="The encoder: a folder, or owner/name@REVISION of the model hub (40 hex digits).  [default: the champion's]",
)
@option("--online", is_flag=True, help="Fetch the encoder from the model hub if it is not in the local cache.")
@option(
    "--output", "-o", type=click.Path(path_type=Path), help="The bundle's folder.  [default: by its version, at home]"
)
@home_option
@option(
    "--champion", type=click.Path(path_type=Path), help="A bundle to beat: the gate's table says whether this one does."
)
@option(
    "--holdout",
    default=0.1,
    type=click.FloatRange(0, 0.9),
    help="Part of the documents to measure on, never fitted on.",
)
@option("--seed", default=0, type=click.IntRange(0), help="Deals documents to folds, and draws the intervals.")
@option("--jobs", default=2, type=click.IntRange(1), help="Processes that fit.")
@option("--remote", metavar="URL", help="Train on the service at URL instead, from the labels that it has.")
@option("--key", help="The service's key.", show_default=False)
def train(
    examples: Path | None,
    taxonomy: Path | None,
    family: str | None,
    encoder: str | None,
    online: bool,
    output: Path | None,
    home: Path,
    champion: Path | None,
    holdout: float,
    seed: int,
    jobs: int,
    remote: str | None,
    key: str | None,
) -> None:
    """Fit a classifier on EXAMPLES and write it as a bundle.

    All rows are checked first; every fault is told, with its line, and nothing is fitted then.

    With --remote, have a running service train on the labels in its store, and watch; what comes of it must pass the
    gate before it takes over there.
    """
    if remote is not None:
        if examples is not None or taxonomy is not None:
            raise click.UsageError("--remote trains on the labels in the service's store; EXAMPLES and --taxonomy stay")
        if kept := _given_beside(_REMOTE):
            raise click.UsageError(f"--remote: the service decides by itself about {', '.join(kept)}")
        _train_remote(remote, key, {"family": family, "seed": seed})
        return
    if examples is None or taxonomy is None:
        raise click.UsageError("EXAMPLES and --taxonomy are needed, or --remote URL")
    import msgspec

    from models.bundle import read_manifest
    from models.figures import gate_lines
    from training.progress import bar
    from training.run import Options, run

    family = family or ("encoder" if encoder else "linear")
    options = Options(
        family=family,
        holdout=holdout,
        seed=seed,
        jobs=jobs,
        encoder=encoder,
        online=online,
        cache=home / "cache",
    )
    with bar() as tell:
        made = run(examples, taxonomy, output or (lambda version: home / "bundles" / version), options, tell, champion)
    click.echo(f"{made.version} in {made.directory}")
    for name, figure in read_manifest(made.directory).headline().items():
        click.echo(f"  {name:<34}{figure}")
    if made.gate is not None:
        click.echo("\n".join(gate_lines(msgspec.to_builtins(made.gate))))
    click.echo(f"  look at {made.directory / 'report.html'}")


def _given_beside(allowed: Sequence[str]) -> list[str]:
    """Return the options of the command that were typed, of those that are not `allowed`."""
    context = click.get_current_context()
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in allowed
        and context.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]


def _train_remote(url: str, key: str | None, request: dict[str, Any]) -> None:
    from models.figures import gate_lines
    from service.cli import remote
    from training.progress import Progress, bar

    asked = remote.start(url, key, request)
    click.echo(f"training {asked['id']}", err=True)
    job = asked
    with bar() as tell:
        for job in remote.watch(url, key, asked["id"]):
            at = job["progress"] or {"phase": job["state"], "fraction": 0.0, "message": job["state"]}
            tell(Progress(at["phase"], at["fraction"], at["message"], at.get("seconds_left")))
    click.echo(f"{job['state']}: {job['reason']}")
    if job["gate"]:
        click.echo("\n".join(gate_lines(job["gate"])))
    if job["state"] != "succeeded":
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("examples", type=click.Path(path_type=Path))
@home_option
@option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
@option("--seed", default=0, type=click.IntRange(0), help="Draws the intervals.")
def evaluate(bundle: Path, examples: Path, home: Path, as_json: bool, seed: int) -> None:
    """Measure BUNDLE on EXAMPLES, every figure with its interval. Never measure on what it was fitted on.

    BUNDLE is a folder, or a version at home.
    """
    import msgspec

    from models.bundle import load_bundle
    from models.examples import read_examples
    from models.figures import headline, text_figure
    from training.evaluation import evaluate as measure

    loaded = load_bundle(bundle_at(home, bundle))
    report = measure(loaded.scorer, read_examples(examples, loaded.taxonomy), seed=seed)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"model": loaded.manifest.version, **report}), indent=2))
        return
    click.echo(f"{loaded.manifest.version} on {report['paragraphs']:,} paragraphs of {report['documents']:,} documents")
    for name, figure in headline(report):
        click.echo(f"  {name:<34}{figure}")
    for name, row in report["topics"]["per_topic"].items():
        click.echo(f"  F1 of {name:<28}{text_figure(row['f1'])}  ({row['support']} paragraphs)")


@models.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["joblib"]), default="joblib", expose_value=False, help="What to write.")
@option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The file to write.")
@home_option
def export(bundle: Path, output: Path, home: Path) -> None:
    """Hand BUNDLE, a folder or a version at home, to a notebook as plain scikit-learn pipelines.

    joblib.load gives {"topics": {id: pipeline}, "stances": {id: pipeline}}; each pipeline's predict_proba takes texts.
    Such a file is a pickle: load it only where you trust its maker. The service never does.
    """
    from models.bundle import load_bundle
    from training.export import write_joblib

    write_joblib(load_bundle(bundle_at(home, bundle)), output)


for command in (serve, labels, models, keys):
    main.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
