"""`unteach fetch`: what others published lands whole, or the reason is said."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.verbs.start import start


def test_corpora_land_as_json_lines_and_a_gated_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    def published(repository: str, config: str | None, split: str) -> Any:
        if "bio-forget" in repository:
            raise ConnectionError("401: this dataset is gated")
        return datasets.Dataset.from_list([{"text": f"{config} {i}"} for i in range(3)])

    monkeypatch.setattr(datasets, "load_dataset", published)
    start("fetch", ["wmdp", f"to={tmp_path}"])
    said = capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "bio-retain-corpus.jsonl",
        "cyber-forget-corpus.jsonl",
        "cyber-retain-corpus.jsonl",
    ]
    rows = [
        json.loads(line)
        for line in (tmp_path / "cyber-forget-corpus.jsonl").read_text().splitlines()
    ]
    assert rows[0]["text"] == "cyber-forget-corpus 0"
    assert "gated" in said and "hf auth login" in said
    start("fetch", ["wmdp", f"to={tmp_path}"])
    assert "there already" in capsys.readouterr().out


def test_without_the_network_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"open-unlearning/eval.*hf auth login"):
        start("fetch", ["retain-logs", f"to={tmp_path}"])
    with pytest.raises(UserError, match="nothing could be fetched"):
        start("fetch", ["wmdp", f"to={tmp_path / 'wmdp'}"])


@dataclass(frozen=True)
class Hub:
    """What the hub's library does: lists what is published, and brings some of it, without a word
    about the rest."""

    published: tuple[str, ...]
    arriving: tuple[str, ...]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        files = [SimpleNamespace(rfilename=name) for name in (*self.published, "README.md")]
        info = SimpleNamespace(sha="0" * 40, siblings=files)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def download(self, name: str, local_dir: Path, **_: Any) -> str:
        for file in self.arriving:
            (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
            (local_dir / file).write_text("{}")
        return str(local_dir)


LOGS = ("tofu_retain90/TOFU_EVAL.json", "tofu_retain95/TOFU_EVAL.json")


def test_logs_are_counted_when_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Hub(LOGS, arriving=LOGS).install(monkeypatch)
    start("fetch", ["retain-logs", f"to={tmp_path}"])
    assert "logs: 2 fetched, 0 there already" in capsys.readouterr().out
    start("fetch", ["retain-logs", f"to={tmp_path}"])
    assert "logs: 0 fetched, 2 there already" in capsys.readouterr().out


@pytest.mark.parametrize("arriving", [(), LOGS[:1]])
def test_a_download_that_brought_nothing_is_no_success(
    arriving: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's library returns a folder that holds anything, where the hub does not answer."""
    (tmp_path / "mine.json").write_text("{}")
    Hub(LOGS, arriving).install(monkeypatch)
    with pytest.raises(UserError, match=rf"{2 - len(arriving)} of the 2 logs .* did not arrive"):
        start("fetch", ["retain-logs", f"to={tmp_path}"])


def test_a_folder_with_something_else_in_it_is_no_download(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}")
    with pytest.raises(UserError, match="cannot fetch open-unlearning/eval"):
        start("fetch", ["retain-logs", f"to={tmp_path}"])
    with pytest.raises(UserError, match="nothing could be fetched"):
        start("fetch", ["wmdp", f"to={tmp_path}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Allowed: retain-logs, wmdp"),
        (["wmpd"], "did you mean wmdp"),
        (["wmdp", "too=x"], "did you mean to"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        start("fetch", words)
