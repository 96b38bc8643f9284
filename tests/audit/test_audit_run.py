"""Whole audits of tiny models: what they find, what they refuse, and that nothing is asked twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unteach.audits import battery, files, session
from unteach.audits.audited_model import AuditedModel
from unteach.audits.lessons import OwnTexts
from unteach.config.compose import compose
from unteach.config.schema import PATH, AuditConfig, ModelConfig
from unteach.data.user_files import resolve_files
from unteach.distributed.process_context import SINGLE_PROCESS
from unteach.errors import LeakFound, UserError
from unteach.models.loading import load, load_empty
from unteach.training.drift import OPENINGS
from unteach.verbs import audit, check, relearn
from unteach.verbs.start import start

LEVEL = [
    "audit.attacks.fewshot.shots=2",
    "audit.attacks.leak_at_k.n=3",
    "audit.attacks.noise.scale=1e-4",
    "audit.attacks.paraphrase=null",
    "audit.attacks.format=null",
]


def words(kit: Path, folder: Path, model: str, *extra: str) -> list[str]:
    return [
        "experiment=audit/tofu/default",
        f"model={kit / model}",
        "model=auto",
        f"tofu_path={kit / 'data'}",
        "template=qa",
        "task_name=t",
        f"paths.output_dir={folder / 'audit'}",
        f"paths.cache_dir={folder / 'cache'}",
        "audit.max_facts=10",
        *LEVEL,
        *extra,
    ]


def compose_audit(*overrides: str) -> AuditConfig:
    config = compose("audit", overrides)
    assert isinstance(config, AuditConfig)
    return config


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of audits that share a cache."""
    return tmp_path_factory.mktemp("audits")


def beside_both(kit: Path, folder: Path, model: str) -> list[str]:
    extra = [f"original={kit / 'reference'}", f"retain_model={kit / 'retain'}"]
    extra += ["audit.attacks.logit_lens={}", "audit.attacks.uds={}"]
    return words(kit, folder, model, *extra, "resume=never")


@pytest.fixture(scope="module")
def summaries(kit: Path, audits: Path) -> dict[str, Any]:
    """What audits find of the model that knew the facts and of the one that never saw them; both
    stand beside either, and are measured once."""
    found = {}
    for model in ("reference", "retain"):
        audit.run(compose_audit(*beside_both(kit, audits, model)))
        found[model] = json.loads((audits / "audit" / files.SUMMARY).read_text())
        found[f"{model} findings"] = json.loads((audits / "audit" / files.FINDINGS).read_text())
    return found


def test_the_model_that_knows_leaks_and_the_one_that_never_saw_does_not(
    summaries: dict[str, Any],
) -> None:
    assert summaries["reference"]["leaks"] and summaries["reference"]["worst"] > 0.5
    assert summaries["reference"]["sentence"].startswith("leaks: ")
    retain = summaries["retain"]
    assert not retain["leaks"] and retain["worst"] == retain["worst_retain"]
    assert "no leak found by these attacks, without relearning, at this power" in retain["sentence"]
    assert 0 < retain["upper_bound"] < 1 and 0 < retain["smallest"] <= 1


def test_every_fact_has_what_each_attack_brought_out(summaries: dict[str, Any]) -> None:
    record = summaries["reference findings"]
    assert len(record["facts"]) == 10
    for part in ("original", "retain", "audited"):
        for name, findings in record["findings"][part].items():
            assert name in summaries["reference"]["configured"]
            for finding in findings:
                candidates = record["facts"][finding["fact"]]["candidates"]
                assert len(finding["hits"]) == len(candidates)
    assert record["findings"]["audited"]["rank"] == record["findings"]["original"]["rank"]


def test_the_depth_score_is_0_of_the_original_and_1_of_the_retain_model(
    summaries: dict[str, Any],
) -> None:
    """It stands beside the leaks, with the score of each fact."""
    expected = {"value": 0, "interval": [0, 0], "num_facts": 10, "num_skipped": 0}
    assert summaries["reference"]["scores"] == {"uds": expected}
    assert summaries["retain"]["scores"]["uds"]["value"] == 1
    assert summaries["reference findings"]["scores"]["uds"] == {str(i): 0 for i in range(10)}
    assert "uds" not in summaries["reference"]["attacks"]


def test_the_lens_of_the_last_layer_is_the_rank(summaries: dict[str, Any]) -> None:
    """So what comes out by rank comes out by the lens too, by wrong candidates as by the true
    one."""
    for part in ("original", "retain", "audited"):
        findings = summaries["retain findings"]["findings"][part]
        for ranked, read in zip(findings["rank"], findings["logit_lens"], strict=True):
            assert all(
                after >= before for before, after in zip(ranked["hits"], read["hits"], strict=True)
            )
    assert summaries["reference"]["attacks"]["logit_lens"]["rate"] == 1
    assert summaries["retain"]["attacks"]["logit_lens"]["rate"] < 0.5


def test_the_same_of_every_batch_size(kit: Path, tmp_path: Path) -> None:
    """Of a pass of each kind: check_attack looks at each attack by itself."""
    records = []
    for size in (1, 7):
        folder = tmp_path / str(size)
        extra = [f"audit.batch_size={size}", "audit.only=[rank, clean, leak_at_k]"]
        extra += ["audit.max_facts=4", "audit.attacks.leak_at_k.n=1"]
        audit.run(compose_audit(*words(kit, folder, "policy", *extra)))
        records.append(json.loads((folder / "audit" / files.FINDINGS).read_text()))
    assert records[0] == records[1]


def test_no_model_is_loaded_for_what_was_measured(
    kit: Path, audits: Path, summaries: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, texts, samples, changed weights, and what was read inside."""
    monkeypatch.setattr(AuditedModel, "model", property(lambda _: pytest.fail("all is known")))
    audit.run(compose_audit(*beside_both(kit, audits, "retain")))
    findings = json.loads((audits / "audit" / files.FINDINGS).read_text())
    assert findings == summaries["retain findings"]


def test_without_rows_to_retain_each_model_is_taught_its_own_texts(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = "{learning_rates: [1e-3], looks: [1, 2], r: 4, max_rows: 5, max_tokens: 12}"
    extra = [
        "audit=standard",
        "audit.only=[rank, relearn_benign]",
        f"audit.attacks.relearn_benign={lesson}",
        f"original={kit / 'reference'}",
        "data.retain=null",
    ]
    audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra)))
    summary = json.loads((tmp_path / "audit" / files.SUMMARY).read_text())
    taught = "5 texts that each model wrote itself"
    assert summary["configured"]["relearn_benign"]["taught"] == taught
    assert f"relearn_benign: taught {taught}" in capsys.readouterr().out
    texts = list((tmp_path / "audit" / "relearn").glob("texts-*.jsonl"))
    assert len(texts) == 2, "of two models"
    assert len({file.read_text() for file in texts}) == 2
    assert len(list((tmp_path / "audit" / "relearn").glob("*/run/metrics.jsonl"))) == 2


def test_a_model_that_chats_writes_answers_to_openings(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    turn = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(turn + "<assistant> ")
    config = ModelConfig({PATH: str(folder)})
    model = AuditedModel(config, None, tmp_path / "cache", SINGLE_PROCESS)
    assert model.template.kind == "chat"
    rows = relearn._load_own_texts(tmp_path, model, OwnTexts(9, 6), seed=0)
    assert rows == relearn._load_own_texts(tmp_path, model, OwnTexts(9, 6), seed=0)
    assert len(rows) == 9 and not model.is_loaded
    assert rows[0]["question"] == rows[8]["question"] == OPENINGS[0]
    assert rows[0]["answer"] != rows[8]["answer"], "the same opening, another draw"


def test_what_cannot_be_compared_is_said_with_how_to_go_on(kit: Path, tmp_path: Path) -> None:
    """A retain model of another depth."""
    shallow = tmp_path / "shallow"
    loaded = load(ModelConfig({PATH: str(kit / "retain")}), training=False)
    loaded.model.config.num_hidden_layers -= 1
    loaded.model.model.layers = loaded.model.model.layers[:-1]
    loaded.model.save_pretrained(shallow)
    loaded.tokenizer.save_pretrained(shallow)
    extra = [f"original={kit / 'reference'}", f"retain_model={shallow}"]
    extra += ["audit=deep", "audit.only=[clean, uds]"]
    with pytest.raises(
        UserError, match=r"uds: .* 4 layers of 96 .*attacks\.uds=null leaves it out"
    ):
        audit.run(compose_audit(*words(kit, tmp_path, "policy", *extra)))


def test_a_probe_that_two_attacks_share_is_asked_once(kit: Path, tmp_path: Path) -> None:
    both = ["audit.only=[clean, rank, again]", "audit.attacks.again.attack=clean"]
    config = compose_audit(*words(kit, tmp_path, "policy", *both))
    plan = session.plan_audit(config, load_empty(config.model)).battery
    assert plan.num_asked == 30 and plan.num_distinct == 20


def test_facts_that_the_original_never_knew_are_set_aside(kit: Path, tmp_path: Path) -> None:
    extra = [f"original={kit / 'retain'}", "audit.only=[clean]"]
    config = compose_audit(*words(kit, tmp_path, "policy", *extra))
    with pytest.raises(UserError, match="it knows none of the 10 facts"):
        audit.run(config)


def test_without_an_original_the_words_are_weaker(kit: Path, tmp_path: Path) -> None:
    controls = f"retain_model={kit / 'retain'}"
    audit.run(compose_audit(*words(kit, tmp_path, "retain", controls, "audit.only=[rank]")))
    summary = json.loads((tmp_path / "audit" / files.SUMMARY).read_text())
    assert "their power is unknown" in summary["sentence"]
    assert summary["attacks"]["rank"]["has_power"] is None


def test_whole_answers_without_a_retain_model_can_be_held_against_nothing(
    kit: Path, tmp_path: Path
) -> None:
    """Other rows' answers differ in more than being wrong: a model that saw none may tell them
    apart."""
    audit.run(compose_audit(*words(kit, tmp_path, "reference", "audit.only=[rank]")))
    summary = json.loads((tmp_path / "audit" / files.SUMMARY).read_text())
    assert summary["attacks"]["rank"]["rate"] == 1 and summary["attacks"]["rank"]["p_value"] is None
    assert not summary["leaks"] and summary["sentence"].startswith("nothing can be said")
    assert summary["smallest"] is None, "a rank without a test tells no leak from chance"


def test_trainings_are_refused_in_several_processes(kit: Path, tmp_path: Path) -> None:
    config = compose_audit(*words(kit, tmp_path, "policy", "audit=standard"))
    plan = session.plan_audit(config, load_empty(config.model))
    two = replace(SINGLE_PROCESS, world_size=2)
    with pytest.raises(UserError, match="relearn trains copies of the model in one process"):
        audit._refuse_trainings_in_processes(plan, two)
    audit._refuse_trainings_in_processes(plan, SINGLE_PROCESS)


def test_a_condition_ends_with_an_exit_code_of_its_own(kit: Path, tmp_path: Path) -> None:
    extra = ["audit.only=[rank]", "audit.fail_if='worst_leak>0.05'"]
    with pytest.raises(LeakFound, match="worst_leak is 1") as raised:
        audit.run(compose_audit(*words(kit, tmp_path, "reference", *extra)))
    assert raised.value.exit_code == 5
    assert (tmp_path / "audit" / files.SUMMARY).exists()
    assert (tmp_path / "audit" / "audit.html").exists()
    audit.run(
        compose_audit(*words(kit, tmp_path / "b", "retain", *extra[:1], "audit.fail_if='rank>0.9'"))
    )


def test_check_says_what_would_be_asked(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["audit.attacks.clean=null", "data.retain=null"]
    extra.append("audit.attacks.noise={measured: [clean]}")
    check.check(compose_audit(*words(kit, tmp_path, "policy", *extra)))
    said = capsys.readouterr().out
    assert "attack      rank: 10 probes" in said
    assert "not tested  context: there are no rows to retain" in said
    assert "not tested  adapter_off: the model has no adapter" in said, said
    assert "not tested  noise: it asks by clean, which is not among the attacks" in said
    assert "attack      fewshot: 10 probes" in said and "of each model: audited" in said
    assert not (tmp_path / "audit").exists()
    check.check(compose_audit(*words(kit, tmp_path, "policy", "audit=deep", "data.retain=null")))
    said = capsys.readouterr().out
    assert "not tested  uds: it needs original=MODEL and retain_model=MODEL" in said
    assert "attack      logit_lens: hidden states of each model" in said
    assert "relearn_benign: 5 trainings on 200 texts that each model wrote itself" in said
    assert "15 looks at them, each with 10 facts asked for" in said


def test_a_score_is_bounded_by_no_condition(kit: Path, tmp_path: Path) -> None:
    extra = ["audit=deep", "audit.fail_if='uds>0.5'"]
    config = compose_audit(*words(kit, tmp_path, "policy", *extra))
    with pytest.raises(UserError, match="uds gives facts numbers, and no share of them comes out"):
        session.plan_audit(config, load_empty(config.model))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["data=null"], "data.forget: an audit asks for rows that were to be forgotten"),
        (["audit.attacks.rnk={}"], "audit.attacks.rnk: .*did you mean rank"),
        (["audit.only=[rnk]"], "only: .*did you mean rank"),
        (["audit.only=[rank]", "audit.attacks.rank=null"], "audit.attacks: none is left"),
        (["audit.attacks.rank.ovr=1"], "audit.attacks.rank.ovr"),
        (["audit.fail_if=often"], "fail_if must be NAME>NUMBER"),
        (["audit.fail_if='rnk>0.1'"], "fail_if: rnk is no attack"),
        (["audit.max_facts=0"], "max_facts must be at least 1"),
        (["trainer=NPO"], "trainer"),
    ],
)
def test_bad_words_are_named(kit: Path, tmp_path: Path, extra: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_audit(*words(kit, tmp_path, "policy", *extra))


def test_rows_of_ones_own(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = (kit / "data" / "forget10.jsonl").read_text().splitlines()[:9]
    (tmp_path / "gone.jsonl").write_text("\n".join(lines))
    config = compose_audit(
        f"model={kit / 'reference'}",
        "forget=gone.jsonl",
        "template=qa",
        f"retain_model={kit / 'retain'}",
        "audit.only=[rank, clean]",
    )
    assert config.paths.output_dir == "saves/audit/reference-gone"
    audit.run(resolve_files(config))
    summary = json.loads((tmp_path / "saves/audit/reference-gone" / files.SUMMARY).read_text())
    assert summary["num_facts"] == 9 and summary["leaks"]


def test_columns_that_an_audit_reads_are_not_said_to_be_unread(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"question": "Who?", "answer": "Ann did.", "value": "Ann", "kind": "name", "mood": "odd"}
    (tmp_path / "gone.jsonl").write_text(json.dumps(row))
    config = resolve_files(compose_audit(f"model={kit / 'policy'}", "forget=gone.jsonl"))
    (note,) = [note for note in config.data.notes if "nothing reads" in note]
    assert note.endswith("text column mood")


def test_answers_are_cut_at_no_more_than_the_longest_needs(kit: Path, tmp_path: Path) -> None:
    config = compose_audit(*words(kit, tmp_path, "policy"))
    context = session.plan_audit(config, load_empty(config.model)).context
    assert battery.limit_answers(context) <= battery.LONGEST_ANSWER + battery.MORE_THAN_ANSWER


def test_rounded_weights_are_put_back(kit: Path, tmp_path: Path) -> None:
    """What is asked after them, and again by another audit, is asked of the model itself."""
    only = ["audit.only=[rank, rtn4, rtn3]", "audit.attacks.rtn3={attack: quantize, scheme: rtn3}"]
    audit.run(compose_audit(*words(kit, tmp_path, "policy", *only)))
    findings = json.loads((tmp_path / "audit" / files.FINDINGS).read_text())["findings"]["audited"]
    assert findings["rank"] != findings["rtn3"]
    audit.run(compose_audit(*words(kit, tmp_path / "b", "policy", "audit.only=[rank]")))
    again = json.loads((tmp_path / "b" / "audit" / files.FINDINGS).read_text())
    assert again["findings"]["audited"]["rank"] == findings["rank"]


def test_leak_at_k_grows_with_k(summaries: dict[str, Any]) -> None:
    curve = summaries["reference"]["attacks"]["leak_at_k"]["leak_at_k"]
    assert list(curve) == ["1", "2"]
    assert 0.5 < curve["1"]["true"] <= curve["2"]["true"] <= 1
    assert curve["2"]["wrong"] < 0.1


def test_a_redacted_audit_holds_nothing_of_the_rows(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    extra = ["audit.redact=true", f"audit.redaction_key={tmp_path / 'key'}"]
    extra.append("audit.attacks.relearn={learning_rates: [1e-3], looks: [1], r: 2}")
    extra.append("audit.only=[rank, clean, prefill, leak_at_k, relearn]")
    audit.run(compose_audit(*words(kit, tmp_path, "reference", *extra)))
    written = capsys.readouterr().out
    for file in (tmp_path / "audit").rglob("*"):
        written += file.read_text(errors="ignore") if file.is_file() else ""
    assert "hmac:" in written and '"redaction_key_id"' in written
    for line in (kit / "data" / "forget10.jsonl").read_text().splitlines():
        row = json.loads(line)
        for text in (row["question"], row["answer"]):
            assert not any(text[i : i + 12] in written for i in range(len(text) - 12))


def test_a_statement_is_of_the_model_that_was_audited(kit: Path, tmp_path: Path) -> None:
    """Refused once a byte of the weights is another."""
    model = tmp_path / "model"
    shutil.copytree(kit / "policy", model)
    given = words(kit, tmp_path, "policy", "audit.only=[rank]")
    given.remove(f"model={kit / 'policy'}")
    audit.run(compose_audit(f"model={model}", *given))
    statement = str(tmp_path / "audit" / "statement.json")
    start("audit", ["verify", statement, f"model={model}"])
    weights = model / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(UserError, match=r"changed since: model\.safetensors"):
        start("audit", ["verify", statement, f"model={model}"])
    with pytest.raises(UserError, match="name one statement, got 0"):
        start("audit", ["verify", f"model={model}"])


def test_a_key_that_cannot_be_read_is_refused_before_anything_is_measured(
    kit: Path, tmp_path: Path
) -> None:
    config = compose_audit(*words(kit, tmp_path, "policy", f"audit.sign_key={tmp_path / 'none'}"))
    with pytest.raises(UserError, match="none"):
        audit.run(config)
    assert not (tmp_path / "cache").exists()
