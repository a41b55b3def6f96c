"""Who looks after a training: that it shows itself, stops what must be stopped, and buries only the dead."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.bundle import load_bundle
from service import processes
from service.context import Service
from service.observe import Metrics
from service.routes.trainings import _events
from service.serving import Serving
from service.settings import Settings
from service.store import corpus, trainings
from service.store.corpus import Incoming
from service.store.database import FILE, Database
from service.store.migrate import upgrade
from service.store.trainings import Training
from service.trainer import INTERVAL, LEASE, Runner, Stopped, Told

ELSEWHERE = "elsewhere 7 7"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(None, tmp_path / "home")
    upgrade(database)
    with database.writing() as connection:
        trainings.create(connection, "linear", 0, "ann")
    yield database
    database.close()


@pytest.fixture
def make(shared_small: Callable[..., Path], database: Database, tmp_path: Path) -> Callable[..., Runner]:
    def made(**settings: Any) -> Runner:
        chosen = Settings(home=tmp_path / "home", **settings)
        return Runner(chosen, database, Serving(load_bundle(shared_small()), chosen, Metrics()))

    return made


def claimed(database: Database, name: str) -> Training:
    with database.writing() as connection:
        training = trainings.claim(connection, name)
    assert training is not None
    return training


def cancel(database: Database, training: Training) -> None:
    with database.writing() as connection:
        trainings.cancel(connection, training.id, "bob")


def test_a_runner_is_told_dead_only_where_that_can_be_seen() -> None:
    me = processes.identity()
    machine, pid, started = me.rsplit(" ", 2)
    assert processes.is_dead(me) is False
    assert processes.is_dead(f"{machine} {pid} {int(started) - 1}") is True
    assert processes.is_dead(f"{machine} {pid} -") is None
    assert processes.is_dead(f"elsewhere {pid} {started}") is None


def test_a_training_shows_itself_while_its_labels_are_written_out(
    make: Callable[..., Runner], database: Database
) -> None:
    runner = make()
    watch = partial(runner._watch, claimed(database, runner._me), Told(), math.inf)
    asyncio.run(runner._meanwhile(watch, lambda _: time.sleep(5 * INTERVAL)))
    with database.reading() as connection:
        running, _ = trainings.pending(connection)
    assert running is not None and running.beat >= 2


@pytest.mark.parametrize(
    ("settings", "ended"),
    [({}, ("cancelled", "cancelled by bob")), ({"train_seconds": 0.1}, ("failed", "out of time"))],
)
def test_what_writes_labels_out_is_stopped(
    make: Callable[..., Runner], database: Database, settings: dict[str, Any], ended: tuple[str, str]
) -> None:
    runner = make(**settings)
    training = claimed(database, runner._me)
    if not settings:
        cancel(database, training)
    begin = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        watch = partial(runner._watch, training, Told(), begin)
        asyncio.run(runner._meanwhile(watch, lambda stop: stop.wait(60)))
    assert time.monotonic() - begin < 10
    assert stopped.value.ended is not None
    assert stopped.value.ended.state == ended[0] and ended[1] in stopped.value.ended.reason


def test_a_service_that_stops_does_not_wait_for_labels(make: Callable[..., Runner], database: Database) -> None:
    runner = make()
    watch = partial(runner._watch, claimed(database, runner._me), Told(), math.inf)

    async def stop_soon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runner._meanwhile(watch, lambda stop: stop.wait(60)), INTERVAL)

    begin = time.monotonic()
    asyncio.run(stop_soon())
    assert time.monotonic() - begin < 10


def test_no_more_labels_are_written_out_for_what_is_stopped(
    make: Callable[..., Runner], database: Database, tmp_path: Path
) -> None:
    with database.writing() as connection:
        said = [Incoming(text=f"Kettle {number}.", topics={"tea": None}, annotator="ann") for number in range(9)]
        corpus.add(connection, said, "test")
    runner, stop = make(), threading.Event()
    for name, count in (("whole", 9), ("stopped", 0)):
        runner._write_examples(tmp_path / name, runner._serving.active, stop)
        assert len((tmp_path / name / "examples.jsonl").read_bytes().splitlines()) == count
        stop.set()


def test_a_runner_that_showed_itself_meanwhile_is_not_buried(make: Callable[..., Runner], database: Database) -> None:
    training, runner = claimed(database, ELSEWHERE), make()
    folder = runner._folder(training.id)
    folder.mkdir(parents=True)
    with database.reading() as connection:
        seen, _ = trainings.pending(connection)
    assert seen is not None
    # It has been silent for longer than the lease, and shows itself just before it is given up.
    runner._seen = seen, time.monotonic() - LEASE - 1
    with database.writing() as connection:
        assert trainings.beat(connection, training.id, ELSEWHERE, None) == (True, None)
    asyncio.run(runner._bury(seen))
    assert folder.exists()
    with database.reading() as connection:
        again, _ = trainings.pending(connection)
    assert again is not None and again.beat == seen.beat + 1
    runner._seen = again, time.monotonic() - LEASE - 1
    asyncio.run(runner._bury(again))
    assert not folder.exists()
    with database.reading() as connection:
        assert trainings.state_of(connection, training.id).state == "interrupted"


def test_a_watcher_hears_the_end_of_a_training_once_the_store_is_back(database: Database, tmp_path: Path) -> None:
    training = claimed(database, ELSEWHERE)
    with database.writing() as connection:
        trainings.finish(connection, training.id, "failed", reason="no luck")
        ended = trainings.state_of(connection, training.id)
    service = cast(Service, SimpleNamespace(database=database, stopping=threading.Event()))
    file = tmp_path / "home" / FILE

    async def watch() -> list[bytes]:
        events: AsyncIterator[bytes] = _events(service, ended)
        heard = [await anext(events)]
        # In its place SQLite makes an empty one, which has no tables.
        file.rename(tmp_path / "away")
        rest = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        assert not rest.done()
        (tmp_path / "away").rename(file)
        return [*heard, await asyncio.wait_for(rest, 10)]

    progress, end = asyncio.run(watch())
    assert progress.startswith(b"event: progress") and end.startswith(b"event: end") and b"no luck" in end
