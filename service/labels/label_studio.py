"""Label Studio's exports JSON and JSON-MIN.

Sources: "Label Studio Task Format" (`labelstud.io/guide/task_format`), and for JSON-MIN `convert_to_json_min` and
`prettify_result` of `github.com/HumanSignal/label-studio-sdk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.labels.gathering import Gathering, about
from service.labels.names import Mark, Names, toward
from service.labels.records import ABOUT
from service.labels.rows import Rows, objects

TEXT_FIELDS = ("text", "paragraph", "content", "sentence", "post", "tweet")
_KINDS = ("choices", "taxonomy")
_CONTROLS = frozenset(("topic", "topics", "label", "labels", "choice", "choices", "stance", "taxonomy"))
# What JSON-MIN says of the annotation, beside the task's data and the controls.
_OF_THE_ANNOTATION = frozenset(("annotation_id", "created_at", "updated_at", "lead_time", "agreement"))


def tells(row: dict[str, Any]) -> bool:
    """Tell a task, which has its data apart, or a row of JSON-MIN, which has what only an annotation has."""
    return isinstance(row.get("data"), dict) or ("annotation_id" in row and "lead_time" in row)


def read(rows: Rows, gathering: Gathering) -> None:
    """Read tasks, each annotation of a task for itself, or rows of JSON-MIN."""
    controls = _controls(rows, gathering.names)
    for where, row in objects(rows, gathering):
        if isinstance(row.get("data"), dict):
            _read_task(where, row, gathering)
        elif not controls:
            gathering.fault(where, "no field of this file holds a topic of the taxonomy")
        else:
            _read_flat(where, row, controls, gathering)


def _read_task(where: str, task: dict[str, Any], gathering: Gathering) -> None:
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None or annotations == []:
        gathering.skip("unlabelled")
        return
    if not isinstance(annotations, list):
        gathering.fault(where, f"annotations: must be a list, not {type(annotations).__name__}")
        return
    data = task["data"]
    for number, annotation in enumerate(annotations, 1):
        place = f"{where}, annotation {number}" if len(annotations) > 1 else where
        result = annotation.get("result") if isinstance(annotation, dict) else None
        if isinstance(annotation, dict) and (annotation.get("was_cancelled") or annotation.get("skipped")):
            gathering.skip("cancelled")
        elif not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            gathering.fault(place, "annotations: must be objects with a list of objects named result")
        elif result and not any(item.get("type") in _KINDS for item in result):
            gathering.skip("unlabelled")
        else:
            held = ((item.get("from_name"), item.get("value")) for item in result if item.get("type") in _KINDS)
            said = [(control, choice) for control, value in held for choice in _choices(value)]
            known = {**data, "annotator": _annotator(annotation.get("completed_by"))}
            _add(place, _text(data, frozenset()), said, known, gathering)


def _read_flat(where: str, row: dict[str, Any], controls: frozenset[str], gathering: Gathering) -> None:
    said = [(control, choice) for control in sorted(controls & row.keys()) for choice in _choices(row[control])]
    known = {**row, "annotator": _annotator(row.get("annotator"))}
    _add(where, _text(row, controls | _OF_THE_ANNOTATION), said, known, gathering)


def _add(
    where: str, text: object, said: Sequence[tuple[object, object]], known: dict[str, Any], gathering: Gathering
) -> None:
    """Keep a paragraph with what was said of it: controls, each with a choice; one that is null says nothing."""
    chosen = [(control, choice) for control, choice in said if choice is not None]
    if said and not chosen:
        gathering.skip("unlabelled")
        return
    marks = [mark for control, choice in chosen for mark in _marks(control, choice, gathering.names)]
    gathering.add(where, text, marks, about(known, numbered=True))


def _choices(value: object) -> list[object]:
    """Return the choices, and the paths of taxonomies, in a value as JSON and JSON-MIN have it."""
    found: list[object] = []
    for part in value if isinstance(value, list) else [value]:
        held = [part[kind] for kind in _KINDS if kind in part] or [None] if isinstance(part, dict) else [[part]]
        for choices in held:
            found += choices if isinstance(choices, list) else [choices]
    return found


def _marks(control: object, choice: object, names: Names) -> list[Mark]:
    if isinstance(choice, list):
        return [(_path(choice, names), None)]
    topic = names.control(control) if isinstance(control, str) else None
    if topic and isinstance(choice, str) and names.meaning(choice).kind not in ("topic", "dropped"):
        return toward(topic, choice)
    return [(choice, None)]


def _path(path: list[object], names: Names) -> object:
    """Return as one label the part of a taxonomy's path that names a topic, or the whole path if none does."""
    parts = [part for part in path if isinstance(part, str)]
    if len(parts) < len(path):
        return path
    whole = "/".join(parts)
    for label in (whole, "/".join(parts[-2:]), *parts[-1:]):
        if names.meaning(label).kind in ("topic", "dropped", "off_topic"):
            return label
    return whole


def _controls(rows: Rows, names: Names) -> frozenset[str]:
    """Return the fields of JSON-MIN, where data and controls stand side by side, that are controls."""
    found: set[str] = set()
    flat = (row.value for row in rows if row.value is not None and not isinstance(row.value.get("data"), dict))
    for row in flat:
        found |= {name for name, value in row.items() if name not in found and _is_control(name, value, names)}
    return frozenset(found)


def _is_control(name: str, value: object, names: Names) -> bool:
    if name in TEXT_FIELDS or name in ABOUT or name in _OF_THE_ANNOTATION:
        return False
    if name in _CONTROLS or names.control(name):
        return True
    parts = value if isinstance(value, list) else [value]
    return any(
        not names.meaning(part).kind.startswith("unknown")
        if isinstance(part, str) and part
        else isinstance(part, dict) and any(kind in part for kind in _KINDS)
        for part in parts
    )


def _text(data: dict[str, Any], other: frozenset[str]) -> object:
    """Return the paragraph: the field that is named for it, or else the only text there is."""
    for field in TEXT_FIELDS:
        if field in data:
            return data[field]
    texts = [name for name, value in data.items() if isinstance(value, str) and name not in other and name not in ABOUT]
    return data[texts[0]] if len(texts) == 1 else None


def _annotator(value: object) -> object:
    return (value.get("email") or value.get("id")) if isinstance(value, dict) else value
