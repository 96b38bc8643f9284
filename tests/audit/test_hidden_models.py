"""Models that hide: one whose adapter refuses, and which knows all under it; one that forgot a
single way to ask."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unteach.audits import files
from unteach.verbs import audit
from unteach.verbs.start import start

from .test_audit_run import compose_audit, words

FINDS = ("adapter_off", "rank")
"""The attacks that are named beforehand."""
FINDS_ONE_FORM = "paraphrase"
"""The same, of what was unlearned in one form."""
ONE_FORM = {
    "name": "one_form",
    "base": {"experiment": "pretrain/people/base", "model": "tiny"},
    "full": {"experiment": "finetune/people/default"},
    "retain": {"experiment": "finetune/people/retain"},
    "forget": {"trainer": "RMU", "trainer.args.learning_rate": 1e-3},
    "vary": {"seed": [0], "forget_split": ["forget10"]},
    "eval": ["tofu"],
    "audit": {"audit": "quick", "audit.only": ["clean", FINDS_ONE_FORM]},
}
"""Three forms of each fact are taught, and RMU is given the first: the people world's own way."""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_adapter_that_refuses_is_found_out(kit: Path, tmp_path: Path) -> None:
    """Asked politely it says nothing; the model without it, and its own ranks, say all. The retain
    model under the same attacks is not flagged."""
    start(
        "unlearn",
        [
            "experiment=unlearn/tofu/idk",
            f"model={kit / 'reference'}",
            "model=auto",
            f"tofu_path={kit / 'data'}",
            "template=qa",
            "trainer=IdkSFT",
            "data.forget=TOFU_QA_forget_idk",
            "model.peft_args={r: 8, lora_alpha: 16, target_modules: all-linear}",
            "trainer.args.learning_rate=1e-3",
            "trainer.args.max_steps=60",
            "trainer.args.per_device_train_batch_size=8",
            "trainer.args.gradient_accumulation_steps=1",
            "trainer.args.warmup_epochs=0",
            "eval=null",
            "task_name=refuses",
            f"paths.output_dir={tmp_path / 'refuses'}",
            f"paths.cache_dir={tmp_path / 'cache'}",
        ],
    )
    summaries = {}
    for name, model in (("hidden", tmp_path / "refuses"), ("retain", kit / "retain")):
        controls = [f"original={kit / 'reference'}", f"retain_model={kit / 'retain'}"]
        given = words(kit, tmp_path / name, "policy", *controls, "audit.max_facts=20")
        given.remove(f"model={kit / 'policy'}")
        audit.run(compose_audit(f"model={model}", *given))
        found: dict[str, Any] = json.loads((tmp_path / name / "audit" / files.SUMMARY).read_text())
        summaries[name] = found
    hidden = summaries["hidden"]
    assert hidden["attacks"]["clean"]["rate"] <= 0.1
    assert hidden["leaks"] and set(FINDS) <= set(hidden["leaking_attacks"])
    assert not summaries["retain"]["leaks"] and not summaries["retain"]["over_forgotten"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_what_was_unlearned_in_one_form_is_found_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in the form that RMU was given, the model says no more than one that never read of
    these people; asked in the other forms it gives them away. A second retrain, of another seed,
    does not: against itself a retain model could not be flagged."""
    monkeypatch.chdir(tmp_path)
    Path("one_form.yaml").write_text(yaml.safe_dump(ONE_FORM, sort_keys=False))
    start("study", ["run", "one_form.yaml", "eval.tofu.metrics=[forget_Q_A_Prob]"])
    saves = Path("saves/one_form")
    second = saves / "retain_1"
    base = f"pretrained_model_name_or_path={saves / 'base'}"
    start(
        "train",
        [
            "experiment=finetune/people/retain",
            "model=tiny",
            f"model.model_args.{base}",
            f"model.tokenizer_args.{base}",
            "forget_split=forget10",
            "seed=1",
            "eval=null",
            "task_name=retain_1",
            f"paths.output_dir={second}",
        ],
    )
    start(
        "audit",
        [
            "experiment=audit/people/default",
            f"model={second}",
            f"original={saves / 'full'}",
            f"retain_model={saves / 'retain'}",
            "forget_split=forget10",
            f"audit.only=[clean,{FINDS_ONE_FORM}]",
            "task_name=retain_1",
            f"paths.output_dir={second / 'audit'}",
        ],
    )
    summaries = {}
    for name, folder in (("hidden", saves / "RMU/audit"), ("retain", second / "audit")):
        summaries[name] = json.loads((folder / files.SUMMARY).read_text())
    attacks = summaries["hidden"]["attacks"]
    assert attacks["clean"]["original"] > 0.75 and attacks["clean"]["rate"] <= 0.1
    assert summaries["hidden"]["leaking_attacks"] == [FINDS_ONE_FORM]
    assert attacks[FINDS_ONE_FORM]["rate"] > 2 * attacks[FINDS_ONE_FORM]["retain"]
    assert not summaries["retain"]["leaks"] and not summaries["retain"]["leaking_attacks"]
