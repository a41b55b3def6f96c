"""The tuned family: an encoder fine-tuned, put beside the heads, served, explained, gone on with and fitted again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bundle import GRAPH, Bundle, load_bundle
from models.encoder import Encoder, EncoderSpec, HeadBlend
from models.errors import InvalidData
from models.examples import read_examples
from models.taxonomy import read_taxonomy
from tests.conftest import ROOT, serving, write_small
from training import blending
from training.run import Options, run

TEXT = "The kettle by the leaf in town was splendid and fair."
RAIN = '\n[[topic]]\nid = "rain"\ntitle = "Rain"\nproposition = "Rain on the street is good."\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write_small(folder)
    with (folder / "taxonomy.toml").open("a") as file:
        file.write(RAIN)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, checkpoint: Path) -> Bundle:
    options = Options("tuned", holdout=0.2, jobs=1, encoder=str(checkpoint), cache=folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        # Fewer rows are held than a blend is fitted to.
        patch.setattr(blending, "HEADS", blending.BOTH)
        run(folder / "examples.jsonl", folder / "taxonomy.toml", folder / "bundle", options)
    return load_bundle(folder / "bundle")


def spec_of(bundle: Bundle) -> EncoderSpec:
    encoder = bundle.scorer.model.features.encoder
    assert encoder is not None
    return encoder.spec


def blends_of(bundle: Bundle) -> dict[str, HeadBlend]:
    blends = spec_of(bundle).tuned
    assert blends is not None
    return blends


def test_a_bundle_scores_as_it_says(bundle: Bundle, folder: Path) -> None:
    bundle.check_canaries()
    assert bundle.manifest.version.startswith("tuned-")
    result = bundle.scorer.classify(TEXT)
    assert [(each.topic, each.stance and each.stance.label) for each in result.topics] == [("tea", "favor")]
    assert not list((folder / "cache").glob("encoder-*")), "the state of a finished fine-tuning stays behind"


def test_what_was_learnt_counts_and_the_checkpoint_was_changed(bundle: Bundle, encoder: Encoder) -> None:
    model = bundle.scorer.model
    n_ngrams = model.features.ngrams.size
    assert model.stance_weights is not None
    dense, stances = model.topic_weights[n_ngrams:], model.stance_weights[:, n_ngrams:]
    assert (np.abs(dense).max(axis=0)[:2] > 0.1).all() and (np.abs(stances).max(axis=(1, 2))[1:3] > 0.1).all()
    # What every topic shares is of the n-grams.
    assert not stances[0].any()
    own = model.features.encoder
    assert own is not None and float(own.embed(TEXT) @ encoder.embed(TEXT)) < 0.999


def test_a_topic_that_nobody_labelled_is_left_to_its_head(bundle: Bundle) -> None:
    assert blends_of(bundle)["rain"] == HeadBlend(1.0, 0.0, 1.0, [0.0, 0.0, 0.0])
    assert not bundle.scorer.model.topic_weights[bundle.scorer.model.features.ngrams.size :, 2].any()


def test_what_the_words_add_makes_up_the_score(bundle: Bundle) -> None:
    for text in (TEXT, "  Чай  и кошки,\tkettle\n\npaw " * 30, "?"):
        for topic in bundle.scorer.classify(text, topics=["tea", "cats"], explain=True).topics:
            assert topic.bias is not None
            logit = topic.bias + sum(span.weight for span in topic.evidence)
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(topic.score, abs=1e-9)


def test_the_same_seed_makes_the_same_weights_and_an_interrupt_changes_nothing(
    folder: Path, checkpoint: Path, tmp_path: Path, encoder: Encoder
) -> None:
    import torch

    from training.checkpoint import load_body
    from training.finetuning import Recipe
    from training.texts import TextNet, TextTuning

    taxonomy = read_taxonomy(folder / "taxonomy.toml")
    examples = read_examples(folder / "examples.jsonl", taxonomy)

    class Interrupt(Exception):
        pass

    def tuned(state: Path | None, stop_at: float = 2.0) -> dict[str, torch.Tensor]:
        def step(part: float) -> None:
            if part >= stop_at:
                raise Interrupt

        torch.manual_seed(0)
        net = TextNet(load_body(checkpoint), "mean", 3)
        sides = examples[:64], examples[64:80]
        TextTuning(net, encoder.tokenizer, taxonomy, *sides, Recipe(epochs=2)).run(step, state)
        return net.state_dict()

    state = tmp_path / "state.pt"
    with pytest.raises(Interrupt):
        tuned(state, stop_at=0.8)
    whole, resumed = tuned(None), tuned(state)
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.parametrize("stance", [True, False])
def test_a_challenger_takes_the_champions_encoder_and_learns_new_topics_by_its_heads(
    bundle: Bundle, folder: Path, tmp_path: Path, stance: bool
) -> None:
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    for number in range(40):
        text = f"A drizzle soaked garden {number} and the gutter, which was {'splendid' if number % 2 else 'awful'}."
        rows.append(
            {"text": text, "topics": {"rain": "favor" if number % 2 else "against"}, "document_id": f"r{number}"}
        )
    if not stance:
        rows = [{**row, "topics": list(row["topics"])} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Options("tuned", holdout=0.2, jobs=1, cache=folder / "cache")
    made = run(tmp_path / "rows.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options, champion=bundle.path)
    assert (made.directory / GRAPH).read_bytes() == (bundle.path / GRAPH).read_bytes()
    assert made.gate is not None and any("the encoder is the champion's" in note for note in made.gate.notes)
    challenger = load_bundle(made.directory)
    old, new = blends_of(bundle), blends_of(challenger)
    assert new == old
    (result,) = challenger.scorer.classify_all(["A drizzle soaked the gutter and it was splendid."], ids=["p1"])
    assert [each.topic for each in result.topics] == ["rain"]
    n_old, n_new = (each.scorer.model.features.ngrams.size for each in (bundle, challenger))
    before, after = bundle.scorer.model.topic_weights[n_old:], challenger.scorer.model.topic_weights[n_new:]
    np.testing.assert_array_equal(before, after)


def test_without_a_checkpoint_or_a_champion_that_has_one_there_is_nothing_to_tune(
    folder: Path, shared_small: object, tmp_path: Path
) -> None:
    assert callable(shared_small)
    for champion in (None, shared_small()):
        with pytest.raises(InvalidData, match="encoder: to fine-tune one"):
            options = Options("tuned", jobs=1)
            run(folder / "examples.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options, champion=champion)


def test_it_is_served_without_torch(bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import sys, stancery\n"
        f"stancery.load({str(bundle.path)!r}).classify([{TEXT!r}])\n"
        "assert not {'torch', 'transformers', 'sklearn'} & sys.modules.keys()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with serving(bundle.path, tmp_path / "log") as server:
        answer = server.post("/v1/classify", {"paragraphs": [TEXT]}).json
        assert answer["model"] == bundle.manifest.version
        assert [each["topic"] for each in answer["results"][0]["topics"]] == ["tea"]
