"""The crossencoder family: fine-tuned, blended with the heads, served, explained, gone on with and fitted again."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from copy import copy
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from models.bundle import CROSS_GRAPH, Bundle, Canary, load_bundle
from models.crossencoder import Blend, CrossEncoder, open_tokenizer, presence
from models.encoder import Encoder
from models.errors import InvalidData
from models.examples import read_examples
from models.linear import sigmoid, softmax
from models.taxonomy import read_taxonomy
from tests.conftest import ROOT, serving, write_small
from training import blending, splits
from training.run import Options, run

TEXT = "The kettle by the leaf in town was splendid and fair."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossencoder")
    write_small(folder, unlabelled=True)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, checkpoint: Path) -> Bundle:
    options = Options("crossencoder", holdout=0.2, jobs=1, encoder=str(checkpoint), cache=folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        # Fewer rows are held than a blend is fitted to.
        patch.setattr(blending, "HEADS", blending.BOTH)
        run(folder / "examples.jsonl", folder / "taxonomy.toml", folder / "bundle", options)
    return load_bundle(folder / "bundle")


def test_a_topic_that_nobody_labelled_is_taken_for_absent_nowhere(folder: Path) -> None:
    from training.pairs import PRESENT, PairRecipe, labelled_pairs, labelled_topics

    taxonomy = read_taxonomy(folder / "taxonomy.toml")
    examples = read_examples(folder / "examples.jsonl", taxonomy)
    topics = labelled_topics(taxonomy, examples)
    possible = np.ones((len(examples), len(taxonomy.ids)), dtype=bool)
    recipe = PairRecipe(absent=9, likely=9)
    pairs = labelled_pairs(examples, possible, topics, recipe, np.random.default_rng(0))
    assert "rain" in taxonomy.ids
    bare = [msgspec.structs.replace(each, topics=dict.fromkeys(each.topics)) for each in examples]
    told = labelled_pairs(bare, possible, topics, recipe, np.random.default_rng(0))
    assert sum(pair.label == PRESENT for pair in told) == sum(len(each.topics) for each in examples)
    assert {taxonomy.ids[pair.topic] for pair in pairs} == {*taxonomy.ids} - {"rain"}


def test_a_bundle_scores_as_it_says(bundle: Bundle, folder: Path) -> None:
    bundle.check_canaries()
    assert bundle.manifest.version.startswith("crossencoder-")
    result = bundle.scorer.classify(TEXT)
    first = next(each for each in result.topics if not each.zero_shot)
    assert first.stance is not None and (first.topic, first.stance.label) == ("tea", "favor")
    assert not list((folder / "cache").glob("pairs-*")), "the state of a finished fine-tuning stays behind"


def test_a_topic_without_labels_is_scored_by_its_wording_and_marked(bundle: Bundle) -> None:
    result = bundle.scorer.classify(TEXT, topics=["tea", "rain"])
    marked = {each.topic: each.zero_shot for each in result.topics}
    assert marked["rain"] and not marked["tea"]
    rain = next(each for each in result.topics if each.topic == "rain")
    assert rain.stance is not None
    # Its head knows the wording, though nobody has labelled a paragraph.
    near, far = bundle.scorer.model.topic_logits(("It rained on the street all day.", TEXT))[:, 2]
    assert near > far + 1


def test_what_the_words_add_makes_up_the_score(bundle: Bundle) -> None:
    for text in (TEXT, "  Чай  и кошки,\tkettle\n\npaw " * 30, "?"):
        for topic in bundle.scorer.classify(text, topics=["tea", "cats", "rain"], explain=True).topics:
            assert topic.bias is not None and topic.stance is not None and topic.stance.bias is not None
            logit = topic.bias + sum(span.weight for span in topic.evidence)
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(topic.score, abs=1e-9)
            stance = topic.stance.bias + sum(span.weight for span in topic.stance.evidence)
            index = bundle.taxonomy.ids.index(topic.topic)
            row = bundle.scorer.model.features.read(text)
            heads = bundle.scorer.model.stance_logits(row, index)
            assert bundle.scorer.pairs is not None
            assert stance == pytest.approx(bundle.scorer.pairs.stance_logits(text, index, heads).max(), abs=1e-6)


def test_a_pair_model_that_nobody_needs_is_let_go_of_at_once(bundle: Bundle) -> None:
    gc.disable()
    try:
        found = load_bundle(bundle.path)
        found.scorer.classify(TEXT)
        left = weakref.ref(found.scorer.pairs)
        del found
        assert left() is None
    finally:
        gc.enable()


def test_only_topics_in_reach_are_read_unless_all_are_asked_for(bundle: Bundle) -> None:
    scorer = load_bundle(bundle.path).scorer
    assert scorer.pairs is not None
    off_topic = "Rain fell on street 7 and the bus was late again."
    near = scorer.topic_scores([off_topic])[0]
    assert scorer.pairs.read.cache_info().misses == 1  # type: ignore[attr-defined]  # a cached function
    scorer.exact = True
    exact = scorer.topic_scores([off_topic])[0]
    assert scorer.pairs.read.cache_info().misses == 3  # type: ignore[attr-defined]  # a cached function
    assert exact[2] == near[2] and (exact[:2] != near[:2]).all()


def test_the_same_seed_makes_the_same_weights_and_an_interrupt_changes_nothing(
    folder: Path, checkpoint: Path, tmp_path: Path, encoder: Encoder
) -> None:
    import torch

    from training.checkpoint import load_body
    from training.pairs import PairNet, PairRecipe, PairTuning

    taxonomy = read_taxonomy(folder / "taxonomy.toml")
    examples = read_examples(folder / "examples.jsonl", taxonomy)
    possible = np.ones((len(examples), 3), dtype=bool)

    class Interrupt(Exception):
        pass

    def tuned(state: Path | None, stop_at: float = 2.0) -> dict[str, torch.Tensor]:
        def step(part: float) -> None:
            if part >= stop_at:
                raise Interrupt

        torch.manual_seed(0)
        net = PairNet(load_body(checkpoint))
        sides = (examples[:32], examples[32:48], (possible[:32], possible[32:48]))
        PairTuning(net, encoder.tokenizer, taxonomy, *sides, PairRecipe(epochs=2)).run(step, state)
        return net.state_dict()

    state, damaged = tmp_path / "state.pt", tmp_path / "damaged.pt"
    with pytest.raises(Interrupt):
        tuned(state, stop_at=0.8)
    damaged.write_bytes(state.read_bytes()[:100_000])
    whole, resumed, anew = tuned(None), tuned(state), tuned(damaged)
    assert all((whole[name] == resumed[name]).all() and (whole[name] == anew[name]).all() for name in whole)
    assert not (whole["head.weight"] == PairNet(load_body(checkpoint)).state_dict()["head.weight"]).all()


def test_a_topic_that_is_labelled_without_stances_is_learnt(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    for row in rows:
        row["topics"] = list(row["topics"]) if "cats" in row["topics"] else row["topics"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Options("crossencoder", holdout=0.0, jobs=1, encoder=str(checkpoint))
    run(tmp_path / "rows.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options)
    scorer = load_bundle(tmp_path / "bundle").scorer
    assert scorer.pairs is not None
    cats, text = scorer.taxonomy.ids.index("cats"), "The whisker by the paw in town was on the agenda."
    with_cats, without = (presence(scorer.pairs.read(each, cats).logits) for each in (text, TEXT))
    assert with_cats > without


def test_a_wording_that_is_too_long_leaves_room_for_the_paragraph(encoder: Encoder) -> None:
    tokenizer = open_tokenizer(encoder.tokenizer, 64)
    for wording, text in (("Cats should vote. " * 200, TEXT), ("Cats.", TEXT * 50), ("Cats. " * 200, TEXT * 50)):
        encoding = tokenizer.encode(wording, text)
        assert len(encoding.ids) == 64 and sum(each == 1 for each in encoding.sequence_ids) >= 10


def test_a_challenger_takes_the_champions_pair_model(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    options = Options("crossencoder", holdout=0.2, jobs=1, seed=1, cache=folder / "cache")
    made = run(folder / "examples.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options, champion=bundle.path)
    assert (made.directory / CROSS_GRAPH).read_bytes() == (bundle.path / CROSS_GRAPH).read_bytes()
    assert made.gate is not None and any("the pair model is the champion's" in note for note in made.gate.notes)


def test_without_a_checkpoint_or_a_champion_there_is_nothing_to_tune(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="encoder"):
        run(folder / "examples.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", Options("crossencoder", jobs=1))


def test_where_no_held_row_has_a_stance_the_heads_stand_alone(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.pairs import PairRecipe

    monkeypatch.setattr("training.pairs.PairRecipe", partial(PairRecipe, epochs=1))
    taxonomy = read_taxonomy(folder / "taxonomy.toml")
    examples = read_examples(folder / "examples.jsonl", taxonomy)
    held = splits.folds([example.group for example in examples], 10, 0) == 0
    bare = [
        {"text": each.text, "topics": list(each.topics) if out else each.topics, "document_id": each.group}
        for each, out in zip(examples, held, strict=True)
    ]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    options = Options("crossencoder", holdout=0.0, jobs=1, encoder=str(checkpoint))
    run(tmp_path / "bare.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options)
    scorer = load_bundle(tmp_path / "bundle").scorer
    assert scorer.pairs is not None and scorer.pairs.spec.stance == Blend(1.0, 0.0, [0.0, 0.0, 0.0])
    assert scorer.classify(TEXT, explain=True).topics[0].stance is not None


def test_canaries_hold_where_every_topic_is_read(bundle: Bundle) -> None:
    scorer = copy(bundle.scorer)
    assert scorer.pairs is not None
    scorer.pairs = copy(scorer.pairs)
    # Out of reach of the heads, and far from what they say.
    scorer.pairs.spec = replace(scorer.pairs.spec, reach_from=2.0, topic=Blend(1.0, 0.0, [9.0]))
    text = bundle.manifest.canaries[0].text
    canary = Canary(text, scorer.topic_scores([text])[0].tolist(), None, None)
    changed = bundle._replace(scorer=scorer, manifest=replace(bundle.manifest, canaries=[canary]))
    changed.check_canaries()
    scorer.exact = True
    assert np.abs(scorer.topic_scores([text])[0] - canary.topics).max() > 0.5
    changed.check_canaries()


def test_it_is_served_without_torch(bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import sys, stancery\n"
        f"stancery.load({str(bundle.path)!r}).classify([{TEXT!r}])\n"
        "assert not {'torch', 'transformers', 'sklearn'} & sys.modules.keys()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with serving(bundle.path, tmp_path / "log", "--exact") as server:
        answer = server.post("/v1/classify", {"text": TEXT, "topics": ["rain"]}).json
        found = {each["topic"]: each.get("zero_shot", False) for each in answer["results"][0]["topics"]}
        assert found["rain"] and not found["tea"]
        # Out of the heads' reach, and read all the same.
        text = "Rain fell on street 7 and the bus was late again."
        (result,) = server.classify(text, topics=["tea"])
    score = {each["topic"]: each["score"] for each in result["topics"]}["tea"]
    scorer = load_bundle(bundle.path).scorer
    assert score != scorer.topic_scores([text])[0, 0]
    scorer.exact = True
    assert score == pytest.approx(scorer.topic_scores([text])[0, 0])


def test_a_transformer_without_segments_is_read(bundle: Bundle, encoder: Encoder) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    from training.checkpoint import exported
    from training.pairs import PairNet

    config = DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=32, attn_implementation="eager")
    net = PairNet(DistilBertModel(config))
    assert bundle.scorer.pairs is not None
    spec = bundle.scorer.pairs.spec
    pairs = CrossEncoder(exported(net, ("ids", "segments")), encoder.tokenizer, spec, bundle.taxonomy)
    assert np.isfinite(pairs.read(TEXT, 0).logits).all()
    assert (pairs.read(TEXT, 0).logits != pairs.read("Rain fell.", 0).logits).all()


def test_a_topic_that_the_pair_model_was_not_tuned_on_is_left_to_the_heads(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    rows = (folder / "examples.jsonl").read_text()
    for number in range(40):
        text = f"A drizzle soaked garden {number} and the gutter, which was {'splendid' if number % 2 else 'awful'}."
        stance = "favor" if number % 2 else "against"
        rows += json.dumps({"text": text, "topics": {"rain": stance}, "document_id": f"r{number}"}) + "\n"
    (tmp_path / "rows.jsonl").write_text(rows)
    # What it read of cats says something else now.
    wordings = (folder / "taxonomy.toml").read_text()
    asked = next(topic for topic in bundle.taxonomy.topics if topic.id == "cats").proposition
    assert asked and asked in wordings
    (tmp_path / "taxonomy.toml").write_text(wordings.replace(asked, "Cats must go."))
    options = Options("crossencoder", holdout=0.2, jobs=1)
    made = run(tmp_path / "rows.jsonl", tmp_path / "taxonomy.toml", tmp_path / "made", options, champion=bundle.path)
    scorer = load_bundle(made.directory).scorer
    assert scorer.pairs is not None and not scorer.pairs.zero_shot.any()
    assert dict(zip(scorer.taxonomy.ids, scorer.pairs.reads.tolist(), strict=True)) == {
        "tea": True,
        "cats": False,
        "rain": False,
    }
    text = "A drizzle soaked garden 7 and the gutter, which was splendid."
    for exact in (False, True):
        scorer.exact = exact
        heads = sigmoid(scorer.model.topic_logits([text])[0])
        found = scorer.classify(text, topics=["rain", "cats"], explain=True)
        by_topic = {topic.topic: topic for topic in found.topics}
        for name in ("rain", "cats"):
            place = scorer.taxonomy.ids.index(name)
            assert by_topic[name].score == pytest.approx(heads[place], abs=1e-6)
            stance = by_topic[name].stance
            row = scorer.model.features.read(text)
            assert stance is not None
            favor = softmax(scorer.model.stance_logits(row, place))[0]
            assert stance.favor == pytest.approx(favor, abs=1e-6)


def test_fine_tuning_ends_though_its_state_finds_no_room(
    folder: Path, checkpoint: Path, tmp_path: Path, encoder: Encoder
) -> None:
    from training.checkpoint import load_body
    from training.finetuning import Recipe, state_file
    from training.texts import TextNet, TextTuning

    taxonomy = read_taxonomy(folder / "taxonomy.toml")
    examples = read_examples(folder / "examples.jsonl", taxonomy)
    (tmp_path / "file").write_text("no folder")
    net = TextNet(load_body(checkpoint), "mean", 3)
    tuning = TextTuning(net, encoder.tokenizer, taxonomy, examples[:32], examples[32:48], Recipe(epochs=1))
    state = state_file(tmp_path / "file", "encoder", [1])
    assert state is not None and len(tuning.run(lambda _: None, state)) == 1


def test_what_an_interrupt_left_long_ago_is_deleted(tmp_path: Path) -> None:
    from training.finetuning import state_file

    names = "encoder-1.pt", "encoder-2.pt", "encoder-3.pt.7-7.part", "x.pt"
    old, new, part, other = (tmp_path / name for name in names)
    for path in (old, new, part, other):
        path.write_bytes(b"")
        if path is not new:
            os.utime(path, (0, 0))
    state = state_file(tmp_path, "encoder", ["recipe"])
    assert sorted(tmp_path.iterdir()) == sorted([new, other])
    assert state != state_file(tmp_path, "encoder", ["another"]) and state == state_file(
        tmp_path, "encoder", ["recipe"]
    )
