"""How far a training is: told step by step, shown on a terminal, or as plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Progress:
    """Where a training stands: ``fraction`` of its work done, in [0, 1], and ``seconds_left`` at the pace so far.

    ``details`` holds what a phase found, as plain data: the audit's ``audit``; ``version``, ``bundle`` and ``gate``
    once it is done.
    """

    phase: str
    fraction: float
    message: str
    seconds_left: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Teller:
    """Count steps of a known total and pass the state on.

    Parameters
    ----------
    tell : callable
        Receives a Progress.
    total : int
        Steps, without those of the long one.
    long : int
        How many steps the phase counts as that tells its parts, 0 where there is none.
    """

    def __init__(self, tell: Callable[[Progress], None], total: int, long: int = 0) -> None:
        self._tell = tell
        self._total, self._long = total + long, long
        self._done = 0
        self._start = time.monotonic()
        self._phase, self._message = "read", ""

    def phase(self, name: str, message: str, **details: Any) -> None:
        self._phase, self._message = name, message
        self._send(details)

    def step(self) -> None:
        self._done += 1
        self._send({})

    def part(self, part: float) -> None:
        """Tell how much of the long phase is done, in [0, 1]."""
        self._send({"part": round(part, 3)}, part * self._long)

    def whole(self) -> None:
        """Tell that the long phase is done."""
        self._done += self._long
        self._send({})

    def done(self, message: str, **details: Any) -> None:
        self._tell(Progress("done", 1.0, message, 0.0, details))

    def _send(self, details: dict[str, Any], further: float = 0.0) -> None:
        spent, done = time.monotonic() - self._start, self._done + further
        left = spent / done * (self._total - done) if done else None
        self._tell(Progress(self._phase, min(1.0, done / self._total), self._message, left, details))


@contextmanager
def bar() -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress on standard error."""
    if not sys.stderr.isatty():
        shown = ""

        def line(progress: Progress) -> None:
            nonlocal shown
            if progress.message and progress.message != shown and progress.phase != "done":
                shown = progress.message
                print(f"{progress.fraction:4.0%} {progress.phase}: {shown}", file=sys.stderr, flush=True)

        yield line
        return
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}", leave=False) as shown_bar:

        def move(progress: Progress) -> None:
            shown_bar.n = round(100 * progress.fraction, 1)
            shown_bar.set_postfix_str(progress.message)

        yield move
