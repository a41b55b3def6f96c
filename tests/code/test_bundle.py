"""A bundle is refused when any byte of it is not what was written, and is written whole or not at all."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from models.bundle import DIGEST, FORMAT, MANIFEST, WEIGHTS, load_bundle, read_manifest, write_bundle
from models.errors import BundleError


@pytest.fixture
def copy(shared_small: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_small(), tmp_path / "copy"))


def seal(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    change(manifest)
    data = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / DIGEST).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")


def test_any_changed_byte_of_any_file_is_noticed(copy: Path) -> None:
    load_bundle(copy)
    random = np.random.default_rng(0)
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        places = {0, len(data) - 1, *random.integers(0, len(data), 20).tolist()}
        for place in places:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(BundleError):
                load_bundle(copy)
        path.write_bytes(data + b" ")
        with pytest.raises(BundleError):
            load_bundle(copy)
        path.write_bytes(data)
    load_bundle(copy)


def test_any_missing_file_is_noticed(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError, match=r"cannot be read: No such file"):
            load_bundle(copy)
        path.write_bytes(data)


def test_a_newer_format_is_refused_by_its_number(copy: Path) -> None:
    seal(copy, lambda manifest: manifest.update(format=FORMAT + 1))
    with pytest.raises(BundleError, match=rf"bundle format {FORMAT + 1}; this release reads format {FORMAT}"):
        load_bundle(copy)


def test_a_manifest_that_points_outside_is_refused(copy: Path) -> None:
    seal(copy, lambda manifest: manifest["files"].update({"../x": {"bytes": 0, "sha256": ""}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(copy)


def test_a_name_that_no_file_can_have_is_refused(copy: Path) -> None:
    seal(copy, lambda manifest: manifest["files"].update({"a\0b": {"bytes": 0, "sha256": ""}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("topic_bias", lambda array: array * np.nan, "topic_bias holds what is no finite number"),
        ("stance_weights", lambda array: np.where(array == array.max(), np.inf, array), "stance_weights holds"),
        ("topic_bias", lambda array: array[:1], "topic_bias is not of the 2 topics"),
        ("topic_weights", lambda array: np.hstack([array, array]), "topic_weights is not of the 2 topics"),
        ("stance_bias", lambda array: array[:1], "stance_bias is not of the 2 topics"),
        ("stance_weights", lambda array: array[:2], "stance_weights is not of the 2 topics"),
    ],
)
def test_weights_that_would_score_nonsense_are_refused(
    copy: Path, name: str, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    arrays = load((copy / WEIGHTS).read_bytes())
    data = save(arrays | {name: np.ascontiguousarray(change(arrays[name]))})
    (copy / WEIGHTS).write_bytes(data)
    digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    seal(copy, lambda manifest: manifest["files"].update({WEIGHTS: digest}))
    with pytest.raises(BundleError, match=reason):
        load_bundle(copy)


def test_a_canary_without_a_number_is_noticed(copy: Path) -> None:
    bundle = load_bundle(copy)
    bundle.scorer.model.topic_bias[:] = np.nan
    with pytest.raises(BundleError, match="canary 1"):
        bundle.check_canaries()


def test_a_canary_that_sings_another_tune_is_noticed(copy: Path) -> None:
    seal(copy, lambda manifest: manifest["canaries"][0]["topics"].__setitem__(0, 0.123))
    with pytest.raises(BundleError, match="canary 1"):
        load_bundle(copy).check_canaries()


def test_a_bundle_is_never_written_over(copy: Path) -> None:
    with pytest.raises(BundleError, match="never changed once written"):
        write_bundle(copy, read_manifest(copy), {})


def test_a_write_that_fails_leaves_nothing(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_bundle(tmp_path / "new", read_manifest(copy), {WEIGHTS: None})
    with pytest.raises(IsADirectoryError):
        write_bundle(tmp_path / "new", read_manifest(copy), {".": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_bundle_that_nobody_holds_leaves_memory_at_once(copy: Path) -> None:
    gc.disable()
    try:
        bundle = load_bundle(copy)
        bundle.check_canaries()
        model = bundle.scorer.model
        left = [weakref.ref(part) for part in (model, model.features)]
        del bundle, model
        assert not any(part() for part in left)
    finally:
        gc.enable()
