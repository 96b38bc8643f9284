"""What watches a run: its plot, its samples, its profile, and both in the trackers without a
network."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.export.test_export import run
from unteach.errors import UserError
from unteach.training import plot
from unteach.training.samples import split_example

SAMPLES = "trainer.samples={rows: 2, max_new_tokens: 5, every: 1}"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def shown(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything but Weights & Biases."""
    profiler = "trainer.profiler={skip_first: 0, wait: 0, warmup: 0, active: 1, repeat: 1}"
    folder = tmp_path_factory.mktemp("shown") / "run"
    return run(
        tiny_folder,
        folder,
        SAMPLES,
        profiler,
        "trainer.args.report_to=tensorboard",
        "trainer.args.logging_steps=1",
    )


def test_the_plot_shows_what_was_logged(shown: Path) -> None:
    assert (shown / plot.FILE).read_bytes().startswith(b"\x89PNG")
    panels = plot.read_curves(shown / "metrics.jsonl")
    assert list(panels) == ["loss"] and [step for step, _ in panels["loss"]["loss"]] == [1, 2]


def test_evaluated_values_have_a_panel_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.0, "forget_loss": 1.0, "margin": 3}\n{"step": 1, "eval_tofu_x": '
        '0.5, "eval_runtime": 3}\n'
        '{"step": 2, "loss": NaN, "forget_loss": 0.5, "train_loss": 1}\n{"step": 3, "lo'
    )
    assert plot.read_curves(tmp_path / "metrics.jsonl") == {
        "loss": {"loss": [(1, 2.0)], "forget_loss": [(1, 1.0), (2, 0.5)]},
        "logged": {"margin": [(1, 3)]},
        "evaluated": {"tofu_x": [(1, 0.5)]},
    }
    assert plot.draw_loss(tmp_path) == tmp_path / plot.FILE
    assert plot.draw_loss(tmp_path / "nothing") is None


def test_samples_are_what_the_model_says(shown: Path) -> None:
    from unteach.verbs.load import load

    written = lines(shown / "samples.jsonl")
    assert [(line["step"], line["row"]) for line in written] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    loaded = load(str(shown))
    ids = loaded.template.tokenizer(written[-1]["prompt"], return_tensors="pt").input_ids
    made = loaded.model.generate(
        ids, max_new_tokens=5, do_sample=False, eos_token_id=list(loaded.template.stops)
    )
    assert loaded.template.decode(made[0, ids.shape[1] :]) == written[-1]["said"]
    assert written[0]["answer"] and written[0]["answer"] not in written[0]["prompt"]


def test_samples_change_nothing_of_a_run(shown: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Drawn ones neither: training's own random numbers stay as they were."""
    drawn = "trainer.samples={rows: 2, max_new_tokens: 5, every: 1, temperature: 1.0, top_k: 20}"
    weights, texts = [], []
    for name, extra in (("a", drawn), ("b", drawn), ("without", "trainer.samples=null")):
        dropout = (
            "model.peft_args={r: 2, lora_dropout: 0.5, target_modules: all-linear}",
            "trainer.args.report_to=none",
        )
        folder = run(tiny_folder, tmp_path / name, extra, *dropout)
        weights.append((folder / "final_checkpoint" / "adapter_model.safetensors").read_bytes())
        texts.append((folder / "samples.jsonl").read_text() if name != "without" else "")
    assert weights[0] == weights[1] == weights[2]
    assert texts[0] == texts[1] and texts[0] != (shown / "samples.jsonl").read_text()


def test_a_resumed_run_has_each_sample_once(tiny_folder: Path, tmp_path: Path) -> None:
    folder = run(tiny_folder, tmp_path / "run", SAMPLES)
    first = lines(folder / "samples.jsonl")
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 7, "row": 0}\n{"st')
    (folder / "DONE.json").unlink()
    for path in (folder / "final_checkpoint", folder / "checkpoint-2"):
        path.rename(tmp_path / path.name)
    run(tiny_folder, folder, SAMPLES)
    assert lines(folder / "samples.jsonl") == first


def test_texts_without_a_prompt_are_halved() -> None:
    assert split_example({"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}) == (
        (1, 2),
        (3, 4),
    )
    assert split_example({"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5]}) == (
        (1, 2),
        (3, 4, 5),
    )


def test_a_profile_is_a_chrome_trace(shown: Path) -> None:
    [trace] = (shown / "profile").iterdir()
    events = json.loads(trace.read_text())["traceEvents"]
    assert trace.name == "step1-rank0.json" and any(
        "aten::" in event.get("name", "") for event in events
    )


def test_tensorboard_has_losses_and_samples(shown: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(shown / "logs")).Reload()
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2]
    assert "samples/0/text_summary" in found.Tags()["tensors"]


def test_wandb_is_shown_the_samples(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason='pip install ".[track]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shown, real = [], wandb.Run.log
    monkeypatch.setattr(
        wandb.Run,
        "log",
        lambda self, told, **given: (shown.append(told), real(self, told, **given)),
    )
    words = ("trainer.args.report_to=wandb", "wandb.group=mine", f"wandb.dir={tmp_path / 'w'}")
    folder = run(tiny_folder, tmp_path / "run", SAMPLES, *words)
    said = [line["said"] for line in lines(folder / "samples.jsonl")]
    tables = [told for told in shown if "samples" in told]
    assert [told["train/global_step"] for told in tables] == [0, 1, 2]
    assert [row[-1] for told in tables for row in told["samples"].data] == said
    assert wandb.run is None


def test_an_interrupted_run_has_its_plot(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unteach.training.trainer import Trainer

    real = Trainer.end_step

    def interrupted(self: Any) -> None:
        real(self)
        if self.state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "end_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_folder, tmp_path / "run", "trainer.args.logging_steps=1")
    assert (tmp_path / "run" / plot.FILE).exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "trainer.samples={rows: 2}",
            r"trainer\.samples\.every: is required where trainer\.args\.eval_strategy is no",
        ),
        (
            "trainer.samples={every: 1, stream: retain}",
            r"trainer\.samples\.stream: must be one of train",
        ),
        ("trainer.samples={every: 0}", "at least 1"),
        ("trainer.samples={every: 1, top_p: 0.9}", "for a temperature above 0"),
        ("trainer.samples={each: 1}", r"trainer\.samples\.each"),
        ("trainer=classify trainer.samples={every: 1}", "a classifier, which generates no text"),
        ("trainer.profiler={active: 0}", "active and repeat must be at least 1"),
    ],
)
def test_mistakes(given: str, said: str, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        run(tiny_folder, tmp_path / "run", *given.split(" ", given.startswith("trainer=")))
