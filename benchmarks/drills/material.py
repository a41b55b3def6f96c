"""What the drills feed a service with: small bundles that differ, real ones, and what each of them must answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.drills.harness import SEEDS, TAXONOMY
from models.bundle import Bundle, load_bundle
from service.store import versions
from service.store.database import Database
from service.store.migrate import upgrade
from tests.conftest import write_small
from training.run import Options, train

SMALL_TEXTS = (
    "The kettle by the leaf in town 7 was splendid and fair.",
    "The whisker by the paw in town 12 was dreadful and wrong.",
    "The cup by the brew in town 30 was on the agenda.",
    "The kitten by the kettle in town 3 was dreadful and fair.",
    "Rain fell on street 5 and the bus was late again.",
)


def small_bundles(folder: Path, count: int = 2) -> list[Path]:
    """Fit bundles of a few paragraphs about tea and cats, no two from the same rows."""
    write_small(folder)
    rows = (folder / "examples.jsonl").read_text().splitlines(keepends=True)
    return [
        _fit(folder, f"small-{number}", rows[12 * number :], folder / "taxonomy.toml", holdout=0.2)
        for number in range(count)
    ]


def seed_bundles(folder: Path, count: int = 2, rows: int = 1600) -> list[Path]:
    """Fit bundles of the size of real ones, each on another part of the seeds."""
    lines = SEEDS.read_text().splitlines(keepends=True)
    step = (len(lines) - rows) // max(1, count - 1)
    return [
        _fit(folder, f"seeds-{number}", lines[number * step :][:rows], TAXONOMY, holdout=0, folds=2)
        for number in range(count)
    ]


def _fit(folder: Path, name: str, rows: Iterable[str], taxonomy: Path, **options: Any) -> Path:
    examples = folder / f"{name}.jsonl"
    examples.write_text("".join(rows))
    return train(examples, taxonomy, folder / name, Options(jobs=1, **options))


def seed_texts(count: int) -> list[str]:
    """Return paragraphs of the seeds, from all over them."""
    lines = SEEDS.read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[:: len(lines) // count][:count]]


def register(bundles: Iterable[Path], home: Path, database_url: str | None) -> None:
    """Make bundles known to the store of a service, as candidates."""
    database = Database(database_url, home)
    upgrade(database)
    with database.writing() as connection:
        for path in bundles:
            versions.register(connection, load_bundle(path).manifest, path, home)
    database.close()


class Expected:
    """What bundles answer in this process, to hold a service's answers against.

    Parameters
    ----------
    texts : sequence of str
        Asked about one at a time.
    bundles : iterable of Path
        More may be added as a service makes them.
    """

    def __init__(self, texts: Sequence[str], bundles: Iterable[Path] = ()) -> None:
        self.texts = texts
        self._results: dict[str, list[Any]] = {}
        for path in bundles:
            self.add(load_bundle(path))

    def add(self, bundle: Bundle) -> None:
        self._results[bundle.manifest.version] = [
            msgspec.to_builtins(bundle.scorer.classify(text, id="p1")) for text in self.texts
        ]

    @property
    def versions(self) -> list[str]:
        return list(self._results)

    def fault(self, number: int, body: bytes) -> str | None:
        """Say what is wrong with the answer about one text, or return None: it is just what that version answers."""
        try:
            answer = json.loads(body)
            version, results = answer["model"], answer["results"]
        except (ValueError, KeyError) as error:
            return f"not an answer: {error!r}"
        if version not in self._results:
            return f"names the version {version}, which is not one of {', '.join(self._results)}"
        # By way of JSON, as the answer came: numbers come out of it as they went in.
        wanted = json.loads(msgspec.json.encode([self._results[version][number]]))
        return None if results == wanted else f"{version}: scores differ for text {number}"
