"""A request to forget, killed at any moment, ends as if nothing had happened."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import read_rows
from tests.recovery import kills
from unteach.verbs.start import start

WORDS = (
    "forget gone.jsonl model=MODEL retain=kept.jsonl holdout=unseen.jsonl template=qa "
    "paths.cache_dir=cache task_name=r method=NPO budget=3 trainer.args.max_steps=12 "
    "trainer.args.learning_rate=3e-3 audit.only=[rank,clean]"
)

TRAIN_WORDS = (
    "data=taught.jsonl task_name=r template=qa paths.cache_dir=cache "
    "trainer.args.num_train_epochs=25 trainer.args.learning_rate=3e-3 "
    "trainer.args.lr_scheduler_type=constant trainer.args.per_device_train_batch_size=8 eval=null"
)
EXACT_WORDS = (
    "forget gone.jsonl model=saves/train/r exact=yes template=qa paths.cache_dir=cache "
    "task_name=r audit.only=[rank,clean]"
)


class RequestKitchen(kills.Kitchen):
    """A folder with the rows of a request, which the model knows."""

    kit: Path

    def lay_out(self) -> None:
        super().lay_out()
        for name, source in (("gone", "forget10"), ("kept", "retain90"), ("unseen", "holdout10")):
            rows = read_rows(self.kit / "data" / f"{source}.jsonl")[:9]
            lines = [json.dumps({key: row[key] for key in ("question", "answer")}) for row in rows]
            (self.place / f"{name}.jsonl").write_text("\n".join(lines))


class ExactKitchen(kills.Kitchen):
    """A folder with rows and a run that was taught them."""

    taught: Path

    def lay_out(self) -> None:
        super().lay_out()
        shutil.copytree(self.taught, self.place, dirs_exist_ok=True)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_anywhere_it_ends_the_same(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    monkeypatch.setitem(kills.COMMANDS, "forget", WORDS)
    kills.warm_up()
    kitchen = RequestKitchen(tmp_path / "kitchen", kit / "reference")
    kitchen.kit = kit
    ledger = tmp_path / "ledger.jsonl"
    made = kills.try_verb(kitchen, "forget", ledger, moments=8, most=8, every=40)
    assert len(made) >= 6
    assert not [line for line in made if not kills.is_good(line)]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_anywhere_the_exact_way_ends_the_same(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTEACH_REDACTION_KEY", "k" * 32)
    monkeypatch.setitem(kills.COMMANDS, "forget", EXACT_WORDS)
    taught = tmp_path / "taught"
    taught.mkdir()
    rows = read_rows(kit / "data/forget10.jsonl")[:16]
    lines = [json.dumps({key: row[key] for key in ("question", "answer")}) for row in rows]
    (taught / "taught.jsonl").write_text("\n".join(lines))
    (taught / "gone.jsonl").write_text("\n".join(lines[:8]))
    with monkeypatch.context() as inside:
        inside.chdir(taught)
        start("train", [f"model={kit / 'retain'}", *TRAIN_WORDS.split()])

    kills.warm_up()
    kitchen = ExactKitchen(tmp_path / "kitchen", kit / "retain")
    kitchen.taught = taught
    made = kills.try_verb(kitchen, "forget", tmp_path / "ledger.jsonl", moments=8, most=8, every=40)
    assert len(made) >= 6
    assert not [line for line in made if not kills.is_good(line)]
