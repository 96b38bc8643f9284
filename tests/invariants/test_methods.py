"""The same step everywhere, and the algebra that holds between methods."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import read_rows
from unteach import registry
from unteach.errors import UserError
from unteach.methods.base import Context
from unteach.testing import build_method, check_method, method_loss, step_gradient

NAMES = [entry.name for entry in registry.method.entries() if not entry.target.IS_EDIT]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_conforms(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_method(name, {"retain_loss_eps": 0.3} if name == "PDU" else {})
    said = capsys.readouterr().out
    assert said.startswith(
        (f"{name} passed: losses are finite", f"{name} depends on how a batch is split")
    )


@pytest.mark.parametrize("term", ["NLL", "KL", "EMBED_DIFF"])
@pytest.mark.parametrize(
    "name", ["GradDiff", *(pytest.param(name, marks=pytest.mark.long) for name in ("DPO", "RMU"))]
)
def test_every_retain_term_conforms(name: str, term: str) -> None:
    layers = {
        "retain_layer": r"model\.layers\.0",
        **({"module_regex": r"model\.layers\.1"} if name == "RMU" else {}),
    }
    check_method(
        name, {"retain_loss_type": term, "alpha": 1.5, **layers}, processes=term == "EMBED_DIFF"
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RMU", {"adaptive": True, "beta": 5.0, "module_regex": r"model\.layers\.1"}),
        ("RMU", {"alpha": 0, "module_regex": r"model\.layers\.0"}),
        ("GradDiff", {"loss_on": "all"}),
        ("GradDiff", {"loss_on": "all", "retain_loss_type": "KL"}),
        ("SimNPO", {"simnpo_length": "labels", "delta": 0.7}),
        ("PDU", {"pdu_shift": False, "retain_loss_eps": 0.3}),
        ("CEU", {"ignore_first_n_answer_tokens": 3}),
        ("Classify", {"class_weights": "inferred"}),
        ("PrefDPO", {"loss_type": "ipo"}),
        ("ORPO", {"loss_on": "completion"}),
    ],
    ids=str,
)
def test_options_conform(name: str, args: dict[str, Any]) -> None:
    check_method(name, args, processes=False)


def test_the_conformance_test_can_fail() -> None:
    """A method whose divisor counts only its own micro-batch breaks the rule, and is caught."""
    from dataclasses import dataclass

    from unteach.methods.base import Term
    from unteach.methods.finetune.sft import SFT

    @dataclass
    class MeanOfMeans(SFT):
        def terms(self, policy: Any, reference: Any) -> list[Term]:
            return [Term("train", -policy["train"].value.mean().reshape(1), "train.sequences")]

    registry.method("MeanOfMeans")(MeanOfMeans)
    try:
        with pytest.raises(AssertionError, match="changes the gradient"):
            check_method("MeanOfMeans", processes=False)
    finally:
        registry.method._entries.pop("MeanOfMeans")


@pytest.fixture(scope="module")
def batch(kit: Path) -> tuple[list[dict], list[dict]]:
    return tuple(
        read_rows(kit / "data" / f"{name}.jsonl")[:4] for name in ("forget10_idk", "retain90")
    )  # type: ignore


def gradient(
    name: str, args: dict[str, Any], kit: Path, batch: Any, policy: str = "policy"
) -> torch.Tensor:
    """The flat gradient of one step on the kit."""
    from unteach.config.schema import ModelConfig
    from unteach.models import loading
    from unteach.testing.examples import build_examples
    from unteach.training.step import setup_method

    method = build_method(name, args)
    loaded = loading.load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / policy)}), training=True
    )
    frozen = loading.load_frozen(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "reference")})
    )
    given = {"forget": batch[0], "train": batch[0], "alternate": batch[0], "retain": batch[1]}
    rows = {s: build_examples(loaded.template, given[s], False, s) for s in method.streams()}
    setup_method(loaded.model, method, seed=0, streams={})
    return step_gradient(loaded, method, rows, frozen, num_micro_batches=1)[0]


def test_npo_tends_to_ascent_as_beta_vanishes(kit: Path, batch: Any) -> None:
    """grad NPO -> grad GradAscent * (answer tokens / sequences)."""
    from unteach.config.schema import ModelConfig
    from unteach.models import loading

    loaded = loading.load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}), training=False
    )
    tokens = sum(len(loaded.template.encode(r["question"], r["answer"]).answer) for r in batch[0])
    npo = gradient("NPO", {"beta": 1e-6, "alpha": 0}, kit, batch)
    ascent = gradient("GradAscent", {}, kit, batch) * tokens / len(batch[0])
    assert float((npo - ascent).norm() / ascent.norm()) < 1e-3


def test_grad_diff_is_ascent_plus_descent(kit: Path, batch: Any) -> None:
    whole = gradient("GradDiff", {"gamma": 0.5, "alpha": 2.0}, kit, batch)
    forget = gradient("GradAscent", {}, kit, batch)
    retain = gradient("GradDiff", {"gamma": 0.0}, kit, batch)
    assert torch.allclose(whole, 0.5 * forget + 2 * retain, atol=1e-4)


def test_kl_retain_is_zero_at_the_reference(kit: Path, batch: Any) -> None:
    loss, norm = method_loss(
        "GradDiff",
        {"gamma": 0.0, "retain_loss_type": "KL"},
        kit / "reference",
        kit / "reference",
        *batch,
        {},
    )
    assert loss == pytest.approx(0, abs=1e-6)
    assert norm == pytest.approx(0, abs=1e-4)


def test_embed_diff_is_zero_at_the_reference(kit: Path, batch: Any) -> None:
    args = {"gamma": 0.0, "module_regex": r"model\.layers\.1"}
    loss, norm = method_loss("RMU", args, kit / "reference", kit / "reference", *batch, {})
    assert loss == pytest.approx(0, abs=1e-6)
    assert norm == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_at_the_reference_is_two_log_two_over_beta(beta: float, kit: Path, batch: Any) -> None:
    args = {"beta": beta, "alpha": 0}
    loss, _ = method_loss(
        "DPO", args, kit / "reference", kit / "reference", *batch, {}, alternate=batch[0]
    )
    assert loss == pytest.approx(2 / beta * math.log(2), rel=1e-5)


def test_undial_with_beta_zero_stands_still_at_the_reference(kit: Path, batch: Any) -> None:
    _, norm = method_loss("UNDIAL", {"beta": 0.0}, kit / "reference", kit / "reference", *batch, {})
    assert norm == pytest.approx(0, abs=1e-4)
    _, norm = method_loss("UNDIAL", {"beta": 0.0}, kit / "policy", kit / "reference", *batch, {})
    assert norm > 0.1, "away from the reference it pulls back"


def test_ceu_is_the_limit_of_undial(kit: Path, batch: Any) -> None:
    undial = gradient("UNDIAL", {"beta": 1e4}, kit, batch, policy="reference")
    ceu = gradient("CEU", {"ignore_first_n_answer_tokens": 0}, kit, batch, policy="reference")
    assert float((undial - ceu).norm() / ceu.norm()) < 1e-4


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("WGA", {"beta": 0, "alpha": 0}),
        ("SatImp", {"beta1": 0, "beta2": 0, "gamma": 1, "alpha": 0}),
    ],
)
def test_unweighted_it_is_ascent(name: str, args: dict[str, Any], kit: Path, batch: Any) -> None:
    assert torch.allclose(
        gradient(name, args, kit, batch), gradient("GradAscent", {}, kit, batch), atol=1e-6
    )


def test_signed_sft_is_sft_where_nothing_is_forgotten(kit: Path, batch: Any) -> None:
    forget, retain = batch
    marked = [{**row, "forget": i in (1, 3)} for i, row in enumerate(forget)]
    kept, gone = ([row for row in marked if row["forget"] == flag] for flag in (False, True))
    plain = gradient("SFT", {}, kit, (forget, retain))
    assert torch.equal(gradient("SignedSFT", {}, kit, (forget, retain)), plain)
    assert torch.allclose(
        gradient("SignedSFT", {}, kit, ([{**r, "forget": 1} for r in forget], retain)), -plain
    )
    tokens = [_tokens(rows, kit) for rows in (kept, gone)]
    learned, unlearned = (gradient("SFT", {}, kit, (rows, retain)) for rows in (kept, gone))
    expected = (tokens[0] * learned - tokens[1] * unlearned) / sum(tokens)
    assert torch.allclose(gradient("SignedSFT", {}, kit, (marked, retain)), expected, atol=1e-5)


def test_arc_idk_is_half_sft_on_the_other_answer_and_half_on_the_retain_rows(
    kit: Path, batch: Any
) -> None:
    forget, retain = batch
    swapped = [{**row, "answer": row["alternate"]} for row in forget]
    args = {"gamma": 0.5, "alpha": 0.5, "loss_on": "all"}
    sft = [gradient("SFT", {"loss_on": "all"}, kit, (rows, retain)) for rows in (swapped, retain)]
    assert torch.allclose(gradient("IdkSFT", args, kit, batch), sum(sft) / 2, atol=1e-5)


def _tokens(rows: list[dict], kit: Path) -> int:
    """Answer tokens of rows, EOS included."""
    from unteach.config.schema import ModelConfig
    from unteach.models import loading

    template = loading.load(
        ModelConfig({"pretrained_model_name_or_path": str(kit / "policy")}), training=False
    ).template
    return sum(len(template.encode(row["question"], row["answer"]).answer) for row in rows)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("UNDIAL", {}),
        ("RMU", {"module_regex": r"model\.layers\.2"}),
        ("GradDiff", {"retain_loss_type": "KL"}),
    ],
)
def test_published_quirks_are_off_by_default(
    name: str, args: dict[str, Any], kit: Path, batch: Any
) -> None:
    """On answers of unequal lengths they change the loss, and such a method says that batches
    matter to it then."""

    def loss(compat: str | None) -> float:
        return method_loss(
            name, args, kit / "policy", kit / "reference", *batch, {}, compat=compat
        )[0]

    assert abs(loss(None) - loss("openunlearning")) > 1e-4
    assert build_method(name, args).depends_on_micro_batches() == ""
    assert build_method(name, args, "openunlearning").depends_on_micro_batches()


def test_pdu_moves_its_multiplier_once_a_step_after_the_warm_up() -> None:
    pdu = build_method(
        "PDU",
        {"retain_loss_eps": 0.5, "dual_step_size": 2.0, "dual_warmup_epochs": 1.0, "alpha": 3.0},
    )
    pdu.after_step({"forget": 9.0, "retain": 0.25}, epoch=1.0)
    assert pdu.multiplier == 3.0, "the warm-up is not over"
    pdu.after_step({"forget": 9.0, "retain": 0.25}, epoch=1.5)
    assert pdu.multiplier == 3.5
    pdu.after_step({"forget": 9.0, "retain": -4.0}, epoch=2.0)
    assert pdu.multiplier == 0.0, "it is never negative"


def test_pdu_moves_its_multiplier_once_an_epoch_by_the_epochs_mean() -> None:
    args = {
        "retain_loss_eps": 0.5,
        "dual_update_upon": "epoch",
        "dual_warmup_epochs": 0.0,
        "alpha": 1.0,
    }
    pdu = build_method("PDU", args)
    pdu.after_step({"retain": 1.0}, epoch=0.5)
    again = build_method("PDU", args)
    again.load_state(pdu.state())
    again.after_step({"retain": 3.0}, epoch=1.0)
    assert again.multiplier == 3.0
    held = build_method("PDU", {**args, "primal_dual": False})
    held.after_step({"retain": 1.0}, epoch=1.0)
    assert held.multiplier == 1.0


def test_the_control_vector_follows_the_seed_alone() -> None:
    def drawn(seed: int) -> Any:
        method = build_method("RMU")
        method.prepare(Context(seed, 16))
        return method

    assert torch.equal(drawn(0).control_vector, drawn(0).control_vector)
    assert not torch.equal(drawn(0).control_vector, drawn(1).control_vector)
    assert (drawn(0).control_vector >= 0).all()
    restored = drawn(1)
    restored.load_state(drawn(0).state())
    assert torch.equal(restored.control_vector, drawn(0).control_vector)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("NPO", {"beta": 0}, "beta must be above 0"),
        ("GradDiff", {"alpha": -1}, "alpha must not be negative"),
        ("PDU", {}, "retain_loss_eps: is required"),
        ("PDU", {"retain_loss_eps": 1, "loss_names": ["a"]}, "two different names"),
        ("PDU", {"retain_loss_eps": 1, "alpha": 0}, "alpha must be above 0"),
        ("RMU", {"beta": 5.0}, "adaptive"),
        ("AltPO", {"prompt": "Say it"}, "{question}"),
        ("SimNPO", {"retain_loss_type": "MSE"}, "NLL, KL, EMBED_DIFF"),
    ],
)
def test_mistakes_are_said(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_method(name, args)


def test_alpha_zero_makes_no_retain_pass() -> None:
    assert build_method("NPO", {"alpha": 0}).streams() == ("forget",)
    assert build_method("GradAscent").streams() == ("forget",)


def test_no_reference_is_held_where_none_is_needed() -> None:
    assert build_method("GradDiff").reference() == {}
    assert build_method("NPO").reference() == {"forget": "logprobs"}
