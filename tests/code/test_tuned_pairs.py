"""A pair model beside a fine-tuned encoder: the crossencoder family where every topic has labels."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from models.bundle import CROSS_GRAPH, GRAPH, Bundle, load_bundle
from models.crossencoder import presence
from models.errors import InvalidData
from models.examples import read_examples
from models.linear import sigmoid
from models.taxonomy import read_taxonomy
from tests.conftest import write_small
from training import blending
from training.crossencoding import needs_frozen
from training.progress import Progress
from training.run import Options, run

TEXT = "The kettle by the leaf in town was splendid and fair."


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of examples in which every topic has labels."""
    folder = tmp_path_factory.mktemp("labelled")
    write_small(folder)
    return folder


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taxonomy of a topic more, which none has."""
    folder = tmp_path_factory.mktemp("without")
    write_small(folder, unlabelled=True)
    return folder / "taxonomy.toml"


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def bundle(labelled: Path, checkpoint: Path, told: list[Progress]) -> Bundle:
    options = Options("crossencoder", holdout=0.2, jobs=1, encoder=str(checkpoint), cache=labelled / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blending, "HEADS", blending.BOTH)
        patch.setattr(blending, "ENOUGH", 1)
        run(labelled / "examples.jsonl", labelled / "taxonomy.toml", labelled / "bundle", options, told.append)
    return load_bundle(labelled / "bundle")


def test_the_encoder_is_fine_tuned_where_every_topic_has_labels_and_enough(labelled: Path, without: Path) -> None:
    taxonomy = read_taxonomy(labelled / "taxonomy.toml")
    examples = read_examples(labelled / "examples.jsonl", taxonomy)
    assert needs_frozen(examples, taxonomy)
    many = examples * (1 + blending.ENOUGH // len(examples) * 2)
    assert not needs_frozen(many, taxonomy)
    assert needs_frozen(many, read_taxonomy(without))


def test_the_pair_model_is_blended_with_the_fine_tuned_encoder(bundle: Bundle, labelled: Path) -> None:
    bundle.check_canaries()
    scorer = bundle.scorer
    encoder, pairs = scorer.model.features.encoder, scorer.pairs
    assert encoder is not None and encoder.spec.tuned is not None and pairs is not None
    assert not [*(labelled / "cache").glob("pairs-*"), *(labelled / "cache").glob("encoder-*")]
    result = scorer.classify(TEXT, explain=True, topics=["cats"])
    first = result.topics[0]
    assert first.stance is not None and (first.topic, first.stance.label) == ("tea", "favor")
    for topic in result.topics:
        assert topic.bias is not None
        logit = topic.bias + sum(span.weight for span in topic.evidence)
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(topic.score, abs=1e-9)
    assert pairs.reads.all()


def test_a_challenger_takes_what_was_fine_tuned_and_reads_a_topic_without_labels(
    bundle: Bundle, labelled: Path, without: Path, tmp_path: Path
) -> None:
    options = Options("crossencoder", holdout=0.2, jobs=1, seed=1, cache=labelled / "cache")
    made = run(labelled / "examples.jsonl", without, tmp_path / "bundle", options, champion=bundle.path)
    for name in (GRAPH, CROSS_GRAPH):
        assert (made.directory / name).read_bytes() == (bundle.path / name).read_bytes()
    assert made.gate is not None and any("encoder and the pair model are the" in note for note in made.gate.notes)
    scorer = load_bundle(made.directory).scorer
    rain = scorer.taxonomy.ids.index("rain")
    found = {each.topic: each for each in scorer.classify(TEXT, topics=["rain"]).topics}
    assert found["rain"].zero_shot and not found["tea"].zero_shot
    # No head knows it, so the pair model speaks alone.
    assert scorer.pairs is not None
    alone = scorer.pairs.spec.alone_topic
    logit = alone.pair * presence(scorer.pairs.read(TEXT, rain).logits) + alone.offset[0]
    assert alone.head == 0.0 and found["rain"].score == pytest.approx(float(sigmoid(np.array(logit))))


def test_heads_of_a_fine_tuned_champion_are_not_fitted_for_the_encoder_family(
    bundle: Bundle, labelled: Path, tmp_path: Path
) -> None:
    rows, taxonomy = labelled / "examples.jsonl", labelled / "taxonomy.toml"
    for family, message in (("encoder", "the champion's is fine-tuned"), ("linear", None)):
        with pytest.raises(InvalidData, match=message) if message else nullcontext():
            run(rows, taxonomy, tmp_path / family, Options(family, jobs=1), champion=bundle.path)


def test_progress_never_falls_back(bundle: Bundle, told: list[Progress]) -> None:
    fractions = [each.fraction for each in told]
    assert bundle and fractions == sorted(fractions) and fractions[-1] == 1.0
    long = [each.fraction for each in told if "part" in each.details]
    assert {each.phase for each in told if "part" in each.details} == {"tune", "pairs"} and long[0] < 0.5 < long[-1]
