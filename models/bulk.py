"""A file of any length, labelled on all cores: in stretches that each become a file of their own, joined as they come.

What lies in the folder of stretches is whole, so a run that was cut short goes on with those that are missing.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO

import msgspec

from models import files, tables
from models.bundle import load_bundle
from models.errors import InvalidCall, InvalidData, StanceryError
from models.scorer import Scorer
from models.tables import Row

# Paragraphs; in Parquet a row group.
STRETCH = 2048
# Where a paragraph takes milliseconds: every core gets something to do soon, and little is lost by an interrupt.
SLOW_STRETCH = 64
# Stretches read ahead of each worker, so that none waits for the reading; more would only take memory.
_AHEAD = 2
# Stretches that may wait for the disk before the scoring does.
_UNWRITTEN = 64
_JOB = "job.json"


class WorkerDied(StanceryError):
    """A process that scored was killed, or could not start; what is done is kept."""


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

    def label(self, scorer: Scorer, rows: Sequence[Row]) -> bytes:
        """Return the results of some rows, encoded."""
        results = scorer.classify_all(
            [row.text for row in rows],
            ids=[row.id for row in rows],
            topics=self.topics,
            explain=self.explain,
            encoded=self.output_format == "jsonl",
        )
        return tables.encode(results, self.output_format)


def to_stream(job: Job, stream: IO[bytes], *, jobs: int, step: Callable[[int], None]) -> None:
    """Label a file onto a stream, which cannot be gone on with; of standard input each line as it comes.

    Raises
    ------
    InvalidData
        At the first row that cannot be scored, or for a format that cannot be streamed.
    """
    if job.output_format == "parquet":
        raise InvalidData(["Parquet cannot be written to standard output or a pipe; name a file with --output"])
    scorer = job.scorer()
    job = _in_stretches(job, scorer)
    stream.write(tables.head(job.output_format))
    if job.file == "-":
        for row in tables.read_rows(job.file, job.format):
            stream.write(job.label(scorer, [row]))
            stream.flush()
            step(1)
        return
    with TemporaryDirectory(prefix="stancery-") as folder:
        tasks = ((rows, _path(Path(folder), number)) for number, rows in enumerate(_stretches(job)))
        with closing(_done(job, scorer, jobs, tasks)) as blocks:
            for count, path in blocks:
                stream.write(path.read_bytes())
                path.unlink()
                step(count)


def to_file(job: Job, output: Path, *, jobs: int, resume: bool, step: Callable[[int], None]) -> None:
    """Label a file into another, which is there only once it is whole.

    Parameters
    ----------
    job : Job
    output : Path
        A file or nothing yet, and no link. Beside it lies a folder ``<output>.parts`` until the run is done.
    jobs : int
        Processes that score.
    resume : bool
        Whether to go on with what an earlier run left.
    step : callable
        Told how many paragraphs were done since the last time.

    Raises
    ------
    InvalidData
        At the first row that cannot be scored; nothing is kept then, and nothing of standard input ever.
    InvalidCall
        If there is nothing to go on with, or another job left it, or the folder is not a run's.
    WorkerDied
    """
    folder = parts_of(output)
    scorer = job.scorer()
    job = _in_stretches(job, scorer)
    tables.check_writable(job.output_format)
    _open_folder(folder, job, resume)
    try:
        whole = folder / "whole"
        with (
            tables.joined(whole, job.output_format) as add,
            _in_order(folder, add) as keep,
            closing(_done(job, scorer, jobs, _missing(job, folder, step))) as parts,
        ):
            for count, part in parts:
                keep(part)
                step(count)
        files.put(whole, output)
    except BaseException as error:
        if isinstance(error, InvalidData) or job.file == "-":
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def parts_of(output: Path) -> Path:
    """Return the folder that holds what is done of an output."""
    return Path(f"{output}.parts")


def _in_stretches(job: Job, scorer: Scorer) -> Job:
    return msgspec.structs.replace(job, stretch=STRETCH if scorer.is_quick else SLOW_STRETCH)


def _open_folder(folder: Path, job: Job, resume: bool) -> None:
    kept = folder / _JOB
    if resume:
        try:
            before = msgspec.json.decode(kept.read_bytes(), type=Job)
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidCall(f"{folder}: nothing to go on with; run it without --resume") from error
        fields = [name for name in job.__struct_fields__ if getattr(before, name) != getattr(job, name)]
        if fields:
            raise InvalidCall(f"{folder}: left by a run that differs in {', '.join(fields)}; run without --resume")
        return
    if folder.exists():
        if not kept.is_file() and any(folder.iterdir()):
            raise InvalidCall(f"{folder}: is in the way and was left by no run; move it, or name another --output")
        shutil.rmtree(folder)
    # Nobody else may read what is half done: the output that it becomes may be private.
    folder.mkdir(0o700)
    kept.write_bytes(msgspec.json.encode(job))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08}"


def _stretches(job: Job) -> Iterator[list[Row]]:
    rows = tables.read_rows(job.file, job.format)
    return iter(lambda: list(islice(rows, job.stretch)), [])


def _missing(job: Job, folder: Path, step: Callable[[int], None]) -> Iterator[tuple[list[Row], Path]]:
    """Yield each stretch that is not there yet, and where it is to be left."""
    for number, rows in enumerate(_stretches(job)):
        path = _path(folder, number)
        if path.exists():
            step(len(rows))
        else:
            yield rows, path.with_suffix(".part")


@contextmanager
def _in_order(folder: Path, add: Callable[[Path], None]) -> Iterator[Callable[[Path], None]]:
    """Yield what takes a stretch that was left and lets it be there, on disk, and in the whole after those before it.

    A thread of its own does so: the scoring waits for no disk.
    """
    added = 0

    def keep(part: Path) -> None:
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(part.with_suffix(""))
        catch_up()

    def catch_up() -> None:
        nonlocal added
        while (path := _path(folder, added)).exists():
            add(path)
            added += 1

    with ThreadPoolExecutor(1) as thread:
        pending: deque[Future[None]] = deque()

        def submit(part: Path) -> None:
            pending.append(thread.submit(keep, part))
            if len(pending) > _UNWRITTEN:
                pending.popleft().result()

        yield submit
        for each in (*pending, thread.submit(catch_up)):
            each.result()


def _leave(job: Job, scorer: Scorer, rows: list[Row], path: Path) -> tuple[int, Path]:
    """Label a stretch into a file.

    A process that is ended in the middle of sending much would leave whoever receives it waiting for ever.
    """
    path.write_bytes(job.label(scorer, rows))
    return len(rows), path


def _done(
    job: Job, scorer: Scorer, jobs: int, tasks: Iterator[tuple[list[Row], Path]]
) -> Generator[tuple[int, Path], None, None]:
    """Label each stretch into its file; yield its length and the file, in order.

    Where there is enough to do, `jobs` processes do it.
    """
    first = list(islice(tasks, 2))
    if len(first) < 2 or jobs == 1:
        for rows, path in chain(first, tasks):
            yield _leave(job, scorer, rows, path)
        return
    pending: deque[Future[tuple[int, Path]]] = deque()
    with _pool(job, jobs) as pool:
        for rows, path in chain(first, tasks):
            with _held_interrupt():
                pending.append(_submitted(pool, rows, path))
            if len(pending) > _AHEAD * jobs:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _submitted(pool: ProcessPoolExecutor, rows: list[Row], path: Path) -> Future[tuple[int, Path]]:
    try:
        return pool.submit(_in_worker, rows, path)
    except (OSError, ValueError) as error:
        # A process has died while another was started, whose pipes the pool closed.
        raise BrokenProcessPool from error


@contextmanager
def _pool(job: Job, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool whose processes end at once when what uses them is cut short, whatever they are at."""
    # Started afresh: a fork would have the parent's locks and none of the threads that hold them.
    context = get_context("spawn")
    ending, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(job, ending))
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool as error:
        raise WorkerDied("a process that scored has died") from error
    finally:
        end.close()
        pool.shutdown(cancel_futures=True)
        ending.close()


@contextmanager
def _held_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back, here until the end and for good in processes started meanwhile: their parent ends them."""
    # The mask is not enough: another thread, of a library, takes the signal then, and Python handles it in this one.
    noted: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)


class _Worker:
    """What a worker process holds."""

    job: Job
    scorer: Scorer


def _begin(job: Job, ending: Connection) -> None:
    Thread(target=_end_with_parent, args=(ending,), daemon=True).start()
    _Worker.job, _Worker.scorer = job, job.scorer()


def _end_with_parent(ending: Connection) -> None:
    """End this process when the parent says so or is killed: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel, ending])
    os._exit(1)


def _in_worker(rows: list[Row], path: Path) -> tuple[int, Path]:
    return _leave(_Worker.job, _Worker.scorer, rows, path)
