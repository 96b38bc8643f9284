"""A model that provably hides: its adapter refuses, and the model under it knows all."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.audits import files
from unteach.verbs import audit
from unteach.verbs.start import start

from .test_audit_run import compose_audit, words

FINDS = ("adapter_off", "rank")
"""The attacks that are named beforehand."""


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
