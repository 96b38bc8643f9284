"""Subclasses of transformers.Trainer as others wrote them, for older versions too."""

from pathlib import Path
from typing import Any

import pytest

from unteach import cli, plugins
from unteach.training.foreign_trainers import NEWER_METHODS, _drop_num_items, _takes_num_items

OLD = """
import transformers

class Old(transformers.Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        {body}
"""


class Older:
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        return ("loss", inputs) if return_outputs else "loss"

    def training_step(self, model: Any, inputs: Any) -> str:
        return f"step on {inputs}"


class Newer(Older):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **given: Any
    ) -> Any:
        return given


def test_what_has_no_place_for_the_number_of_items_is_called_without_it() -> None:
    assert [_takes_num_items(getattr(Older, name)) for name in NEWER_METHODS] == [False, False]
    assert _takes_num_items(Newer.compute_loss)
    loss = _drop_num_items(Older.compute_loss)
    assert loss(Older(), None, 1, num_items_in_batch=3) == "loss"
    assert loss(Older(), None, 1, return_outputs=True, num_items_in_batch=3) == ("loss", 1)
    assert _drop_num_items(Older.training_step)(Older(), None, 1, 3) == "step on 1"


def command(folder: Path, model: Path) -> list[str]:
    for name, row in (("gone", "Who?,Ann."), ("kept", "When?,Now.")):
        (folder / f"{name}.csv").write_text(f"question,answer\n{row}\n")
    words = [
        f"forget={folder / 'gone.csv'}",
        f"retain={folder / 'kept.csv'}",
        f"model={model}",
        "task_name=old",
    ]
    words += [
        f"plugins=[{folder / 'old.py'}]",
        "trainer.handler=Old",
        "trainer.method_args=null",
        "eval=null",
    ]
    words += [
        f"paths.output_dir={folder / 'run'}",
        "trainer.args.max_steps=1",
        "trainer.args.save_strategy=no",
    ]
    return ["unlearn", *words]


def test_openunlearnings_signature_trains(tmp_path: Path, tiny_folder: Path) -> None:
    body = (
        'return -model(**{k: inputs["forget"][k] for k in ("input_ids", "attention_mask", '
        '"labels")}).loss'
    )
    (tmp_path / "old.py").write_text(OLD.format(body=body))
    plugins.load_file.cache_clear()
    cli.main(command(tmp_path, tiny_folder))
    assert (tmp_path / "run" / "DONE.json").exists()


def test_an_error_of_a_plugin_is_the_plugins_with_its_line(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.py").write_text(OLD.format(body='return inputs["adaptive_coefficient"]'))
    plugins.load_file.cache_clear()
    with pytest.raises(SystemExit) as ended:
        cli.main(command(tmp_path, tiny_folder))
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert "old.py, line 6: KeyError: 'adaptive_coefficient'" in said and "bug" not in said
