"""The encoder family: fitted, written, loaded, explained, fitted again and served."""

from __future__ import annotations

import gc
import shutil
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from models.bundle import GRAPH, Bundle, load_bundle
from models.encoder import Encoder
from models.errors import BundleError, InvalidData
from models.examples import Example
from models.taxonomy import Taxonomy
from tests.conftest import ROOT, Server, serving, write_small
from training import fitting
from training.embeddings import Embeddings
from training.export import pipelines
from training.run import Options, run

TEXT = "The kettle by the leaf in town was splendid and fair."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_small(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, checkpoint: Path) -> Bundle:
    options = Options("encoder", holdout=0.2, jobs=1, encoder=str(checkpoint), cache=folder / "cache")
    run(folder / "examples.jsonl", folder / "taxonomy.toml", folder / "bundle", options)
    return load_bundle(folder / "bundle")


def test_a_bundle_scores_as_it_says(bundle: Bundle) -> None:
    bundle.check_canaries()
    assert bundle.manifest.family == "encoder" and bundle.manifest.version.startswith("encoder-")
    assert bundle.manifest.settings["encoder"]["architecture"] == "bert"
    result = bundle.scorer.classify(TEXT)
    assert [(each.topic, each.stance and each.stance.label) for each in result.topics] == [("tea", "favor")]


def test_the_embedding_counts(bundle: Bundle) -> None:
    dense = bundle.scorer.model.topic_weights[bundle.scorer.model.features.ngrams.size :]
    assert dense.shape == (384, 2) and np.abs(dense).max() > 0.01


def test_what_the_tokens_add_makes_up_the_score(bundle: Bundle) -> None:
    for text in (TEXT, "  Чай  и кошки,\tkettle\n\npaw " * 30, "?"):
        for topic in bundle.scorer.classify(text, topics=["tea", "cats"], explain=True).topics:
            assert topic.bias is not None
            logit = topic.bias + sum(span.weight for span in topic.evidence)
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(topic.score, abs=1e-9)


def test_a_text_is_embedded_once_however_many_come_together(bundle: Bundle) -> None:
    encoder = bundle.scorer.model.features.encoder
    assert encoder is not None
    before = encoder.parts.cache_info().misses  # type: ignore[attr-defined]  # a cached function
    texts = [f"{number} {TEXT}" for number in range(40)]
    results = bundle.scorer.classify_all(texts, ids=texts)
    assert all(result.topics for result in results)
    assert encoder.parts.cache_info().misses == before + 40  # type: ignore[attr-defined]  # a cached function


def test_an_encoder_that_nobody_needs_is_let_go_of_at_once(bundle: Bundle) -> None:
    gc.disable()
    try:
        found = load_bundle(bundle.path)
        found.scorer.classify(TEXT)
        left = weakref.ref(found.scorer.model.features.encoder)
        del found
        assert left() is None
    finally:
        gc.enable()


def test_a_score_does_not_hang_on_the_company(bundle: Bundle) -> None:
    alone = bundle.scorer.topic_scores([TEXT])
    crowd = bundle.scorer.topic_scores([*(f"{TEXT} {number}" * 3 for number in range(20)), TEXT])
    assert (alone[0] == crowd[-1]).all()


def test_fitting_again_embeds_only_what_is_new(encoder: Encoder, tmp_path: Path) -> None:
    first = Embeddings(encoder, tmp_path)
    vectors = [first(text) for text in (TEXT, "Other.", TEXT)]
    assert first.made == 2 and (vectors[0] == vectors[2]).all()
    first.close()
    again = Embeddings(encoder, tmp_path)
    assert (again(TEXT) == vectors[0]).all() and again.made == 0
    again.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 100, None])
def test_what_was_kept_and_got_damaged_is_made_again(encoder: Encoder, tmp_path: Path, damage: bytes | None) -> None:
    first = Embeddings(encoder, tmp_path)
    vectors = [first(f"{number} {TEXT}") for number in range(8)]
    first.close()
    (kept,) = tmp_path.glob("*.sqlite")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    again = Embeddings(encoder, tmp_path)
    assert all((again(f"{number} {TEXT}") == vector).all() for number, vector in enumerate(vectors))
    assert again.made == 8
    again.close()


def test_what_was_kept_may_be_deleted_meanwhile(encoder: Encoder, tmp_path: Path) -> None:
    embeddings = Embeddings(encoder, tmp_path)
    vector = embeddings(TEXT)
    for path in tmp_path.iterdir():
        path.unlink()
    assert (embeddings(TEXT) == vector).all() and embeddings(f"{TEXT} Again.").shape == vector.shape


def test_what_cannot_be_kept_is_embedded_all_the_same(encoder: Encoder, tmp_path: Path) -> None:
    Embeddings(encoder, tmp_path).close()
    (kept,) = tmp_path.glob("*.sqlite")
    with closing(sqlite3.connect(kept, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.embeddings.PATIENCE", 0.1)
            embeddings = Embeddings(encoder, tmp_path)
        assert embeddings(TEXT).any() and embeddings(TEXT).any()
        assert embeddings.made == 1


def test_the_matrix_that_is_fitted_on_has_the_rows_that_are_served(
    encoder: Encoder, seeds: list[Example], taxonomy: Taxonomy
) -> None:
    chosen = seeds[:30]
    material = fitting.prepare(chosen, taxonomy, Embeddings(encoder, None))
    ngrams = material.features.ngrams
    for fitted, each in zip(material.matrix, chosen, strict=True):
        row, dense = ngrams.read(each.text), fitted.toarray()[0]
        assert dense[row.columns()].tobytes() == row.values().tobytes()
        assert dense[ngrams.size :].tobytes() == encoder.embed(each.text).tobytes()
        assert np.count_nonzero(dense[: ngrams.size]) == len(row.columns())


def test_a_challenger_takes_the_champions_encoder(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    options = Options("encoder", holdout=0.2, jobs=1, seed=1, cache=folder / "cache")
    arguments = (folder / "examples.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options)
    made = run(*arguments, champion=bundle.path)
    assert (made.directory / GRAPH).read_bytes() == (bundle.path / GRAPH).read_bytes()
    assert made.gate is not None
    with pytest.raises(InvalidData, match="name a checkpoint"):
        run(*arguments[:2], tmp_path / "other", options)


def test_a_changed_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    data = bytearray((copy / GRAPH).read_bytes())
    data[1000] ^= 1
    (copy / GRAPH).write_bytes(data)
    with pytest.raises(BundleError, match=r"encoder\.onnx.*damaged"):
        load_bundle(copy)


def test_scikit_learn_cannot_have_it(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="linear bundle can be exported"):
        pipelines(bundle)


@pytest.mark.parametrize(
    ("family", "absent"), [("encoder", "torch transformers sklearn onnx"), ("linear", "onnxruntime tokenizers torch")]
)
def test_serving_takes_no_more_than_it_needs(family: str, absent: str, bundle: Bundle, bundle_path: Path) -> None:
    path = bundle.path if family == "encoder" else bundle_path
    code = f"import sys, stancery; stancery.load({str(path)!r}).classify([{TEXT!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*absent.split()} & {*done.stdout.split()}


@pytest.fixture(scope="module")
def server(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(bundle.path, tmp_path_factory.mktemp("served") / "log") as running:
        yield running


def test_it_is_served(server: Server, bundle: Bundle) -> None:
    (result,) = server.classify(TEXT)
    expected = bundle.scorer.classify(TEXT)
    assert [topic["score"] for topic in result["topics"]] == [topic.score for topic in expected.topics]
    assert all(TEXT[span["start"] : span["end"]] == span["text"] for span in result["topics"][0]["evidence"])
    assert server.memory() < 500_000_000


def test_a_request_may_name_it_while_a_linear_version_serves(
    server: Server, bundle: Bundle, shared_small: Callable[..., Path]
) -> None:
    home, own = server.log.parent / "home", bundle.manifest.version
    other = load_bundle(shared_small()).manifest.version
    shutil.copytree(shared_small(), home / "bundles" / other)
    try:
        activate(home, other)
        end = time.monotonic() + 10
        while server.post("/v1/classify", {"text": TEXT}).json["model"] != other:
            assert time.monotonic() < end
        answer = server.post("/v1/classify", {"text": TEXT, "model": own}).json
        expected = bundle.scorer.classify(TEXT)
        assert answer["model"] == own
        assert [topic["score"] for topic in answer["results"][0]["topics"]] == [each.score for each in expected.topics]
    finally:
        activate(home, own)


def activate(home: Path, version: str) -> None:
    command = [sys.executable, "-m", "stancery", "models", "activate", version, "--home", str(home)]
    subprocess.run(command, cwd=ROOT, check=True)
