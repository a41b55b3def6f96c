"""What every worker does beside answering: follow the store, so that all of them serve the same version and keys."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from functools import partial

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import Connection

from models.errors import StanceryError
from service.access import Keys
from service.observe import log
from service.serving import Serving, prepare, verified
from service.settings import Settings
from service.store import keys, versions
from service.store.database import Database, StoreUnavailable

INTERVAL = 0.4
_RETRY = 5.0


@dataclass
class Health:
    """What is wrong, if anything: with the store, and with the last change of versions."""

    store: str | None = None
    swap: str | None = None

    @property
    def reason(self) -> str | None:
        return "; ".join(part for part in (self.swap, self.store) if part) or None


def could_not(version: str) -> str:
    """Say that a version could not take over, to anybody: what an error tells may name folders of this machine."""
    return f"{version} could not take over; the log says why"


@dataclass
class Follower:
    """Keeps one worker in step with the store."""

    settings: Settings
    database: Database
    serving: Serving
    keys: Keys
    loaders: CapacityLimiter
    health: Health = field(default_factory=Health)

    async def run(self) -> None:
        """Follow until cancelled."""
        parent, ready, tried, wait = os.getppid(), False, 0, 0.0
        while True:
            if self.settings.workers > 1 and os.getppid() != parent:
                # The supervisor is gone without a word: a worker left over would hold the port of its successor.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            try:
                if not ready:
                    await run_sync(prepare, self.database, self.settings, self.serving.active.path)
                    ready = True
                wanted, known = await self.database.read(_state)
                self.health.store = None
                self.keys.replace(known)
                if wanted is not None and (wanted.number != tried or wait <= 0):
                    tried, wait = wanted.number, _RETRY
                    await self._follow(wanted)
            except StanceryError as error:
                # What else there may be tells of files.
                reason = (
                    str(error) if isinstance(error, StoreUnavailable) else "it has no version yet; the log says why"
                )
                if self.health.store != reason:
                    log.error("store", extra={"fields": {"reason": error.in_full}})
                self.health.store = reason
            except Exception as error:
                reason = f"an error of ours ({type(error).__name__}); the log has it"
                if self.health.store != reason:
                    log.exception("follow")
                self.health.store = reason
            await asyncio.sleep(INTERVAL)
            wait -= INTERVAL

    async def _follow(self, wanted: versions.Wanted) -> None:
        """Serve what is wanted; where that fails, go on serving what served."""
        self.health.swap = could_not(wanted.failed) if wanted.failed else None
        if wanted.version == self.serving.version:
            return
        try:
            load = partial(verified, exact=self.settings.exact)
            bundle = await run_sync(load, self.settings.home / wanted.path, wanted.version, limiter=self.loaders)
        except StanceryError as error:
            log.error("swap", extra={"fields": {"model": wanted.version, "reason": str(error)}})
            self.health.swap = could_not(wanted.version)
            return
        async with self.serving.changing:
            # Another may have been made active while this one was loaded.
            if await self.database.read(versions.wanted) == wanted:
                self.serving.take_over(bundle)


def _state(connection: Connection) -> tuple[versions.Wanted | None, list[keys.Key]]:
    return versions.wanted(connection), keys.every(connection)
