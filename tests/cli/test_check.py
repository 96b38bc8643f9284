"""`unteach check`: all about a run, and nothing of it done."""

from pathlib import Path

import pytest
import torch

from unteach.errors import UserError
from unteach.verbs import check


def words(kit: Path, folder: Path, *extra: str) -> list[str]:
    return [
        "unlearn", "experiment=unlearn/tofu/default", "model=auto", "task_name=t", f"paths.output_dir={folder}",
        f"model.model_args.pretrained_model_name_or_path={kit / 'policy'}", f"tofu_path={kit / 'data'}", *extra,
    ]  # fmt: skip


def test_it_says_what_a_run_would_be_and_does_nothing(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", None)  # nothing runs a model
    check.command(words(kit, tmp_path / "run", "trainer=NPO", "trainer.args.num_train_epochs=3"))
    said = capsys.readouterr().out
    rows = len((kit / "data" / "forget10.jsonl").read_text().splitlines())
    assert "529,248 parameters, 529,248 of them trained" in said
    assert "answer log-probs, computed once" in said
    assert f"forget: {rows} rows" in said and "(sets the epoch)" in said
    assert f"{3 * -(-rows // 32)} (3 epochs" in said
    assert "GiB a process" in said
    assert "⟦" in said, "the loss mask is shown without colours too"
    assert "absent      forget_quality: it compares with a retain model" in said
    assert not (tmp_path / "run").exists()


def test_what_is_learned_is_the_answer_and_its_end(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    check.command(words(kit, tmp_path / "run"))
    said = capsys.readouterr().out
    learned = [part.partition("⟧")[0] for part in said.split("⟦")[2:]]
    answers = [json.loads(line)["answer"] for line in (kit / "data" / "forget10.jsonl").read_text().splitlines()]
    assert learned[0].endswith("</s>") or learned[0]
    assert any(answer.split()[0] in learned[0] for answer in answers)


def test_each_value_is_shown_with_where_it_came_from(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("trainer=NPO", "trainer.args.learning_rate=3e-5", "forget_split=forget05")
    check.command(words(kit, tmp_path / "run", *extra), printed=True)
    lines = {line.partition(":")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["learning_rate"].endswith("# command line") and "3.0e-05" in lines["learning_rate"]
    assert lines["max_grad_norm"].endswith("# base_trainer.yaml")
    assert lines["warmup_epochs"].endswith("# experiment/unlearn/tofu/default.yaml")
    assert lines["handler"].endswith(".yaml")
    assert "retain95" in lines["retain_split"] and lines["retain_split"].endswith("# variables.yaml")


def test_it_finds_what_the_run_would_find(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="forget99"):
        check.command(words(kit, tmp_path / "run", "forget_split=forget99", "eval.tofu.metrics=[forget_Q_A_Prob]"))
    with pytest.raises(UserError, match="did you mean unlearn"):
        check.command(["unlern", "task_name=t"])


def test_rows_do_not_steer_the_terminal(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nwho \x1b]0;x\x07?,m\x1b[2Je\n")
    check.command(["train", f"model={tiny_folder}", f"data={tmp_path / 'a.csv'}", f"paths.output_dir={tmp_path / 'r'}"])
    said = capsys.readouterr().out
    assert "\ufffd]0;x\ufffd" in said and "\ufffd[2J" in said
    assert "\x1b" not in said and "\x07" not in said
