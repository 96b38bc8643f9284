"""Intervals that cover, and tests that raise no false alarm."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unteach.audits import certainty
from unteach.audits.probes import Finding


@given(st.integers(1, 60), st.data())
def test_the_exact_interval_holds_the_share(num_facts: int, data: st.DataObject) -> None:
    num_hits = data.draw(st.integers(0, num_facts))
    low, high = certainty.clopper_pearson(num_hits, num_facts)
    assert 0 <= low <= num_hits / num_facts <= high <= 1
    assert certainty.bound_above(num_hits, num_facts) <= high + 1e-12


def test_no_leak_of_many_is_bounded_by_the_rule_of_three() -> None:
    assert certainty.bound_above(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert certainty.clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025 ** (1 / 10))


def test_facts_of_one_entity_count_as_one() -> None:
    hits = [True] * 10 + [False] * 10
    entities = [f"person {index // 5}" for index in range(20)]
    alone = certainty.bootstrap_entities(hits, [""] * 20, "a")
    together = certainty.bootstrap_entities(hits, entities, "a")
    assert alone and together
    assert together[1] - together[0] > alone[1] - alone[0]
    assert certainty.bootstrap_entities(hits, ["one"] * 20, "a") is None
    assert certainty.bootstrap_entities(hits, entities, "a") == together


@settings(max_examples=50)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=4))
def test_the_exchange_test_is_that_of_all_permutations(hits: list[list[bool]]) -> None:
    """Whichever candidate had been the true one: counted by enumeration."""
    num_true = sum(of_fact[0] for of_fact in hits)
    choices = list(itertools.product(*(range(len(of_fact)) for of_fact in hits)))
    as_many = 0
    for choice in choices:
        out = sum(of_fact[index] for of_fact, index in zip(hits, choice, strict=True))
        as_many += out >= num_true
    expected = as_many / len(choices)
    assert certainty.compute_exchange_p_value(hits) == pytest.approx(expected)


def test_a_model_that_never_saw_the_facts_is_rarely_flagged() -> None:
    """Of 2,000 models that rank at random, at most one in twenty has a p-value below 0.05."""
    generator = np.random.default_rng(0)
    flagged = 0
    for _ in range(2000):
        first = generator.integers(0, 16, 40)  # which candidate ranks first, of each fact
        hits = [[index == best for index in range(16)] for best in first]
        flagged += certainty.compute_exchange_p_value(hits) < 0.05
    assert flagged <= 0.05 * 2000 + 3 * math.sqrt(2000 * 0.05 * 0.95)


def test_holm_adjusts_for_how_many_are_looked_at() -> None:
    adjusted = certainty.adjust_by_holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert certainty.adjust_by_holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert certainty.adjust_by_holm({}) == {}


def test_more_than_the_retain_model_says() -> None:
    """Only facts that come out of one of the two say something."""
    more, less, same = (True, False), (False, True), (True, True)
    assert certainty.compute_paired_p_value([more] * 10 + [same] * 10) == pytest.approx(2**-10)
    assert certainty.compute_paired_p_value([more, less] * 5) > 0.5
    assert certainty.compute_paired_p_value([same] * 20) == 1.0


def test_facts_that_come_out_together_say_less_beside_the_retain_model() -> None:
    more, less = (True, False), (False, True)
    people = [f"person {index // 5}" for index in range(40)]
    assert certainty.compute_paired_p_value([more] * 40, people) == pytest.approx(2**-8)
    assert certainty.compute_paired_p_value([more] * 40, [""] * 40) == pytest.approx(2**-40)
    # Of one person alone nothing could be shown by people.
    assert certainty.compute_paired_p_value([more] * 10, people[:10]) == pytest.approx(2**-10)

    # One person of three facts, six of one fact, and one of whom more comes out of the other: all
    # signs, counted.
    pairs = [more] * 9 + [less]
    entities = ["a", "a", "a", *"bcdefgh"]
    differences = [3, 1, 1, 1, 1, 1, 1, -1]
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [sum(map(math.prod, zip(sign, differences, strict=True))) for sign in signs]
    expected = sum(value >= sum(differences) for value in sums) / len(sums)
    assert certainty._test_signs(differences) == pytest.approx(expected)
    assert certainty.compute_paired_p_value(pairs, entities) == pytest.approx(expected)
    assert certainty.compute_paired_p_value(pairs) < expected


def test_facts_that_come_out_together_say_less_beside_unseen_ones() -> None:
    """Two of eight people of whom all came out, beside eight of whom nothing did."""
    people = [f"own {index // 5}" for index in range(40)]
    others = [f"other {index // 5}" for index in range(40)]
    hits, unseen = [index < 10 for index in range(40)], [False] * 40
    assert certainty.compute_unseen_p_value(hits, unseen) < 0.01
    by_people = certainty.compute_unseen_p_value(hits, unseen, people, others)
    assert by_people == pytest.approx(math.comb(14, 6) / math.comb(16, 8), rel=0.1)
    # A person of many facts is no more than one of few; and of one alone nothing could be shown.
    assert certainty.compute_unseen_p_value(hits, hits, people, [""] * 40) > 0.4
    assert certainty.compute_unseen_p_value(hits[:10], unseen, people[:10], others) < 1e-6


@pytest.mark.parametrize("control", ["paired", "unseen"])
def test_models_that_hold_whole_people_are_rarely_flagged(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 models of which three in ten people come out whole, as of the control."""
    monkeypatch.setattr(certainty, "NUM_PERMUTATIONS", 400)
    generator = np.random.default_rng(0)
    people = [f"person {index // 5}" for index in range(50)]
    others = [f"other {index // 5}" for index in range(50)]
    flagged = flagged_by_facts = 0
    for _ in range(400):
        own, other = np.repeat(generator.random((2, 10)) < 0.3, 5, axis=1).tolist()
        if control == "paired":
            pairs = list(zip(own, other, strict=True))
            p_value = certainty.compute_paired_p_value(pairs, people)
            by_facts = certainty.compute_paired_p_value(pairs)
        else:
            p_value = certainty.compute_unseen_p_value(own, other, people, others)
            by_facts = certainty.compute_unseen_p_value(own, other)
        flagged += p_value < 0.05
        flagged_by_facts += by_facts < 0.05
    assert flagged <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)
    assert flagged_by_facts > 400 * 0.15


def test_the_upper_bound_is_larger_of_few_people() -> None:
    hits = [True] * 5 + [False] * 45
    people = [f"person {index // 5}" for index in range(50)]
    exact = certainty.bound_above(5, 50)
    assert certainty.bound_entities_above(hits, [""] * 50, "a") == pytest.approx(exact, abs=0.02)
    assert certainty.bound_entities_above(hits, people, "a") > exact + 0.05


def test_a_value_that_most_rows_have_is_likely_without_knowing() -> None:
    """A model that says `English` of everybody leaks nothing, though most rows are about English."""
    hits = [[True] + [False] * 9] * 30 + [[False, True] + [False] * 8] * 10
    weights = [[30] + [1] * 9] * 30 + [[1, 30] + [1] * 8] * 10
    assert certainty.compute_exchange_p_value(hits) < 1e-6
    assert certainty.compute_exchange_p_value(hits, weights) > 0.3


def test_how_small_a_leak_would_be_seen() -> None:
    few, many = (certainty.find_smallest_leak([32] * n, 5) for n in (5, 100))
    assert few is not None and many is not None and many < few <= 1
    assert certainty.find_smallest_leak([2], 5) is None
    assert certainty.find_smallest_leak([], 5) is None


def test_exposure_and_the_last_rank() -> None:
    def rank(place: int) -> Finding:
        hits = tuple(index == place - 1 for index in range(8))
        return Finding(0, hits, rank=place, is_last=place == 8)

    assert certainty.compute_mean_exposure([rank(1), rank(8)]) == pytest.approx(1.5)
    assert certainty.compute_last_p_value([rank(8)] * 4) == pytest.approx((1 / 8) ** 4)
    assert certainty.compute_last_p_value([rank(1)] * 4) == 1.0
