"""The exact way: what the run that is taught anew knows, and where there is no such way."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from unteach import run_dir
from unteach.config.forget import ForgetConfig
from unteach.config.verb_options import Options
from unteach.errors import Diverged, UserError
from unteach.forgetting import candidates, exact, leak_by_budget
from unteach.forgetting.earlier import find_earlier
from unteach.verbs import forget
from unteach.verbs.start import start
from unteach.verbs.start_composed import start_composed

from ..conftest import read_rows

NUM_TAUGHT, NUM_GONE = 16, 8
SETTINGS = [
    "template=qa",
    "paths.cache_dir=cache",
    "trainer.args.per_device_train_batch_size=8",
    "trainer.args.lr_scheduler_type=constant",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SHORT = [
    "trainer.args.max_steps=3",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.learning_rate=1e-3",
    "eval=null",
]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps({key: row[key] for key in ("question", "answer")}) for row in rows]
    file.write_text("\n".join(lines))


def write_table(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, with cells that are no text in JSON by themselves."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["number", "question", "answer", "date"])
        for index, row in enumerate(rows):
            writer.writerow([f"0{index}", row["question"], row["answer"], "2020-01-31"])


@pytest.fixture(scope="module")
def taught(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a whole model that was taught them by heart, and a short run."""
    folder = tmp_path_factory.mktemp("taught")
    rows = read_rows(kit / "data/forget10.jsonl")
    write_table(folder / "taught.csv", rows[:NUM_TAUGHT])
    write_table(folder / "without.csv", rows[NUM_GONE:NUM_TAUGHT])
    write_rows(folder / "gone.jsonl", rows[:NUM_GONE])
    write_rows(folder / "others.jsonl", rows[NUM_TAUGHT : NUM_TAUGHT + 4])
    write_rows(folder / "half.jsonl", rows[NUM_TAUGHT - 2 : NUM_TAUGHT + 2])
    write_rows(folder / "unseen.jsonl", read_rows(kit / "data/holdout10.jsonl")[:9])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        whole = ["trainer.args.num_train_epochs=25", "trainer.args.learning_rate=3e-3"]
        for name, settings in (("whole", whole), ("short", SHORT)):
            start("train", [*taught_by(kit), f"task_name={name}", *settings])
    return folder


def taught_by(kit: Path, file: str = "taught.csv") -> list[str]:
    return [f"model={kit / 'retain'}", f"data={file}", *SETTINGS]


@pytest.fixture
def folder(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may change, as the working folder."""
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    monkeypatch.setattr(leak_by_budget, "BUDGETS", ())
    copy = tmp_path / "work"
    shutil.copytree(taught, copy)
    monkeypatch.chdir(copy)
    return copy


def words(*extra: str, rows: str = "gone.jsonl", run: str = "whole") -> list[str]:
    model = f"model=saves/train/{run}"
    beside = ["holdout=unseen.jsonl", "template=qa", "paths.cache_dir=cache"]
    return [rows, model, *beside, "audit.only=[rank,clean]", "task_name=t", *extra]


def ask(run: str = "short", rows: str = "gone.jsonl", mode: str = "auto") -> exact.ExactWay:
    """Look for the exact way, without doing anything."""
    config = build_config(run, rows, mode)
    return exact.find_way(config, forget.find_folder(config))


def build_config(run: str = "short", rows: str = "gone.jsonl", mode: str = "auto") -> ForgetConfig:
    passed_on = ["template=qa", "paths.cache_dir=cache"]
    model = run if "/" in run else f"saves/train/{run}"
    return ForgetConfig([rows], model, task_name="t", exact=mode, words=passed_on)


def retrain(config: ForgetConfig) -> Path:
    """Carry out the run without the rows, and give its model."""
    folder = forget.find_folder(config)
    way = exact.find_way(config, folder)
    assert way.possible, way.reason
    planned = exact.plan_retraining(config, folder, way, None)
    start_composed(planned.config_name, list(planned.overrides), Options())
    return Path(planned.folder) / run_dir.FINAL


def assert_same_weights(model: Path, other: Path, name: str = "model.safetensors") -> None:
    weights, others = load_file(model / name), load_file(other / name)
    assert weights.keys() == others.keys()
    for key, weight in weights.items():
        assert weight.equal(others[key]), key


def read_record(task_name: str = "t") -> dict[str, Any]:
    file = forget.ROOT / task_name / run_dir.FORGET_RECORD
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_it_does_not_know_the_rows_and_knows_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("forget", words("exact=yes"))
    said = capsys.readouterr().out
    assert "saves/train/whole was taught 8 of the 8 rows" in said and "it is done now" in said
    record = read_record()
    assert record["done"]["method"] == "exact" and record["done"]["budget"] is None
    assert record["done"]["kl"] > 0
    assert record["exact"]["possible"] and record["exact"]["num_rows_found"] == 8
    assert record["request"]["num_known"] == 8 and record["left"]["attacks"]["clean"] == 0
    home = folder / "saves/forget/t"
    evals = json.loads((home / "exact/retrained/evals/ROWS_SUMMARY.json").read_text())
    assert evals["train_prob"] > 0.9
    page = (home / "forget.html").read_text()
    assert "carried out again without them" in page and "larger or a smaller budget" not in page
    assert (home / "statement.json").exists()
    # Where the rows were is said, and what still knows them is not left by the request itself.
    assert any(copy.startswith("saves/train/whole: its") for copy in record["copies_may_remain"])
    assert not list((home / "exact").rglob("*.safetensors"))

    # Again it does nothing, and the model is that of a run, so that a second request may follow.
    before = (home / run_dir.FORGET_RECORD).stat().st_mtime_ns
    start("forget", words("exact=yes"))
    assert (home / run_dir.FORGET_RECORD).stat().st_mtime_ns == before
    for name in ("saves/forget/t", "saves/forget/t/model"):
        assert ask(name).reason == (
            "the data of saves/forget/t/exact/retrained holds none of the 8 rows"
        )


def test_a_whole_model_is_what_the_run_makes_of_the_other_rows(kit: Path, folder: Path) -> None:
    """To the last bit: the same order, settings and seed."""
    model = retrain(build_config())
    start("train", [*taught_by(kit, "without.csv"), "task_name=by_hand", *SHORT])
    assert_same_weights(model, folder / "saves/train/by_hand" / run_dir.FINAL)


def test_an_adapter_on_chats_is_too(kit: Path, folder: Path) -> None:
    rows = read_rows(kit / "data/forget10.jsonl")[:NUM_TAUGHT]
    chats = []
    for row in rows:
        turns = [("user", row["question"]), ("assistant", row["answer"])]
        messages = [{"role": role, "content": text} for role, text in turns]
        chats.append(json.dumps({"messages": messages, "source": None}))
    (folder / "chats.jsonl").write_text("\n".join(chats))
    (folder / "fewer.jsonl").write_text("\n".join(chats[NUM_GONE:]))
    shutil.copytree(kit / "retain", folder / "chatty")
    (folder / "chatty/chat_template.jinja").write_text(CHAT_TEMPLATE)
    settings = ["model=chatty", *SETTINGS[1:], *SHORT, "template=chat", "model.peft_args.r=4"]
    start("train", ["data=chats.jsonl", "task_name=lora", *settings])
    model = retrain(build_config("lora"))
    start("train", ["data=fewer.jsonl", "task_name=by_hand", *settings])
    by_hand = folder / "saves/train/by_hand" / run_dir.FINAL
    assert_same_weights(model, by_hand, "adapter_model.safetensors")


def test_lines_of_text_are_too(kit: Path, folder: Path) -> None:
    """A file of another form stands for them: it is read as they were."""
    lines = []
    for row in read_rows(kit / "data/forget10.jsonl")[:NUM_TAUGHT]:
        lines.append(f"{row['question']} {row['answer']}")
    (folder / "lines.txt").write_text("\n".join(lines))
    (folder / "fewer.txt").write_text("\n".join(lines[NUM_GONE:]))
    by_line = [*SHORT, "data.txt=line", "data.max_rows=20"]
    start("train", [*taught_by(kit, "lines.txt"), "task_name=lines", *by_line])
    model = retrain(build_config("lines"))
    start("train", [*taught_by(kit, "fewer.txt"), "task_name=by_hand", *by_line])
    assert_same_weights(model, folder / "saves/train/by_hand" / run_dir.FINAL)


def test_rows_that_a_run_drew_are_not_drawn_again(kit: Path, folder: Path) -> None:
    """Those that validated it still do."""
    drawn = [*SHORT, "data.validation_fraction=0.25", "trainer.args.eval_strategy=epoch"]
    start("train", [*taught_by(kit), "task_name=drawn", *drawn])
    retrain(build_config("drawn"))
    home = folder / "saves/forget/t/exact"
    kept = {stream: read_rows(home / f"{stream}-file.jsonl") for stream in ("train", "validation")}
    assert len(kept["train"]) + len(kept["validation"]) == NUM_TAUGHT - NUM_GONE
    config = yaml.safe_load((home / "retrained" / run_dir.CONFIG).read_text())
    assert config["data"]["validation_file"].endswith("exact/validation-file.jsonl")


def test_auto_says_the_price_and_searches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["method=NPO", "trainer.args.max_steps=12", "trainer.args.learning_rate=3e-3"]
    start("check", ["forget", *words(*search)])
    said = capsys.readouterr().out
    assert "takes less than a minute: exact=yes does it" in said and "method      NPO" in said
    assert not (folder / "saves/forget").exists()

    start("forget", words(*search, "budget=6"))
    said = capsys.readouterr().out
    assert "takes less than a minute: exact=yes task_name=t-exact" in said
    record = read_record()
    assert record["done"]["method"] == "NPO"
    assert record["exact"]["possible"] and record["exact"]["run"] == "saves/train/whole"
    last = run_dir.read_last_metrics(folder / "saves/train/whole")
    assert last is not None
    assert record["exact"]["seconds"] == pytest.approx(last["train_runtime"] / 2)


def test_the_price_is_that_of_the_rows_that_stay(folder: Path) -> None:
    """Half of the rows stay, and a run that counts its steps takes all of them."""
    for run, share in (("whole", 0.5), ("short", 1)):
        last = run_dir.read_last_metrics(folder / "saves/train" / run)
        assert last is not None
        way = ask(run)
        assert way.seconds == pytest.approx(last["train_runtime"] * share)
        assert way.seconds_a_row is not None and way.seconds_a_row > 0
    described = exact.describe_way(
        exact.ExactWay(True, run="r", seconds=200, num_rows_found=2, num_left_out=3), "w"
    )
    assert described == [
        "r was taught 2 of the 2 rows; to teach it anew without them (3 rows of its data) is "
        "exact, and takes about 3 min: w"
    ]


def test_nobody_looks_where_it_is_not_wanted(folder: Path) -> None:
    assert ask(mode="no") == exact.NOT_LOOKED_FOR
    assert exact.describe_way(exact.NOT_LOOKED_FOR, "word") == []


def test_rows_that_are_half_found(folder: Path) -> None:
    way = ask(rows="half.jsonl")
    assert way.possible and way.num_rows_found == 2 and len(way.missing) == 2
    assert way.num_left_out == 2
    said = " ".join(exact.describe_way(way, "exact=yes"))
    assert "2 of the 4 rows" in said
    assert "was not taught them: line 3, line 4" in said


def test_rows_that_are_not_found(folder: Path) -> None:
    assert (
        ask(rows="others.jsonl").reason == "the data of saves/train/short holds none of the 4 rows"
    )
    with pytest.raises(UserError, match=r"exact=yes: the data of saves/train/short holds none"):
        start("forget", words("exact=yes", rows="others.jsonl", run="short"))
    assert not (folder / "saves/forget").exists()


def test_a_model_of_no_run(kit: Path, folder: Path) -> None:
    assert str(ask(str(kit / "retain")).reason).endswith("nor the final model of one")


def test_data_that_changed_or_is_gone(folder: Path) -> None:
    data = folder / "taught.csv"
    data.write_text(data.read_text() + "\n9,Who?,She.,2020-01-31\n")
    with pytest.raises(UserError, match=r"taught.csv has changed since saves/train/short was"):
        ask(mode="yes")
    data.unlink()
    assert ask().reason == "taught.csv, on which saves/train/short was trained, is gone"


def test_a_run_that_is_not_finished(folder: Path) -> None:
    (folder / "saves/train/short" / run_dir.DONE).unlink()
    assert ask().reason == "saves/train/short is a run that is not finished"


def test_a_start_that_changed(kit: Path, folder: Path) -> None:
    shutil.copytree(kit / "retain", folder / "start")
    start("train", ["model=start", *taught_by(kit)[1:], "task_name=moved", *SHORT])
    assert ask("moved").possible
    shutil.copy(kit / "reference/model.safetensors", folder / "start")
    assert ask("moved").reason == "start has changed since saves/train/moved started from it"


def test_a_start_that_was_taught_the_rows_too(kit: Path, folder: Path) -> None:
    later = ["model=saves/train/short", "data=gone.jsonl", *SETTINGS, *SHORT, "task_name=later"]
    start("train", later)
    rows = read_rows(folder / "gone.jsonl")
    write_rows(folder / "more.jsonl", [*rows[:2], *read_rows(folder / "others.jsonl")])
    later[1] = "data=more.jsonl"
    later[-1] = "task_name=more"
    start("train", later)
    reason = (
        "started from saves/train/short, which was taught 8 rows of the request too: to teach the "
        "one anew would not be exact"
    )
    assert ask("more").reason == f"saves/train/more {reason}"
    assert ask("later").reason == "without these rows saves/train/later has no row of data.train"
    assert ask("more", "others.jsonl").possible


def test_a_run_of_another_verb(kit: Path, folder: Path) -> None:
    unlearned = ["forget=gone.jsonl", "trainer=GradAscent", *SETTINGS, *SHORT, "task_name=u"]
    start("unlearn", [f"model={kit / 'reference'}", *unlearned])
    assert ask("saves/unlearn/u").reason == (
        "saves/unlearn/u is a run of unteach unlearn, not of unteach train"
    )


def test_what_an_earlier_request_took_out_is_left_out_too(folder: Path) -> None:
    earlier = folder / "saves/forget/first"
    (earlier / "model").mkdir(parents=True)
    done = {"method": "NPO", "model_before": "saves/train/short"}
    (earlier / run_dir.FORGET_RECORD).write_text(json.dumps({"done": done}))
    for name in ("forget.jsonl", "facts.jsonl"):
        shutil.copy(folder / "gone.jsonl", earlier / name)
    config = build_config("saves/forget/first/model", "half.jsonl")
    way = exact.find_way(config, folder / "saves/forget/t")
    assert way.run == "saves/train/short" and way.num_rows_found == 2
    begun = build_config(rows="half.jsonl")
    exact.plan_retraining(begun, folder / "saves/forget/t", way, find_earlier(config.model))
    kept = read_rows(folder / "saves/forget/t/exact/train-file.jsonl")
    assert len(kept) == NUM_TAUGHT - NUM_GONE - 2


def test_a_request_that_was_stopped_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after its training, and after its weights were deleted."""
    given = words("exact=yes", run="whole")
    home = folder / "saves/forget/t"
    with monkeypatch.context() as stopped:
        stopped.setattr(forget, "measure_kl", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            start("forget", given)
    trained = (home / "exact/retrained" / run_dir.DONE).stat().st_mtime_ns
    # What was written is what counts: the run's data may go now.
    (folder / "taught.csv").unlink()
    with monkeypatch.context() as stopped:
        stopped.setattr(forget.record, "write_record", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            start("forget", given)
    assert not (home / "exact/retrained" / run_dir.FINAL).exists()
    start("forget", given)
    assert (home / "exact/retrained" / run_dir.DONE).stat().st_mtime_ns == trained
    assert read_record()["done"]["method"] == "exact"


def test_what_is_found_after_it_does_not_make_it_less_exact(
    kit: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data says the rows once more, in other words: it says so, and ends well."""
    table = folder / "taught.csv"
    rows = read_rows(folder / "gone.jsonl")
    again = [{**row, "answer": f"{row['answer']} Indeed."} for row in rows]
    write_table(table, [*rows, *again, *read_rows(folder / "others.jsonl")])
    whole = ["trainer.args.num_train_epochs=25", "trainer.args.learning_rate=3e-3", "eval=null"]
    start("train", [*taught_by(kit), "task_name=twice", *whole])
    start("forget", words("exact=yes", run="twice"))
    said = capsys.readouterr().out
    assert "what the attacks bring out does not come from them" in said
    record = read_record()
    assert record["candidates"][0]["leak"]["is_found"]
    assert record["done"]["method"] == "exact" and (folder / "saves/forget/t/model").is_dir()


def test_a_training_that_fails_gives_no_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forget, "_carry_out", lambda *_: None)
    with pytest.raises(Diverged, match="came to no model without the rows"):
        start("forget", words("exact=yes"))
    assert not (folder / "saves/forget/t" / candidates.MODEL).exists()


def test_the_words_of_a_search_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"leave method=, budget=, trainer.args.max_steps=3 out"):
        start("forget", words("exact=yes", "method=NPO", "budget=1", "trainer.args.max_steps=3"))
