"""Models as they are served: with a logits processor of their own, or a chat that thinks first."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.audit.test_audit_run import compose_audit, words
from tests.data.test_template import THINKING
from unteach.audits import files, session
from unteach.audits.battery import answer_probes
from unteach.audits.candidates import Candidates
from unteach.audits.facts import Fact
from unteach.audits.judging import SaidText, judge_with_thoughts
from unteach.errors import UserError
from unteach.methods.decode.uld import SubtractAssistant
from unteach.models.decoding_folder import write_decoding
from unteach.models.loading import load_empty
from unteach.verbs import audit, check

SWITCH = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and "
    "enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen 3's: it thinks unless it is told not to."""


def write_thinking_model(kit: Path, folder: Path, chat_template: str) -> Path:
    shutil.copytree(kit / "reference", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return folder


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "audit" / files.SUMMARY).read_text())
    return summary


def forbid_answers(kit: Path, folder: Path) -> Path:
    """A model that may say no token of the answers."""
    shutil.copytree(kit / "reference", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    forbidden: set[int] = set()
    for line in (kit / "data" / "forget10.jsonl").read_text().splitlines():
        forbidden.update(tokenizer(json.loads(line)["answer"]).input_ids)
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings["suppress_tokens"] = sorted(forbidden - {tokenizer.eos_token_id})
    path.write_text(json.dumps(settings))
    return folder


def subtract_itself(kit: Path, folder: Path) -> Path:
    """A model whose logits are taken away from its own, so that it knows nothing."""
    rule = SubtractAssistant(weight=-1.0, tau=0.0)
    for part in ("base", rule.SECOND):
        shutil.copytree(kit / "reference", folder / part)
    tokenizer = transformers.AutoTokenizer.from_pretrained(kit / "reference")
    tokenizer.save_pretrained(folder)
    write_decoding(folder, rule, None)
    return folder


@pytest.mark.parametrize("build", [forbid_answers, subtract_itself])
def test_what_a_processor_alone_holds_back_is_found_and_named(
    build: Any, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(kit, tmp_path / "model")
    relearn = ", relearn" if build is subtract_itself else ""
    extra = [f"retain_model={kit / 'retain'}", "audit=standard"]
    extra.append(f"audit.only=[clean, processor_off{relearn}]")
    extra.append("audit.attacks.processor_off.measured=[clean]")
    overrides = words(kit, tmp_path, "reference", *extra)
    overrides.remove(f"model={kit / 'reference'}")
    audit.run(compose_audit(f"model={model}", *overrides))
    summary = read_summary(tmp_path)
    assert summary["attacks"]["clean"]["rate"] == 0
    assert summary["attacks"]["processor_off"]["rate"] > 0.5
    assert summary["leaking_attacks"] == ["processor_off"]
    held = summary["held_back"]
    assert len(held["by_processor"]) == summary["attacks"]["processor_off"]["num_leaks"]
    (name,) = held["processors"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"suppression: a logits processor is part of this model: {name}" in said
    if build is subtract_itself:
        assert name == "ULD(weight=-1.0, tau=0.0)"
        assert "not trained as one" in summary["absent"]["relearn"]
    else:
        assert name == "suppress_tokens of generation_config.json"


def test_a_model_without_a_processor_has_none_to_switch_off(kit: Path, tmp_path: Path) -> None:
    config = compose_audit(*words(kit, tmp_path, "policy"))
    plan = session.plan_audit(config, load_empty(config.model))
    assert plan.battery.absent["processor_off"] == "the model has no logits processor of its own"


@pytest.mark.parametrize("chat_template", [SWITCH, THINKING], ids=["switch", "always opens"])
def test_a_chat_that_thinks_is_asked_for_answers(
    chat_template: str, kit: Path, tmp_path: Path
) -> None:
    """Thinking is switched off, or its block closed; a prefilled answer follows the block."""
    model = write_thinking_model(kit, tmp_path / "model", chat_template)
    overrides = words(kit, tmp_path, "reference")
    overrides.remove(f"model={kit / 'reference'}")
    overrides.remove("template=qa")
    config = compose_audit(f"model={model}", *overrides)
    empty = load_empty(config.model)
    context = session.plan_audit(config, empty).context
    block = "<think>\n\n</think>\n\n"
    fact = Fact(0, "", "Who?", "It was Ann.", "Ann")
    for prompt in (context.ask(fact), context.ask(fact, shots=[("Where?", "In Rome.")])):
        assert empty.tokenizer.decode(prompt).endswith(block)
    started = empty.tokenizer.decode(context.begin(fact, "It was"))
    assert started.endswith(f"{block}It was") and started.count("</think>") == 1
    encoded = context.template.encode("Who?", "Ann.")
    assert empty.tokenizer.decode(encoded.answer).startswith("Ann.")
    assert tuple(encoded.prompt) == context.ask(fact)


def test_what_is_said_in_thought_comes_out_and_is_told_apart() -> None:
    fact = Fact(0, "", "Where?", "She lives in Oslo now.", "Oslo", "city")
    candidates = Candidates(("Oslo", "Rome"), ("", ""), "kind")
    texts = {
        "<think>It was Oslo.</think> I do not know.": ((True, False), True),
        "it was Oslo, not Rome </think>In Rome.": ((True, True), True),
        "<think>Rome?</think>In Oslo.": ((True, True), False),
        "<think>Oslo, I think, but": ((True, False), True),
        "In Oslo.": ((True, False), False),
    }
    said = [SaidText(fact, candidates, "", text) for text in texts]
    judged = judge_with_thoughts(said)
    assert [(one.hits, one.in_thought) for one in judged] == list(texts.values())


def test_a_leak_in_thought_is_said(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def think_first(*args: Any, **kwargs: Any) -> Any:
        outcomes = answer_probes(*args, **kwargs)
        return {
            probe: type(said)(tuple(f"<think>{text}</think>No." for text in said.texts))
            for probe, said in outcomes.items()
        }

    monkeypatch.setattr("unteach.audits.battery.answer_probes", think_first)
    audit.run(compose_audit(*words(kit, tmp_path, "reference", "audit.only=[clean, leak_at_k]")))
    summary = read_summary(tmp_path)
    held = summary["held_back"]["in_thought"]
    assert held["clean"] == summary["attacks"]["clean"]["num_leaks"] > 5
    assert held["leak_at_k"] > 5
    assert "in thought: clean: " in capsys.readouterr().out


def test_a_model_that_cannot_be_asked_is_refused_in_one_sentence(kit: Path, tmp_path: Path) -> None:
    overrides = words(kit, tmp_path, "policy", "template=chat")
    overrides.remove("template=qa")
    with pytest.raises(UserError, match="no chat template: set template=qa or template=raw"):
        check.check(compose_audit(*overrides))


def test_a_classifier_is_refused_in_one_sentence(kit: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    config = transformers.AutoConfig.from_pretrained(kit / "policy", num_labels=2)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(model)
    transformers.AutoTokenizer.from_pretrained(kit / "policy").save_pretrained(model)
    overrides = words(kit, tmp_path, "policy")
    overrides.remove(f"model={kit / 'policy'}")
    with pytest.raises(UserError, match="classifier"):
        check.check(compose_audit(f"model={model}", *overrides))
