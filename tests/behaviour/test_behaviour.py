"""What must not change a label, and what must, in the manner of Ribeiro et al. (2020), "Beyond Accuracy"."""

from __future__ import annotations

import pytest

from models.bundle import Bundle
from models.examples import Example
from training.run import Options
from training.splits import holdout

Labels = dict[str, str | None]


def labels(bundle: Bundle, text: str) -> Labels:
    topics = bundle.scorer.classify(text).topics
    return {t.topic: t.stance.label if t.stance else None for t in topics if t.decision == "present"}


def changed(bundle: Bundle, texts: list[str], swaps: list[tuple[str, str]]) -> tuple[int, int]:
    """Return how many texts the swaps touch, and how many of those change their topics or a stance."""
    touched = different = 0
    for text in texts:
        swapped = text
        for old, new in swaps:
            swapped = swapped.replace(old, new)
        if swapped != text:
            touched += 1
            different += labels(bundle, text) != labels(bundle, swapped)
    return touched, different


@pytest.mark.parametrize(
    "swaps",
    [
        [("Kyiv", "Kiev")],
        [("Zelenskyy", "Zelensky"), ("Zelenskiy", "Zelensky")],
        [("’", "'"), ("“", '"'), ("”", '"')],
        [("'", "’")],
        [("—", "-"), ("–", "-")],
        [(" per cent", "%"), (" percent", "%")],
        [("Ryabkov", "Morozov"), ("Peskov", "Orlov"), ("Zakharova", "Lebedeva")],
        [("Rubio", "Hughes"), ("Blinken", "Parker"), ("Sullivan", "Barnes")],
        [("Tuesday", "Friday"), ("Monday", "Thursday"), ("Wednesday", "Sunday")],
    ],
    ids=lambda swaps: swaps[0][0],
)
def test_spelling_quotes_and_names_seldom_change_a_label(
    bundle: Bundle, seeds: list[Example], swaps: list[tuple[str, str]]
) -> None:
    touched, different = changed(bundle, [example.text for example in seeds], swaps)
    assert touched >= 25
    assert different <= 0.12 * touched


def test_layout_changes_no_label(bundle: Bundle, seeds: list[Example]) -> None:
    for example in seeds[::40]:
        assert labels(bundle, example.text) == labels(bundle, "\n".join(f"  {w}\t" for w in example.text.split()))


TURNS = [
    ("sanctions", "The sanctions on Russia should be lifted.", "The sanctions on Russia should be tightened."),
    (
        "sanctions",
        "These illegitimate sanctions have failed and must be lifted, the minister said.",
        "These sanctions are working and must stay in place until Russia pays a price, the minister said.",
    ),
    (
        "military_aid",
        "We will continue to provide Ukraine with the weapons it needs to defend itself.",
        "Pumping Ukraine with weapons only prolongs the conflict and must stop.",
    ),
    (
        "crimea",
        "Crimea is and will remain Russian territory, as its people decided in the referendum.",
        "Crimea is Ukraine, and we will never recognise its illegal annexation.",
    ),
    (
        "energy",
        "Europe needs cheap Russian gas, and cutting itself off from a reliable supplier was a mistake.",
        "Europe must end its dependence on Russian gas and phase out imports for good.",
    ),
    (
        "arms_control",
        "New START should be extended: without it there are no limits and no inspections.",
        "New START only ties our hands, and it should be allowed to expire.",
    ),
    (
        "diplomatic_property",
        "The seized compounds in Maryland and New York must be returned to Russia, their lawful owner.",
        "The compounds in Maryland and New York were used for spying and should not be given back to Russia.",
    ),
    (
        "ukraine_settlement",
        "A settlement in Ukraine is impossible without eliminating the root causes and respecting Russia's interests.",
        "Peace in Ukraine must not reward aggression: no concessions, and full withdrawal of Russian troops.",
    ),
    (
        "prisoner_exchange",
        "We welcome the prisoner swap that brought our people home, and we want more such exchanges.",
        "Trading convicted killers in a prisoner swap with Russia rewards hostage-taking and should not be done.",
    ),
    (
        "air_links",
        "Direct flights between Russia and the United States should be restored as soon as possible.",
        "Direct flights between Russia and the United States must not be restored while the war goes on.",
    ),
]


def test_turning_the_claim_turns_the_stance(bundle: Bundle) -> None:
    """Plain claims and their opposites; a bag of n-grams may miss a few, never more than it gets right."""
    turned = wrong = 0
    for topic, favor, against in TURNS:
        (up, down) = bundle.scorer.stance_scores([(favor, topic), (against, topic)])
        turned += int(up[0] - up[1] > down[0] - down[1])
        wrong += int(up.argmax() == 1) + int(down.argmax() == 0)
    assert turned == len(TURNS)
    assert wrong <= 2


def test_a_negation_pulls_the_stance_its_way(bundle: Bundle) -> None:
    pairs = [
        ("crimea", "Crimea is part of Russia, he said.", "Crimea is not part of Russia, he said."),
        ("military_aid", "We will send more weapons to Ukraine.", "We will not send more weapons to Ukraine."),
        ("energy", "We will buy Russian gas.", "We will not buy Russian gas."),
        ("air_links", "Direct flights should be restored.", "Direct flights should not be restored."),
    ]
    for topic, plain, negated in pairs:
        up, down = bundle.scorer.stance_scores([(plain, topic), (negated, topic)])
        assert down[0] - down[1] < up[0] - up[1], plain


def test_most_unseen_off_topic_paragraphs_stay_off_topic(bundle: Bundle, seeds: list[Example]) -> None:
    """Held-out paragraphs of no topic, most of them near misses."""
    held = holdout([example.group for example in seeds], Options.holdout)
    texts = [example.text for example, out in zip(seeds, held, strict=True) if out and not example.topics]
    assert len(texts) > 100
    assert sum(bundle.scorer.classify(text).decision == "on_topic" for text in texts) < 0.2 * len(texts)
