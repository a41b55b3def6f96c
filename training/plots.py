"""The plots of a report, as SVG text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.examples import STANCES
from training.evaluation import wilson

FloatArray = NDArray[np.float64]
INK = "#22313f"
BLUE, ORANGE, GREY = "#2166ac", "#b35806", "#9aa5b1"
_STYLE: Any = {
    "svg.hashsalt": "stancery",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = buffer.getvalue()
    # One page holds several drawings: element ids must not meet.
    prefix = re.sub(r"\W+", "-", label.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg[svg.index("<svg") :])
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    return figure, axes


def precision_recall(ids: Sequence[str], scores: FloatArray, labels: NDArray[np.bool_], thresholds: FloatArray) -> str:
    """One small precision-recall curve a topic; the dot is the threshold in force. `scores`: (n, n_topics)."""
    columns = min(4, len(ids))
    rows = -(-len(ids) // columns)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new(2.3 * columns, 2.0 * rows, rows, columns)
        for axis in axes[len(ids) :]:
            axis.set_visible(False)
        for index, (axis, name) in enumerate(zip(axes, ids, strict=False)):
            axis.set(xlim=(0, 1.02), ylim=(0, 1.05), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axis.set_title(name, fontsize=9, loc="left")
            gold = labels[:, index]
            if not gold.any():
                axis.text(0.5, 0.5, "no held-out\nparagraph", ha="center", va="center", color=GREY)
                continue
            order = np.argsort(-scores[:, index], kind="stable")
            hits = np.cumsum(gold[order])
            axis.plot(hits / gold.sum(), hits / np.arange(1, len(hits) + 1), color=BLUE, linewidth=1.4)
            predicted = scores[:, index] >= thresholds[index]
            if predicted.any():
                both = (predicted & gold).sum()
                axis.plot(both / gold.sum(), both / predicted.sum(), "o", color=ORANGE, markersize=5)
        figure.supxlabel("recall", fontsize=9)
        figure.supylabel("precision", fontsize=9)
        return _svg(figure, "Precision and recall of each topic")


def reliability(curves: Sequence[tuple[str, FloatArray, NDArray[np.bool_]]]) -> str:
    """Reliability diagrams: mean probability against how often it came true, in ten equal-width bins.

    `curves` holds a title, probabilities (n,) and outcomes (n,) each.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new(3.4 * len(curves), 3.2, 1, len(curves))
        for axis, (title, confidence, outcome) in zip(axes, curves, strict=True):
            bins = np.minimum((confidence * 10).astype(int), 9)
            count = np.bincount(bins, minlength=10)
            kept = count > 0
            mean = np.bincount(bins, confidence, 10)[kept] / count[kept]
            came_true = np.bincount(bins, outcome, 10)[kept] / count[kept]
            low, high = wilson(came_true, count[kept])
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
            axis.errorbar(
                mean,
                came_true,
                yerr=[came_true - low, high - came_true],
                fmt="o-",
                color=BLUE,
                linewidth=1.2,
                markersize=4,
                ecolor=GREY,
            )
            axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability said", ylabel="share that came true")
            axis.set_title(title, fontsize=9, loc="left")
        return _svg(figure, "Reliability diagram")


def confusion(panels: Sequence[tuple[str, Sequence[Sequence[int]]]]) -> str:
    """Stance confusion, rows gold and columns predicted, shaded by row share. `panels` holds a title and counts."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new(3.2 * len(panels), 3.0, 1, len(panels))
        for axis, (title, rows) in zip(axes, panels, strict=True):
            counts = np.array(rows, float)
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (i, j), count in np.ndenumerate(counts):
                colour = "white" if share[i, j] > 0.6 else INK
                axis.text(j, i, f"{count:.0f}", ha="center", va="center", color=colour)
            axis.set_xticks(range(3), STANCES)
            axis.set_yticks(range(3), STANCES)
            axis.set(xlabel="predicted", ylabel="gold")
            axis.set_title(title, fontsize=9, loc="left")
        return _svg(figure, "Stance confusion")


def learning_curve(sizes: Sequence[int], topic_f1: Sequence[float], stance_f1: Sequence[float]) -> str:
    """Held-out macro-F1 against the number of paragraphs fitted on."""
    with matplotlib.rc_context(_STYLE):
        figure, (axis,) = _new(4.6, 3.0)
        for values, colour, name in ((topic_f1, BLUE, "topics"), (stance_f1, ORANGE, "stance given the topic")):
            axis.plot(sizes, values, "o-", color=colour, linewidth=1.4, markersize=4, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="paragraphs fitted on", ylabel="held-out macro-F1", ylim=(0, 1))
        axis.legend(frameon=False, loc="lower right")
        return _svg(figure, "Learning curve")


def strongest_words(panels: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Bars of word weights; `panels` holds a title and (word, weight) from heaviest down."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _new(2.6 * columns, 2.1 * rows, rows, columns)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, words) in zip(axes, panels, strict=False):
            places = range(len(words))
            axis.barh(places, [weight for _, weight in words], color=[BLUE if w > 0 else ORANGE for _, w in words])
            axis.set_yticks(places, [word for word, _ in words], fontsize=8, parse_math=False)
            axis.invert_yaxis()
            axis.set_title(title, fontsize=9, loc="left")
            axis.tick_params(axis="y", length=0)
        return _svg(figure, "Strongest words")
