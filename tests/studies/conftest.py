"""ARC's four layers, as its repository lays them out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = {
    "combinations": {
        "data_config": ["tenth"],
        "train_config": ["long", "short"],
        "forget_config": [["ascent", "short"], ["kl", "long"]],
        "seed": [3, 4],
    },
    "model_config": "small",
    "full_data_config": "all",
    "use_bask": True,
    "bask": {"walltime": "0-6:0:0", "gpu_number": 1, "node_number": 1},
}
MODEL = {
    "model_id": "gpt2",
    "model_kwargs": {"device_map": "auto"},
    "add_padding_token": True,
    "qa_formatter_kwargs": {
        "question_template": "{question}",
        "answer_template": " {answer}<|endoftext|>",
    },
}
LONG = {
    "trainer_kwargs": {
        "per_device_train_batch_size": 16,
        "learning_rate": "5e-5",
        "num_train_epochs": 25,
        "eval_strategy": "steps",
        "eval_steps": 0.5,
        "logging_steps": 0.2,
        "save_strategy": "epoch",
        "output_dir": "output",
    }
}


class ArcConfigs:
    """A folder of ARC's configurations; every file may be changed before the study is read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.top = folder / "experiment" / "mine.yaml"
        self.write("experiment/mine.yaml", TOP)
        self.write("model/small/small.yaml", MODEL)
        self.write("model/small/hyperparameters/long.yaml", LONG)
        self.write(
            "model/small/hyperparameters/short.yaml", {"trainer_kwargs": {"num_train_epochs": 5}}
        )
        self.write(
            "data/all.yaml",
            {"dataset_name": "tofu", "data_kwargs": {"forgotten_author_fraction": 0.0}},
        )
        self.write(
            "data/tenth.yaml",
            {"dataset_name": "unteach", "data_kwargs": {"forget_split": "forget10"}},
        )

    def write(self, name: str, value: Any) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(value, sort_keys=False))


@pytest.fixture
def arc_configs(tmp_path: Path) -> ArcConfigs:
    return ArcConfigs(tmp_path / "configs")
