"""The tuned family: an encoder fine-tuned, put beside the heads, served, explained, gone on with and fitted again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from models.bundle import GRAPH, Bundle, load_bundle
from models.encoder import Encoder, EncoderSpec, HeadBlend
from models.errors import InvalidData
from models.examples import read_examples
from models.taxonomy import read_taxonomy
from tests.conftest import ROOT, serving, write_small
from training import blending, tuning
from training.gate import _same_heads
from training.run import Options, run
from training.tuning import MEMBERS, TunedEncoder

TEXT = "The kettle by the leaf in town was splendid and fair."
TEA = ("The kettle by the leaf was fair.", "A teapot in town was awful.")
CATS = ("The whisker by the paw was fair.", "A paw in town was awful.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write_small(folder, unlabelled=True)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, checkpoint: Path) -> Bundle:
    options = Options("tuned", holdout=0.2, jobs=1, encoder=str(checkpoint), cache=folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        # Fewer rows are held than a blend is fitted to.
        patch.setattr(blending, "HEADS", blending.BOTH)
        patch.setattr(tuning, "MEMBERS", 2)
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
    # What every topic shares is of the n-grams.
    assert not stances[0].any()
    own = model.features.encoder
    assert own is not None and float(own.embed(TEXT) @ encoder.embed(TEXT)) < 0.999
    # By what the encoder says alone.
    tea, cats = (np.array([own.embed(text) for text in texts]) @ dense for texts in (TEA, CATS))
    assert (tea[:, 0] > cats[:, 0]).all() and (tea[:, 1] < cats[:, 1]).all()
    # With one topic's own weights and another's, in the order of the taxonomy.
    assert np.abs(stances[1]).max() > 0 and np.abs(stances[2]).max() > 0


def test_the_blend_is_one_linear_model(shared_small: Callable[..., Path], encoder: Encoder) -> None:
    heads = load_bundle(shared_small()).scorer.model
    blends = {"tea": HeadBlend(0.5, 1.5, 2.0, [0.1, 0.2, 0.3]), "cats": HeadBlend(2.0, -1.0, 0.25, [0.0, -0.5, 0.5])}
    tuned = Encoder(encoder.graph, encoder.tokenizer, replace(encoder.spec, tuned=blends))
    drawn = np.random.default_rng(0)
    topics, stances = drawn.normal(size=(384, 2)), drawn.normal(size=(2, 384, 3))
    model = TunedEncoder(tuned, tuned.embed, topics, stances).beside(heads, ("tea", "cats"))
    for text in (*TEA, *CATS):
        embedding = encoder.embed(text)
        (one,), (other,) = model.topic_logits([text]), heads.topic_logits([text])
        asked = np.array([0.5, 2.0]) * other + embedding @ topics + [1.5, -1.0]
        np.testing.assert_allclose(one, asked, atol=1e-5)
        for place, blend in enumerate(blends.values()):
            whole = blend.stance_head * heads.stance_logits(heads.features.read(text), place)
            whole = whole + embedding @ stances[place] + blend.stance_offset
            found = model.stance_logits(model.features.read(text), place)
            np.testing.assert_allclose(found, whole - whole.mean(), atol=1e-5)


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

    losses: list[float] = []

    def tuned(state: Path | None, stop_at: float = 2.0) -> dict[str, torch.Tensor]:
        def step(part: float) -> None:
            if part >= stop_at:
                raise Interrupt

        torch.manual_seed(0)
        net = TextNet(load_body(checkpoint), "mean", 3)
        sides = examples[:64], examples[64:80]
        tuning = TextTuning(net, encoder.tokenizer, taxonomy, *sides, Recipe(epochs=2))
        losses[:] = tuning.run(step, state)
        return net.state_dict()

    state = tmp_path / "state.pt"
    with pytest.raises(Interrupt):
        tuned(state, stop_at=0.8)
    whole, resumed = tuned(None), tuned(state)
    assert losses[1] < losses[0], "the first epoch alone would be compared"
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_the_encoder_is_the_mean_of_members_from_one_start(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from training import checkpoint as checkpoints
    from training.finetuning import Recipe
    from training.texts import TextNet, TextTuning

    monkeypatch.setattr("training.texts.recipe_for", lambda _, **given: Recipe(epochs=1, **given))
    # Some twenty labels are held: enough for topics, and not for stances.
    monkeypatch.setattr(blending, "HEADS", blending.HEADS._replace(least=10))
    starts, members, shipped = [], [], []
    run_one, graph_of = TextTuning.run, checkpoints.graph_of

    def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in module.state_dict().items()}

    def recorded(tuning: TextTuning, *arguments: Any) -> list[float]:
        starts.append(weights_of(tuning._net))
        losses = run_one(tuning, *arguments)
        assert isinstance(tuning._net, TextNet)
        members.append(weights_of(tuning._net.body))
        return losses

    def graph(body: torch.nn.Module) -> bytes:
        shipped[:] = [weights_of(body)]
        return graph_of(body)

    monkeypatch.setattr(TextTuning, "run", recorded)
    monkeypatch.setattr(checkpoints, "graph_of", graph)
    told: list[float] = []
    options = Options("tuned", holdout=0.2, jobs=1, encoder=str(checkpoint))
    run(
        folder / "examples.jsonl",
        folder / "taxonomy.toml",
        tmp_path / "bundle",
        options,
        lambda progress: told.append(progress.fraction),
    )
    assert told == sorted(told)
    assert len(members) == MEMBERS
    for name, value in starts[0].items():
        assert all(torch.equal(value, other[name]) for other in starts), name
    for name, value in shipped[0].items():
        torch.testing.assert_close(value, sum(each[name] for each in members) / MEMBERS)
    assert any(not torch.equal(members[0][name], members[1][name]) for name in members[0])
    blend = blends_of(load_bundle(tmp_path / "bundle"))["tea"]
    assert blend.head != 1.0 and (blend.stance_head, blend.stance_offset) == (1.0, [0.0, 0.0, 0.0])


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
    if stance:
        assert new == old
    else:
        # What a blend of stances was made for is gone.
        assert {each.stance_head for each in new.values()} == {1.0} and new["tea"].head == old["tea"].head
    (result,) = challenger.scorer.classify_all(["A drizzle soaked the gutter and it was splendid."], ids=["p1"])
    assert [each.topic for each in result.topics] == ["rain"]
    n_old, n_new = (each.scorer.model.features.ngrams.size for each in (bundle, challenger))
    before, after = bundle.scorer.model.topic_weights[n_old:], challenger.scorer.model.topic_weights[n_new:]
    np.testing.assert_array_equal(before, after)


def test_a_topic_whose_labels_are_withdrawn_and_a_new_one_are_left_to_their_heads(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    rows = [{**row, "topics": {name: each for name, each in row["topics"].items() if name != "tea"}} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taxonomy = tmp_path / "taxonomy.toml"
    taxonomy.write_text((folder / "taxonomy.toml").read_text() + '\n[[topic]]\nid = "snow"\ntitle = "Snow"\n')
    options = Options("tuned", holdout=0.2, jobs=1)
    made = run(tmp_path / "rows.jsonl", taxonomy, tmp_path / "bundle", options, champion=bundle.path)
    challenger = load_bundle(made.directory)
    blends = blends_of(challenger)
    assert blends["tea"] == blends["snow"] == HeadBlend(1.0, 0.0, 1.0, [0.0, 0.0, 0.0]) != blends["cats"]
    assert challenger.scorer.topic_scores([TEXT])[0, 0] < 0.01


def test_heads_are_not_fitted_on_what_was_fine_tuned(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"from tuned-.*: linear, tuned$"):
        options = Options("encoder", jobs=1)
        run(folder / "examples.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options, champion=bundle.path)


def test_a_checkpoint_that_is_not_there_is_told_of_before_anything_is_fitted(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(InvalidData, match="neither a folder nor"):
        run(
            folder / "examples.jsonl",
            folder / "taxonomy.toml",
            tmp_path / "bundle",
            Options("tuned", jobs=1, encoder="no such"),
            lambda progress: told.append(progress.phase),
        )
    assert {*told} == {"split", "encoder"}


def test_without_a_checkpoint_or_a_champion_that_has_one_there_is_nothing_to_tune(
    folder: Path, shared_small: object, tmp_path: Path
) -> None:
    assert callable(shared_small)
    for champion in (None, shared_small()):
        with pytest.raises(InvalidData, match=r"to fit the tuned family, name a checkpoint; .*: linear$"):
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


def test_with_few_present_topics_the_heads_stand_alone_however_many_are_absent(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.finetuning import Recipe

    monkeypatch.setattr("training.texts.recipe_for", lambda _, **given: Recipe(epochs=1, **given))
    monkeypatch.setattr(tuning, "MEMBERS", 1)
    rows = (folder / "examples.jsonl").read_text().splitlines()
    rows += [
        json.dumps({"text": f"Train {number} left platform {number % 9}.", "topics": {}, "document_id": f"t{number}"})
        for number in range(200)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    options = Options("tuned", holdout=0.0, jobs=1, encoder=str(checkpoint))
    run(tmp_path / "rows.jsonl", folder / "taxonomy.toml", tmp_path / "bundle", options)
    blends = blends_of(load_bundle(tmp_path / "bundle"))
    assert {*blends} == {"tea", "cats", "rain"}
    assert all(blend == HeadBlend(1.0, 0.0, 1.0, [0.0, 0.0, 0.0]) for blend in blends.values())


def test_of_much_the_rate_falls_within_fewer_epochs() -> None:
    from training.texts import recipe_for

    assert [recipe_for(count, max_length=256, seed=0).epochs for count in (0, 5_000, 8_000, 13_000, 1_000_000)] == [
        5,
        5,
        3,
        2,
        2,
    ]


def test_label_agreement_is_compared_only_between_heads_of_one_kind(
    bundle: Bundle, shared_small: Callable[..., Path]
) -> None:
    frozen = copy(bundle.scorer)
    frozen.model = copy(frozen.model)
    features = frozen.model.features = copy(frozen.model.features)
    assert features.encoder is not None
    features.encoder = copy(features.encoder)  # type: ignore[misc]  # of a protocol that is read alone
    features.encoder.spec = replace(features.encoder.spec, tuned=None)
    linear = load_bundle(shared_small()).scorer
    assert _same_heads(bundle.scorer, linear) and _same_heads(frozen, frozen)
    assert not _same_heads(frozen, linear) and not _same_heads(frozen, bundle.scorer)
