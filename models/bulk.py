"""A file of any length, labelled on all cores: in stretches that each become a file of their own, joined at last.

What lies in the folder of stretches is whole, so a run that was cut short goes on with those that are missing.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import IO, Any, TypeVar

import msgspec

from models import tables
from models.bundle import load_bundle
from models.errors import InvalidData, StanceryError
from models.results import Result
from models.scorer import Scorer
from models.tables import Row

T = TypeVar("T")
STRETCH = 2048
# Stretches read ahead of each worker, so that none waits for the reading; more would only take memory.
_AHEAD = 2
_JOB = "job.json"


class Job(msgspec.Struct, frozen=True):
    """What is done to which file; two runs with equal jobs give the same stretches."""

    bundle: str
    version: str
    file: str
    size: int
    changed: int
    format: str
    output_format: str
    topics: list[str]
    explain: bool
    exact: bool
    stretch: int = STRETCH

    def scorer(self) -> Scorer:
        """Load the bundle.

        Raises
        ------
        BundleError
        InvalidParagraph
            If a named topic does not exist.
        """
        found = load_bundle(self.bundle).scorer
        found.exact = self.exact
        found.check_topics(self.topics)
        return found

    def label(self, scorer: Scorer, rows: Iterable[Row]) -> Iterator[Result]:
        for row in rows:
            yield scorer.classify(row.text, id=row.id, topics=self.topics, explain=self.explain)


def to_stream(job: Job, stream: IO[bytes], *, jobs: int, step: Callable[[int], None]) -> None:
    """Label a file onto a stream, which cannot be gone on with; of standard input each line as it comes.

    Raises
    ------
    InvalidData
        At the first row that cannot be scored, or for a format that cannot be streamed.
    """
    if job.output_format == "parquet":
        raise InvalidData(["Parquet cannot be written to standard output; name an --output"])
    scorer = job.scorer()
    stream.write(tables.head(job.output_format))
    if job.file == "-":
        for result in job.label(scorer, tables.read_rows(job.file, job.format)):
            stream.write(tables.encode([result], job.output_format))
            step(1)
        return
    for count, data in _done(job, scorer, jobs, _encoded, ((rows,) for rows in _stretches(job))):
        stream.write(data)
        step(count)


def to_file(job: Job, output: Path, *, jobs: int, resume: bool, step: Callable[[int], None]) -> None:
    """Label a file into another, which is there only once it is whole.

    Parameters
    ----------
    job : Job
    output : Path
        Beside it lies a folder ``<output>.parts`` until the run is done.
    jobs : int
        Processes that score.
    resume : bool
        Whether to go on with what an earlier run left.
    step : callable
        Told how many paragraphs were done since the last time.

    Raises
    ------
    InvalidData
        At the first row that cannot be scored; nothing is kept then.
    StanceryError
        If there is nothing to go on with, or another job left it, or a worker died.
    """
    folder = Path(f"{output}.parts")
    scorer = job.scorer()
    tables.check_writable(job.output_format)
    _open_folder(folder, job, resume)
    try:
        count = _fill(job, scorer, folder, jobs, step)
        whole = folder / "whole"
        tables.join([_path(folder, number) for number in range(count)], whole, job.output_format)
        whole.replace(output)
    except InvalidData:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _open_folder(folder: Path, job: Job, resume: bool) -> None:
    kept = folder / _JOB
    if resume:
        try:
            before = msgspec.json.decode(kept.read_bytes(), type=Job)
        except (OSError, msgspec.DecodeError) as error:
            raise StanceryError(f"{folder}: nothing to go on with; run it without --resume") from error
        fields = [name for name in job.__struct_fields__ if getattr(before, name) != getattr(job, name)]
        if fields:
            raise StanceryError(f"{folder}: left by a run that differs in {', '.join(fields)}; run without --resume")
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    kept.write_bytes(msgspec.json.encode(job))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08}"


def _stretches(job: Job) -> Iterator[list[Row]]:
    rows = tables.read_rows(job.file, job.format)
    return iter(lambda: list(islice(rows, job.stretch)), [])


def _fill(job: Job, scorer: Scorer, folder: Path, jobs: int, step: Callable[[int], None]) -> int:
    """Make every stretch that is missing; return how many there are in all."""
    count = 0

    def missing() -> Iterator[tuple[list[Row], Path]]:
        nonlocal count
        for rows in _stretches(job):
            path = _path(folder, count)
            count += 1
            if path.exists():
                step(len(rows))
            else:
                yield rows, path

    for done in _done(job, scorer, jobs, _written, missing()):
        step(done)
    return count


def _encoded(job: Job, scorer: Scorer, rows: list[Row]) -> tuple[int, bytes]:
    return len(rows), tables.encode(list(job.label(scorer, rows)), job.output_format)


def _written(job: Job, scorer: Scorer, rows: list[Row], path: Path) -> int:
    """Label a stretch into a file that is there only once it is whole, and on disk."""
    part = path.with_suffix(".part")
    count, data = _encoded(job, scorer, rows)
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    return count


def _done(job: Job, scorer: Scorer, jobs: int, work: Callable[..., T], tasks: Iterator[tuple[Any, ...]]) -> Iterator[T]:
    """Yield ``work(job, scorer, *task)`` for each task in order, from `jobs` processes where there is enough to do."""
    first = list(islice(tasks, 2))
    if len(first) < 2 or jobs == 1:
        for task in chain(first, tasks):
            yield work(job, scorer, *task)
        return
    # Started afresh: a fork would have the parent's locks and none of the threads that hold them.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(job,))
    pending: deque[Future[T]] = deque()
    try:
        for task in chain(first, tasks):
            pending.append(pool.submit(_in_worker, work, task))
            if len(pending) > _AHEAD * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise StanceryError("a process that scored has died; --resume goes on with what is done") from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process holds."""

    job: Job
    scorer: Scorer


def _begin(job: Job) -> None:
    # Who interrupts the command interrupts its workers too; the parent ends them when it is ready.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _Worker.job, _Worker.scorer = job, job.scorer()


def _end_with_parent() -> None:
    """End this process when the parent is killed: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_worker(work: Callable[..., T], task: tuple[Any, ...]) -> T:
    return work(_Worker.job, _Worker.scorer, *task)
