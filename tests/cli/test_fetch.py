"""`unteach fetch`: what others published lands whole, or the reason is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.verbs import fetch


def test_corpora_land_as_json_lines_and_a_gated_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    def published(repository: str, config: str | None, split: str) -> Any:
        if "bio-forget" in repository:
            raise ConnectionError("401: this dataset is gated")
        return datasets.Dataset.from_list([{"text": f"{config} {i}"} for i in range(3)])

    monkeypatch.setattr(datasets, "load_dataset", published)
    fetch.command(["wmdp", f"to={tmp_path}"])
    said = capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "bio-retain-corpus.jsonl", "cyber-forget-corpus.jsonl", "cyber-retain-corpus.jsonl",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "cyber-forget-corpus.jsonl").read_text().splitlines()]
    assert rows[0]["text"] == "cyber-forget-corpus 0"
    assert "gated" in said and "hf auth login" in said
    fetch.command(["wmdp", f"to={tmp_path}"])
    assert "there already" in capsys.readouterr().out


def test_without_the_network_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"open-unlearning/eval.*hf auth login"):
        fetch.command(["retain-logs", f"to={tmp_path}"])
    with pytest.raises(UserError, match="nothing could be fetched"):
        fetch.command(["wmdp", f"to={tmp_path / 'wmdp'}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "Allowed: retain-logs, wmdp"), (["wmpd"], "did you mean wmdp"), (["wmdp", "too=x"], "did you mean to")],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fetch.command(words)
