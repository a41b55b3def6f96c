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


def gate_lines(gate: dict[str, Any]) -> list[str]:
    """Return a gate's table for people: every check, one a line, under what came of them."""

    def number(value: float | None, form: str = ".3f") -> str:
        return "–" if value is None else format(value, form)

    row = "  {:<10}{:<44}{:>7}{:>10}{:>8}{:>12}{:>9}{}".format
    lines = [f"{gate['challenger']} {'passed' if gate['passed'] else 'did not pass'} against {gate['champion']}"]
    lines.append(row("rows", "figure", "labels", "champion", "this", "difference", "allowed", ""))
    for check in gate["checks"]:
        verdict = {True: "", False: "  FAILED", None: "  too few"}[check["passed"]]
        name = check["metric"] + (f" of {check['topic']}" if check["topic"] else "")
        figures = (number(check["champion"]), number(check["challenger"]), number(check["difference"], "+.3f"))
        lines.append(row(check["rows"], name, check["support"], *figures, f"{-check['margin']:+.2f}", verdict))
    return lines + [f"  {reason}" for reason in gate["reasons"] + gate["notes"]]
