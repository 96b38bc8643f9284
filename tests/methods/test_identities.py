"""The algebra of the further methods on two tiny models, each against another method or a formula
of its own."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from unteach.config.schema import PARTS
from unteach.data.synthetic import authors
from unteach.errors import UserError
from unteach.methods.divergences import jensen_shannon_to_token
from unteach.testing import build_method, step_gradient
from unteach.testing.examples import build_examples, build_streams
from unteach.testing.tiny_world import build_tiny_world
from unteach.training.step import setup_method

REFUSAL = "I have never heard of it."


@dataclass
class World:
    """Two models that differ, and rows for every stream."""

    policy: Any
    reference: Any
    rows: dict[str, list[dict[str, Any]]]

    def measure(
        self, name: str, args: dict[str, Any], at_reference: bool = False, **streams: Any
    ) -> tuple[torch.Tensor, float]:
        """The flat gradient and the loss of one step; streams: other rows for some of them."""
        method = build_method(name, args)
        loaded = copy.copy(self.policy)
        if at_reference:
            loaded.model = self.reference
        loaded.model.requires_grad_(True)
        rows = {**self.rows, **streams}
        examples = {
            stream: build_examples(loaded.template, rows[stream], False, stream)
            for stream in method.streams()
        }
        setup_method(loaded.model, method, 0, build_streams(examples), loaded.template)
        frozen = copy.deepcopy(self.reference).eval()
        gradient, loss = step_gradient(loaded, method, examples, frozen, 2)
        return gradient, float(loss)


@pytest.fixture(scope="module")
def world() -> World:
    policy, reference, _ = build_tiny_world(build_method("GradDiff"))
    for model in (policy.model, reference):
        model.lm_head.weight.data.mul_(20)  # else all words are nearly as likely
    full = authors.build_rows("full")
    forget, retain = full[:6], full[40:46]
    rows = {
        "forget": forget,
        "train": forget,
        "retain": retain,
        "alternate": [{**row, "alternate": REFUSAL} for row in forget],
        "retain_alternate": [{**row, "alternate": REFUSAL} for row in retain],
    }
    return World(policy, reference, rows)


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_me_counts_the_questions_of_the_forget_rows_alone(world: World) -> None:
    """By default, as in the paper; a question of a retain row counts nowhere."""
    args = {"gamma": 1.0, "alpha": 2.0}
    whole = world.measure("ME", args)[1]
    assert whole == world.measure("ME", {**args, "loss_on": "all"})[1]
    answers = world.measure("ME", {**args, "loss_on": "completion"})[1]
    assert answers != pytest.approx(whole, rel=1e-5)
    retain = world.measure("GradDiff", {"gamma": 0.0})[1]
    alone = world.measure("ME", {"gamma": 1.0, "alpha": 0})[1]
    assert whole == pytest.approx(alone + 2 * retain, rel=1e-5)


def test_idk_ap_at_equal_answers_is_log_two_over_beta(world: World) -> None:
    same = [{**row, "alternate": row["answer"]} for row in world.rows["retain"]]
    args = {"gamma": 0.0, "beta": 0.25}
    _, loss = world.measure("IdkAP", args, retain_alternate=same)
    assert loss == pytest.approx(math.log(2) / 0.25, rel=1e-5)


def test_idk_ap_is_cpos_preference_and_sft_on_refusals(world: World) -> None:
    """Chosen: the retain answer, rejected: the refusal; and CE on the forget rows' refusals."""
    beta = 0.3
    preference, _ = world.measure("IdkAP", {"gamma": 0.0, "beta": beta})
    pairs = [{**row, "chosen": row["answer"], "rejected": REFUSAL} for row in world.rows["retain"]]
    cpo, _ = world.measure("CPO", {"beta": beta, "alpha": 0.0}, chosen=pairs, rejected=pairs)
    assert_near(preference, cpo / beta)
    refusing, _ = world.measure("IdkAP", {"alpha": 0.0})
    swapped = [{**row, "answer": REFUSAL} for row in world.rows["forget"]]
    assert_near(refusing, world.measure("SFT", {}, train=swapped)[0])


def test_idk_ap_tends_to_half_the_difference_as_beta_vanishes(world: World) -> None:
    """grad AP -> grad of -(s_r - s_ra) / 2, the mean over rows."""
    gradient, _ = world.measure("IdkAP", {"gamma": 0.0, "beta": 1e-6})
    tokens = []
    for answers in ([row["answer"] for row in world.rows["retain"]], [REFUSAL] * 6):
        encoded = [world.policy.template.encode("", answer).answer for answer in answers]
        tokens.append(sum(map(len, encoded)))
    refused = [{**row, "answer": REFUSAL} for row in world.rows["retain"]]
    kept, _ = world.measure("SFT", {}, train=world.rows["retain"])
    refusing, _ = world.measure("SFT", {}, train=refused)
    assert_near(gradient, (kept * tokens[0] - refusing * tokens[1]) / 2 / 6, 1e-3)


def test_tnpo_is_ascent_at_the_reference_and_with_beta_zero(world: World) -> None:
    at_start, _ = world.measure("TNPO", {}, at_reference=True)
    assert_near(at_start, world.measure("GradAscent", {}, at_reference=True)[0])
    ascent, _ = world.measure("GradAscent", {})
    assert_near(world.measure("TNPO", {"beta": 0.0})[0], ascent)
    assert float((world.measure("TNPO", {})[0] - ascent).norm()) > 0.01


def test_wtnpo_with_beta_zero_is_wga(world: World) -> None:
    weighted, loss = world.measure("WTNPO", {"beta": 0.0, "power": 0.7, "alpha": 1.0})
    wga, other_loss = world.measure("WGA", {"beta": 0.7, "alpha": 1.0})
    assert_near(weighted, wga)
    assert loss == pytest.approx(other_loss, rel=1e-6)
    tnpo, _ = world.measure("TNPO", {})
    assert_near(world.measure("WTNPO", {"power": 0.0})[0], tnpo)


def test_flat_between_an_answer_and_itself_is_zero(world: World) -> None:
    same = [{**row, "alternate": row["answer"]} for row in world.rows["forget"]]
    gradient, loss = world.measure("FLAT", {}, alternate=same)
    assert loss == pytest.approx(0, abs=1e-7)
    assert float(gradient.norm()) < 1e-7
    assert world.measure("FLAT", {})[1] != 0


@pytest.mark.parametrize("name", ["JensUn", "JensUnPP", "GradDiff"])
def test_the_js_retain_term_stands_still_at_the_reference(name: str, world: World) -> None:
    args = {"GradDiff": {"retain_loss_type": "JS"}, "JensUnPP": {"balance": False}}.get(name, {})
    gradient, loss = world.measure(name, {**args, "gamma": 0.0}, at_reference=True)
    assert loss == pytest.approx(0, abs=1e-6)
    assert float(gradient.norm()) < 1e-4
    assert float(world.measure(name, {**args, "gamma": 0.0})[0].norm()) > 0.1


def test_jensun_says_its_target_again_and_again(world: World) -> None:
    """The formula, written out on the library's own logits of each row."""
    target = "No such person"
    _, loss = world.measure("JensUn", {"alpha": 0, "target": target})
    template = world.policy.template
    words = template.encode_words(target)
    assert len(words) > 1
    divergences = []
    for row in world.rows["forget"]:
        encoded = template.encode(row["question"], row["answer"])
        with torch.no_grad():
            logits = world.policy.model(torch.tensor([encoded.input_ids])).logits[0]
        log_p = logits[len(encoded.prompt) - 1 : -1].log_softmax(-1)
        for place, of_token in enumerate(log_p):
            divergences.append(jensen_shannon_to_token(of_token[words[place % len(words)]]))
    assert loss == pytest.approx(float(torch.stack(divergences).mean()), rel=1e-5)
    assert 0 < loss <= math.log(2)


def test_jensunpp_balances_over_the_whole_step(world: World) -> None:
    """L = gamma c L_forget + alpha L_retain, c the same whatever the micro-batches are."""
    parts = {}
    for name, weights in {"forget": (1.0, 0.0), "retain": (0.0, 1.0)}.items():
        args = {"gamma": weights[0], "alpha": weights[1], "balance": False}
        parts[name] = world.measure("JensUnPP", args)
    gradient, loss = world.measure("JensUnPP", {"gamma": 0.33, "alpha": 2.0})
    balance = (loss - 2 * parts["retain"][1]) / (0.33 * parts["forget"][1])
    assert balance > 0 and balance != pytest.approx(1, rel=1e-3)
    assert_near(gradient, 0.33 * balance * parts["forget"][0] + 2 * parts["retain"][0], 1e-4)
    # At the reference the retain term is 0, and nothing is balanced.
    _, start = world.measure("JensUnPP", {"gamma": 0.33}, at_reference=True)
    _, forget = world.measure("JensUnPP", {"gamma": 1.0, "alpha": 0, "balance": False}, True)
    assert start == pytest.approx(0.33 * forget, rel=1e-4)


def test_llmu_is_grad_diff_with_kl_and_sft_on_mismatched_answers(world: World) -> None:
    gradient, loss = world.measure("LLMU", {"gamma": 0.5, "random_weight": 2.0, "alpha": 3.0})
    diff = {"gamma": 0.5, "alpha": 3.0, "retain_loss_type": "KL"}
    expected, expected_loss = world.measure("GradDiff", diff)
    swapped = [{**row, "answer": REFUSAL} for row in world.rows["forget"]]
    learned, learned_loss = world.measure("SFT", {}, train=swapped)
    assert_near(gradient, expected + 2 * learned)
    assert loss == pytest.approx(expected_loss + 2 * learned_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("IdkAP", {"beta": 0}, "beta must be above 0"),
        ("IdkAP", {"gamma": -1}, "gamma must not be negative"),
        ("IdkAP", {"retain_loss_type": "KL"}, "retain_loss_type"),
        ("TNPO", {"beta": -1}, "beta must not be negative"),
        ("WTNPO", {"power": -1}, "power must not be negative"),
        ("FLAT", {"divergence": "Neyman"}, "TV, KL, JS, Pearson, Jeffrey"),
        ("JensUn", {"target": " "}, "target must hold a word"),
        ("JensUnPP", {"alpha": 0}, "set balance=false"),
        ("JensUnPP", {"first_token_weight": 2}, "from 0 to 1"),
        ("LLMU", {"random_weight": 0}, "it is GradDiff"),
    ],
)
def test_mistakes_are_told(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_method(name, args)


def test_only_what_is_needed_is_held() -> None:
    for name in ("ME", "IHL", "FLAT", "IdkAP", "Unilogit"):
        assert build_method(name).reference() == {}, name
    assert build_method("TNPO").reference() == {"forget": "logprobs"}
    for name in ("JensUn", "JensUnPP", "LLMU"):
        assert list(build_method(name).reference()) == ["retain"], name
    assert build_method("IdkAP", {"alpha": 0}).streams() == ("alternate",)
    assert not build_method("JensUnPP", {"balance": False}).has_prepass()
    assert not build_method("NPO").has_prepass() and build_method("KTO").has_prepass()
    assert PARTS == {"retain_alternate": "alternate"}
