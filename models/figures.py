"""Metrics as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text_figure(figure: Mapping[str, Any]) -> str:
    """Return a metric as ``0.812 [0.790, 0.833]``, or a dash where it is undefined."""
    if figure["value"] is None:
        return "–"
    low, high = figure["interval"]
    return f"{figure['value']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headline metrics as (name, figure with interval)."""
    topics = metrics["topics"]
    rows = [
        ("topic micro-F1", topics["micro"]["f1"]),
        ("topic macro-F1", topics["macro"]["f1"]),
        ("topic Brier score", topics["brier"]),
        ("topic ECE", topics["ece"]),
    ]
    if stance := metrics.get("stance"):
        rows += [
            ("stance macro-F1, given the topic", stance["given_topic"]["macro_f1"]),
            ("stance macro-F1, end to end", stance["end_to_end"]["macro_f1"]),
            ("stance Brier score", stance["brier"]),
            ("stance ECE", stance["ece"]),
        ]
    return [(name, text_figure(value)) for name, value in rows]
