"""Trainings: whichever worker takes one runs the trainer as a child process and looks after it until it ends."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import Connection

from models.bundle import TAXONOMY, Bundle, fsync
from models.errors import StanceryError
from models.examples import within
from service import processes
from service.observe import log
from service.serving import Serving, verified
from service.settings import Settings
from service.store import corpus, trainings, versions
from service.store.database import Database, StoreUnavailable
from service.store.trainings import Claim, Progress, Training, UnknownTraining

T = TypeVar("T")
INTERVAL = 0.4
# A runner on another machine is given up when it has not shown itself for so long; one on this machine is looked for.
LEASE = 10.0
_NICEST = 19
_LINE = 64 * 1024 * 1024
_WORDS = 400
_ERRORS = 10
# How a system ends what takes too much, and how a library ends that does not look whether it got what it asked for.
_NO_MEMORY = {"SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT"}


class Ended(NamedTuple):
    """How the trainer ended: with a bundle, or with the state and the reason to write down."""

    state: str
    reason: str
    bundle: Path | None = None
    gate: dict[str, Any] | None = None


class Stopped(Exception):
    """A training that must be stopped: `ended` says how to write that down, None where it is somebody else's by now."""

    def __init__(self, ended: Ended | None) -> None:
        super().__init__()
        self.ended = ended


# Looks whether a training must be stopped.
Watch = Callable[[], Awaitable[Stopped | None]]


class Told:
    """What the trainer has told so far, a JSON object a line."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.audit: dict[str, Any] | None = None
        self.done: dict[str, Any] | None = None
        self.errors: list[str] = []

    async def listen(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            with suppress(msgspec.DecodeError):
                said = msgspec.json.decode(line, type=dict[str, Any])
                self.errors = said.get("errors", self.errors)
                self.audit = said.get("audit", self.audit)
                if said.get("phase") == "done":
                    self.done = said
                if "fraction" in said:
                    self.progress = msgspec.convert(said, Progress)


class Runner:
    """Takes trainings from the queue, one at a time."""

    def __init__(self, settings: Settings, database: Database, serving: Serving) -> None:
        self._settings = settings
        self._database = database
        self._serving = serving
        # Not one of those that score: to write all labels out takes long.
        self._thread = CapacityLimiter(1)
        self._me = processes.identity()
        self._seen: tuple[Claim, float] | None = None

    async def run(self) -> None:
        """Look for work until cancelled."""
        swept = False
        while True:
            try:
                if not swept:
                    await self._sweep()
                    swept = True
                running, waiting = await self._database.read(trainings.pending)
                if running is not None:
                    await self._bury(running)
                elif waiting and (training := await self._database.write(self._claim)):
                    await self._train(training)
            except StoreUnavailable:
                # Nobody could show that he lives while the store was away.
                self._seen = None
            except Exception:
                log.exception("trainer")
            await asyncio.sleep(INTERVAL)

    async def _sweep(self) -> None:
        """Remove the folders of trainings that had ended when their service died, but were not tidied up yet."""
        for folder in (self._settings.home / "trainings").glob("*"):
            with suppress(UnknownTraining):
                found = await self._database.read(partial(trainings.state_of, id=folder.name))
                if found.ended is not None:
                    shutil.rmtree(folder, ignore_errors=True)

    def _claim(self, connection: Connection) -> Training | None:
        return trainings.claim(connection, self._me)

    async def _bury(self, running: Claim) -> None:
        """Mark a training interrupted whose runner is gone."""
        if self._seen is None or self._seen[0] != running:
            self._seen = running, time.monotonic()
        # One at a time: while this runner looks for work, a training in its own name is one that it lost hold of.
        dead = running.runner == self._me or processes.is_dead(running.runner)
        if dead or (dead is None and time.monotonic() - self._seen[1] > LEASE):
            reason = "the service that ran it ended before it did; start it again"
            if await self._finish(running.id, "interrupted", reason, runner=running.runner, beat=running.beat):
                shutil.rmtree(self._folder(running.id), ignore_errors=True)

    def _folder(self, id: str) -> Path:
        return self._settings.home / "trainings" / id

    async def _finish(self, id: str, state: str, reason: str, *, runner: str, beat: int | None = None) -> bool:
        def work(connection: Connection) -> bool:
            return trainings.finish(connection, id, state, runner=runner, beat=beat, reason=reason)

        is_ended = await self._database.write(work)
        if is_ended:
            log.info("training", extra={"fields": {"training": id, "state": state, "reason": reason}})
        return is_ended

    async def _train(self, training: Training) -> None:
        log.info("training", extra={"fields": {"training": training.id, "state": "running"}})
        folder, told, champion = self._folder(training.id), Told(), self._serving.active
        try:
            ended = await self._attempt(training, folder, champion, told)
            if ended is not None:
                await self._settle(training, ended, told)
        except asyncio.CancelledError:
            with suppress(StanceryError):
                await self._finish(training.id, "interrupted", "the service was stopped", runner=self._me)
            raise
        except Exception as error:
            log.exception("trainer")
            reason = f"an error of the service ({type(error).__name__}); its log has it"
            await self._finish(training.id, "failed", reason, runner=self._me)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _attempt(self, training: Training, folder: Path, champion: Bundle, told: Told) -> Ended | None:
        """Run the trainer; return how it ended, or None where the job is somebody else's by now."""
        start = time.monotonic()
        watch = partial(self._watch, training, told, start)
        try:
            left_out = await self._meanwhile(watch, partial(self._write_examples, folder, champion))
        except (OSError, StoreUnavailable) as error:
            return Ended("failed", f"the labels could not be written out: {error}")
        except Stopped as early:
            return early.ended
        with (folder / "log").open("wb") as errors:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command(training, folder, champion),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=_LINE,
                )
            except OSError as error:
                return Ended("failed", f"the trainer {self._settings.trainer} cannot be started: {error.strerror}")
        assert process.stdout is not None
        listening = asyncio.create_task(told.listen(process.stdout))
        try:
            stopped = await self._look_after(process.pid, listening, watch)
        finally:
            # It makes itself a group of its own, but not before it runs; once it is reaped its number may be another's.
            for kill in (os.kill, os.killpg) if process.returncode is None else (os.killpg,):
                with suppress(ProcessLookupError):
                    kill(process.pid, signal.SIGKILL)
            listening.cancel()
            code = await process.wait()
        if stopped is not None:
            return stopped.ended
        if told.done is not None:
            note = f"{left_out:,} labels of topics that the taxonomy does not have were left out" if left_out else ""
            return Ended("succeeded", note, Path(told.done["bundle"]), told.done["gate"])
        return Ended("failed", _listed(told.errors) or _last_words(code, folder / "log"))

    async def _watch(self, training: Training, told: Told, start: float) -> Stopped | None:
        """Show that somebody looks after the training; return why it must be stopped, if it must."""
        if time.monotonic() - start > self._settings.train_seconds:
            limit = f"{self._settings.train_seconds:,.0f} s"
            return Stopped(Ended("failed", f"out of time: took longer than {limit}, which --train-seconds allows"))

        def show(connection: Connection) -> tuple[bool, str | None]:
            return trainings.beat(connection, training.id, self._me, told.progress)

        # Without a store there is nobody to tell, and the work goes on.
        with suppress(StoreUnavailable):
            mine, cancelled_by = await self._database.write(show)
            if not mine:
                return Stopped(None)
            if cancelled_by is not None:
                return Stopped(Ended("cancelled", f"cancelled by {cancelled_by}"))
        return None

    async def _meanwhile(self, watch: Watch, work: Callable[[threading.Event], T]) -> T:
        """Do in a thread what takes long, and watch meanwhile.

        Parameters
        ----------
        watch : callable
        work : callable
            Ends early once the event is set that it is given.

        Raises
        ------
        Stopped
            If the training must be stopped.
        """
        event, stopped = threading.Event(), None
        task = asyncio.create_task(run_sync(work, event, limiter=self._thread))
        try:
            while stopped is None and not (await asyncio.wait({task}, timeout=INTERVAL))[0]:
                stopped = await watch()
        finally:
            # The folder that the thread works in is removed next.
            event.set()
            await asyncio.wait({task})
        result = task.result()
        if stopped is not None:
            raise stopped
        return result

    def _write_examples(self, folder: Path, champion: Bundle, stop: threading.Event) -> int:
        """Write out what the champion's taxonomy has room for; return how many labels it has none for."""
        left_out = 0
        folder.mkdir(parents=True)
        with self._database.reading() as connection:
            up_to = corpus.last_number(connection)
        with (folder / "examples.jsonl").open("wb") as file:
            for example in corpus.examples(self._database, up_to):
                if stop.is_set():
                    break
                known = within(example, champion.taxonomy)
                left_out += len(example.topics) - (len(known.topics) if known else 0)
                if known is not None:
                    file.write(msgspec.json.encode(known) + b"\n")
        shutil.copy(champion.path / TAXONOMY, folder / TAXONOMY)
        return left_out

    def _command(self, training: Training, folder: Path, champion: Bundle) -> list[str]:
        settings = self._settings
        options = {
            "--taxonomy": folder / TAXONOMY,
            "--into": folder / "bundles",
            "--champion": champion.path.absolute(),
            "--family": training.family,
            "--seed": training.seed,
            "--jobs": settings.train_jobs,
            "--cache": settings.home / "cache",
            "--memory-mb": settings.train_memory_mb,
            "--nice": _NICEST,
        }
        given = [str(part) for pair in options.items() for part in pair]
        return [settings.trainer, "-P", "-m", "training", str(folder / "examples.jsonl"), *given, "--attached"]

    async def _look_after(self, group: int, listening: asyncio.Task[None], watch: Watch) -> Stopped | None:
        """Wait until the trainer is silent; return why it must be stopped, if it must."""
        megabytes = self._settings.train_memory_mb
        while not listening.done():
            await asyncio.wait({listening}, timeout=INTERVAL)
            # In a thread, since reading the table of processes would hold up whoever asks this worker meanwhile.
            if await run_sync(processes.group_memory, group) > megabytes * 1_000_000:
                limit = f"{megabytes:,} MB"
                reason = f"out of memory: took more than {limit}, which --train-memory-mb allows"
                return Stopped(Ended("failed", reason))
            if (stopped := await watch()) is not None:
                return stopped
        return None

    async def _settle(self, training: Training, ended: Ended, told: Told) -> None:
        """Write down how a training ended; where it made a model, register it, and let it take over if it may."""
        version: str | None = None
        if ended.bundle is not None:

            async def show() -> None:
                # What it should have been stopped for is looked at where its end is written down.
                await self._watch(training, told, math.inf)

            try:
                bundle = await self._meanwhile(show, partial(self._keep, ended.bundle))
                version = bundle.manifest.version
            except (OSError, StanceryError) as error:
                ended = Ended("failed", f"the new bundle cannot be kept: {error}")

        def work(connection: Connection) -> str | None:
            mine, cancelled_by = trainings.beat(connection, training.id, self._me, told.progress)
            if not mine:
                return None
            state, reason = ended.state, ended.reason
            if ended.bundle is not None:
                if cancelled_by is not None:
                    self._register(connection, bundle, ended.gate or {})
                    state, reason = "cancelled", f"cancelled by {cancelled_by}, after the model was made"
                else:
                    done = self._promote(connection, bundle, ended.gate or {}, training)
                    reason = "; ".join(part for part in (done, ended.reason) if part)
            found: dict[str, Any] = {"model": version, "audit": told.audit, "gate": ended.gate}
            trainings.finish(connection, training.id, state, runner=self._me, reason=reason, **found)
            return reason

        while True:
            try:
                reason = await self._database.write(work)
                break
            except StoreUnavailable:
                await asyncio.sleep(1)
        fields = {"training": training.id, "state": ended.state, "model": version, "reason": reason}
        log.info("training", extra={"fields": fields})

    def _keep(self, made: Path, _: threading.Event) -> Bundle:
        """Move a bundle home and verify it there; the same model made again is there already."""
        target = self._settings.bundles / made.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            made.rename(target)
            # Before the store says that it is there.
            for folder in (target.parent, made.parent):
                fsync(folder)
        return verified(target, made.name)

    def _register(self, connection: Connection, bundle: Bundle, gate: dict[str, Any]) -> bool:
        """Make a model known, and return whether it passed the gate."""
        passed = bool(gate.get("passed"))
        state = "candidate" if passed else "rejected"
        versions.register(connection, bundle.manifest, bundle.path, self._settings.home, state)
        return passed

    def _promote(self, connection: Connection, bundle: Bundle, gate: dict[str, Any], training: Training) -> str:
        """Register a model, and make it the active one if the gate and the settings say so; return what was done."""
        manifest, passed = bundle.manifest, self._register(connection, bundle, gate)
        active = versions.wanted(connection)
        if active is not None and active.version == manifest.version:
            return "these labels make the model that is active already"
        if not passed:
            return "rejected by the gate: " + "; ".join(gate.get("reasons", []))
        if self._settings.promote != "auto":
            return "passed the gate, and waits to be activated by hand"
        if active is not None and active.version != gate.get("champion"):
            return f"passed the gate against {gate.get('champion')}, which is not active any more; activate it by hand"
        versions.activate(connection, manifest.version, f"training {training.id}")
        return "passed the gate and was activated"


def _listed(errors: list[str]) -> str:
    """Name the first few of what may be one error a label."""
    more = f"; and {len(errors) - _ERRORS:,} more" if len(errors) > _ERRORS else ""
    return "; ".join(error[:_WORDS] for error in errors[:_ERRORS]) + more


def _last_words(code: int, log_file: Path) -> str:
    """Say how a trainer ended that did not say so itself."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"the trainer was ended by {name}" + (", as when memory runs out" if name in _NO_MEMORY else "")
    lines: list[str] = []
    with suppress(OSError):
        lines = log_file.read_text(errors="replace").split("\n")[-4:]
    words = " ".join(line.strip() for line in lines if line.strip())[-_WORDS:]
    # A library that finds no memory may end the process in words of its own.
    why = "out of memory: " if "memory" in words.lower() else ""
    return f"{why}the trainer ended with exit code {code}" + (f": {words}" if words else "")
