"""What a bundle says to people: the model card and the report."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import REPORT, Manifest
from models.examples import STANCES
from models.figures import headline, text_figure
from models.linear import LinearModel
from models.taxonomy import Taxonomy
from training import plots
from training.evaluation import Scores

FloatArray = NDArray[np.float64]
_SHOWN_WORDS = 9
_STYLE = """
:root { color-scheme: light; --ink: #22313f; --line: #d6dce2; --soft: #5b6b7a; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p.lead { color: var(--soft); } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } small { color: var(--soft); }
code { background: #f2f4f6; padding: 0 .25rem; }
"""


def topic_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """Return a row a topic: id, held-out paragraphs, precision, recall, F1, threshold."""
    return [
        (
            name,
            str(row["support"]),
            *(text_figure(row[part]) for part in ("precision", "recall", "f1")),
            f"{manifest.rules.topics[name].threshold:.2f}",
        )
        for name, row in manifest.metrics.get("topics", {}).get("per_topic", {}).items()
    ]


TOPIC_HEADER = ("topic", "held out", "precision", "recall", "F1", "threshold")


def _intervals(manifest: Manifest) -> str:
    interval = manifest.metrics["interval"]
    return f"{100 * interval['level']:.0f} % intervals over {interval['unit']}s"


def model_card(manifest: Manifest, taxonomy: Taxonomy, warnings: Sequence[str], audit: Mapping[str, Any]) -> str:
    """Return the model card, Markdown, headed as in Mitchell et al. (2019), "Model Cards for Model Reporting"."""
    counts = manifest.counts
    measured = headline(manifest.metrics) if manifest.metrics else []
    lines = [
        f"# {manifest.version}",
        "",
        "## Model details",
        f"Family `{manifest.family}`, made {manifest.created}. {' '.join(_parts(manifest))}",
        "",
        "## Intended use",
        "Labels paragraphs of news with topics and, per topic, with the stance toward its proposition. The stance is "
        "that of the paragraph's main voice. Scores are calibrated on text like the training examples; on other text, "
        "check them first with `stancery evaluate`.",
        "",
        "| topic | proposition |",
        "| --- | --- |",
        *(f"| {topic.id} | {topic.proposition or '– (topic only)'} |" for topic in taxonomy.topics),
        "",
        "## Training and evaluation data",
        f"{counts['examples']} examples from {counts['groups']} documents "
        f"(SHA-256 {manifest.examples_hash[:12]}…): {counts['fitted']} fitted on, {counts['held_out']} held out, "
        f"{counts['left_out_as_near_duplicates']} left out because they nearly repeat a held-out one. "
        f"{counts['off_topic']} are off topic.",
        "",
        f"Worth a second look, and listed in `{REPORT}`: {audit['likely_mislabels']['count']} likely mislabels, "
        f"{audit['conflicts']['count']} texts labelled twice and differently, {audit['near_duplicates']['count']} "
        "pairs of near-duplicates labelled differently.",
        "",
        "## Metrics",
        f"On the held-out part, which neither weights nor calibration nor thresholds have seen; {_intervals(manifest)}."
        if measured
        else "Nothing was held out, so nothing was measured.",
        "",
        *(["| metric | value |", "| --- | --- |"] if measured else []),
        *(f"| {name} | {value} |" for name, value in measured),
        "",
        *([f"| {' | '.join(TOPIC_HEADER)} |", "|" + " --- |" * len(TOPIC_HEADER)] if measured else []),
        *(f"| {' | '.join(row)} |" for row in topic_rows(manifest)),
        "",
        "## How it decides",
        *(f"- `{name}`: {statement}." for name, statement in manifest.rule_statements.items()),
        "",
        "## Caveats",
        "Irony, long-range negation and who says what to whom are often beyond it. Read the evidence beside the score.",
        *(f"- {warning}" for warning in warnings),
        "",
    ]
    return "\n".join(lines)


def _parts(manifest: Manifest) -> Iterator[str]:
    yield "Word 1-2-grams and character 2-5-grams, TF-IDF; a logistic head a topic; stance heads with weights that all"
    yield "topics share and weights of each topic's own."
    if encoder := manifest.settings.get("encoder"):
        kind = "sentence encoder that was fine-tuned on the labels" if "tuned" in encoder else "frozen sentence encoder"
        yield f"Beside the n-grams stands the embedding of a {kind}, {encoder['source']}."
    if pairs := manifest.settings.get("crossencoder"):
        yield f"{pairs['source']}, fine-tuned to read a topic's wording with the paragraph, is blended with the heads."
        if pairs["zero_shot"]:
            yield f"By their wording alone, since nothing is labelled with them: {', '.join(pairs['zero_shot'])}."


def heaviest_words(model: LinearModel, taxonomy: Taxonomy) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return the heaviest word n-grams of each topic, and of the shared stance weights favor over against."""
    words = model.features.ngrams.words
    if not words:
        return []

    def top(weights: FloatArray, count: int) -> list[tuple[str, float]]:
        return [(words[i], float(weights[i])) for i in np.argsort(-weights, kind="stable")[:count]]

    panels = [
        (topic.id, top(model.topic_weights[: len(words), index].astype(float), _SHOWN_WORDS))
        for index, topic in enumerate(taxonomy.topics)
    ]
    if model.stance_weights is not None:
        shared = model.stance_weights[0, : len(words)].astype(float)
        direction = shared[:, 0] - shared[:, 1]
        against = [(word, -weight) for word, weight in top(-direction, 5)]
        panels.append(("stance: favor over against", top(direction, 5) + against[::-1]))
        panels.append(("stance: neutral", top(shared[:, 2] - shared[:, :2].mean(axis=1), _SHOWN_WORDS)))
    return panels


def draw(
    manifest: Manifest,
    taxonomy: Taxonomy,
    model: LinearModel,
    scores: Scores | None,
    curve: Sequence[Mapping[str, float]],
) -> list[tuple[str, str, str]]:
    """Draw the report's plots: (title, what to look for, SVG) each."""
    drawn = []
    if scores is not None:
        thresholds = np.array([manifest.rules.topics[name].threshold for name in taxonomy.ids])
        drawn.append(
            (
                "Precision and recall",
                "One curve a topic over the held-out paragraphs; the dot is the threshold in force.",
                plots.precision_recall(taxonomy.ids, scores.topics, scores.labels, thresholds),
            )
        )
        curves = [("topics", scores.topics.ravel(), scores.labels.ravel())]
        if len(scores.row):
            right = scores.stances.argmax(axis=1) == scores.stance
            curves.append(("likeliest stance", scores.stances.max(axis=1), right))
        drawn.append(
            (
                "Reliability",
                "On the dashed line a probability of 0.7 comes true seven times in ten. Bars are Wilson's 95 % "
                "intervals, which take the pairs of a document for independent.",
                plots.reliability(curves),
            )
        )
        if len(scores.row):
            stance = manifest.metrics["stance"]
            drawn.append(
                (
                    "Stance confusion",
                    f"Rows are gold ({', '.join(STANCES)}), columns predicted; end to end leaves out topics not found.",
                    plots.confusion(
                        [
                            ("given the topic", stance["given_topic"]["confusion"]["counts"]),
                            ("end to end", stance["end_to_end"]["confusion"]["counts"]),
                        ]
                    ),
                )
            )
    if curve:
        drawn.append(
            (
                "Learning curve",
                "Still rising on the right: more labels will help. Every point is measured on the same held-out part, "
                "under the calibration and thresholds of the whole.",
                plots.learning_curve(
                    [int(point["paragraphs"]) for point in curve],
                    [point["topic_macro_f1"] for point in curve],
                    [point["stance_macro_f1"] for point in curve],
                ),
            )
        )
    if words := heaviest_words(model, taxonomy):
        drawn.append(
            ("Strongest words", "Words and pairs that push hardest. A name that decides by itself is a warning.",
             plots.strongest_words(words))
        )  # fmt: skip
    return drawn


def report_page(
    manifest: Manifest, drawn: Sequence[tuple[str, str, str]], warnings: Sequence[str], audit: Mapping[str, Any]
) -> str:
    """Return the report: one HTML page that needs nothing else."""
    counts = manifest.counts
    parts = [
        f"<h1>{html.escape(manifest.version)}</h1>",
        f"<p class=lead>{counts['examples']:,} examples, {counts['fitted']:,} fitted on, "
        f"{counts['held_out']:,} held out; made {html.escape(manifest.created)}.</p>",
    ]
    if warnings:
        parts.append("<ul>" + "".join(f"<li>{html.escape(warning)}</li>" for warning in warnings) + "</ul>")
    if manifest.metrics:
        parts += [
            "<h2>How good it is</h2>",
            f"<p>On the held-out part; in brackets {_intervals(manifest)}.</p>",
            _table(("metric", "value"), headline(manifest.metrics)),
            "<h2>Topic by topic</h2>",
            _table(TOPIC_HEADER, topic_rows(manifest)),
        ]
    for title, caption, svg in drawn:
        parts.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p>{svg}")
    parts += _audit(audit)
    parts.append("<h2>How it decides</h2><dl>")
    for name, statement in manifest.rule_statements.items():
        parts.append(f"<dt><code>{html.escape(name)}</code></dt><dd>{html.escape(statement)}</dd>")
    parts.append("</dl>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(manifest.version)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _audit(audit: Mapping[str, Any]) -> list[str]:
    """Return the section on labels worth a second look."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    def listed(title: str, caption: str, found: Mapping[str, Any], header: Sequence[str], rows: Any) -> str:
        more = f"; the {len(found['listed'])} worst or first of them" if found["count"] > len(found["listed"]) else ""
        summary = f"<summary>{html.escape(title)}: {found['count']:,}{more}</summary>"
        return f"<details>{summary}<p>{html.escape(caption)}</p>{_table(header, list(rows))}</details>"

    def pairs(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
        return [
            (entry["text"], ", ".join(entry["ids"]), " | ".join(_labels(labels) for labels in entry["labels"]))
            for entry in found["listed"]
        ]

    mislabels = audit["likely_mislabels"]
    return [
        "<h2>Labels worth a second look</h2>",
        "<p>By models that had not seen the paragraph. Nothing was changed or left out for it.</p>",
        _table(
            ("topic", "paragraphs", "label confirmed", "with a stance", "stance confirmed"),
            [
                (name, str(row["n"]), share(row["topic"]), str(row["n_stances"]), share(row["stance"]))
                for name, row in audit["agreement"].items()
            ],
        ),
        listed(
            "Likely mislabels",
            "Another label than the one given scored as high as it does on average where it is given (confident "
            "learning, Northcutt, Jiang and Chuang 2021). The worst first.",
            mislabels,
            ("text", "id", "topic", "given", "suggested", "probability"),
            (
                (*(entry[key] for key in ("text", "id", "topic", "given", "suggested")), f"{entry['confidence']:.2f}")
                for entry in mislabels["listed"]
            ),
        ),
        listed(
            "Texts labelled twice and differently",
            "The same but for case and spacing.",
            audit["conflicts"],
            ("text", "ids", "labels"),
            pairs(audit["conflicts"]),
        ),
        listed(
            "Near-duplicates labelled differently",
            "They share at least half of the five-word sequences of the shorter one. A changed word may well change "
            "the label; look.",
            audit["near_duplicates"],
            ("text", "ids", "labels"),
            pairs(audit["near_duplicates"]),
        ),
    ]


def _labels(topics: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}: {stance}" if stance else name for name, stance in topics.items()) or "off topic"
