"""What the parts share: paragraphs to label, rounds of timing, a table and a plot."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.accuracy import SEEDS, TAXONOMY
from models.examples import read_examples
from models.taxonomy import read_taxonomy


def paragraphs(count: int, words: int) -> list[str]:
    """Return paragraphs of so many words, cut one after the other from the running text of the seeds."""
    text = " ".join(example.text for example in read_examples(SEEDS, read_taxonomy(TAXONOMY))).split()
    starts = [number * words % (len(text) - words) for number in range(count)]
    return [" ".join(text[start : start + words]) for start in starts]


@contextmanager
def on_core(*cores: int) -> Iterator[None]:
    """Have this process, and what it starts, run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def per_second(label: Callable[[list[str]], object], texts: Sequence[str], size: int, seconds: float = 1.0) -> float:
    """Return how many paragraphs a second are labelled in batches of `size`."""
    batches = [list(texts[at : at + size]) for at in range(0, len(texts), size)]
    done, start = 0, time.perf_counter()
    while True:
        for batch in batches:
            label(batch)
            done += len(batch)
            if (spent := time.perf_counter() - start) > seconds:
                return done / spent


def show(
    title: str,
    unit: str,
    columns: Sequence[str],
    rates: Mapping[str, Mapping[str, list[float]]],
    *,
    is_alike: bool = True,
) -> None:
    """Print medians with their spread, and, of rows that are alike, how often the last one's goes into each, if it did
    anything."""
    last = list(rates)[-1]
    least = rates[last] if is_alike else {}
    told = f"; x times {last}" if is_alike else ""
    print(f"\n{title}: {unit + ', ' if unit else ''}median (least to most){told}")
    if any(columns):
        print(f"{'':<34}" + "".join(f"{column:>38}" for column in columns))
    for name, found in rates.items():
        cells = []
        for column in columns:
            if column not in found:
                cells.append("not measured")
                continue
            median = statistics.median(found[column])
            one = statistics.median(least[column]) if column in least else 0
            times = f"  x {median / one:.3g}" if one else ""
            cells.append(f"{_number(median)} ({_number(min(found[column]))} to {_number(max(found[column]))}){times}")
        print(f"{name:<34}" + "".join(f"{cell:>38}" for cell in cells))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10_000 else f"{value:,.4g}"


def plot(path: Path, unit: str, columns: Sequence[str], rates: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Draw the medians as bars on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(columns), figsize=(4.5 * len(columns), 0.4 * len(rates) + 1.5), sharey=True)
    for axis, column in zip([axes] if len(columns) == 1 else axes, columns, strict=True):
        names = [name for name in rates if column in rates[name]]
        medians = [statistics.median(rates[name][column]) for name in names]
        spread = [
            [median - min(rates[name][column]) for name, median in zip(names, medians, strict=True)],
            [max(rates[name][column]) - median for name, median in zip(names, medians, strict=True)],
        ]
        axis.barh(names, medians, xerr=spread, color=["#1f6f8b" if "Stancery" in name else "#b8c4cc" for name in names])
        axis.set(xscale="log", title=column, xlabel=unit)
    # They share it: turning one over turns all.
    axis.invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(f"drawn: {path}")
