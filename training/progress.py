"""A training's progress on a terminal, or as plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from training.run import Progress


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
