"""Questions and answers from a tab-separated file."""

import csv
from pathlib import Path
from typing import Any

from unteach.data.examples import build_example
from unteach.errors import UserError
from unteach.registry import dataset


@dataset
class TSVDataset:
    """A file of `question<TAB>answer` lines; the loss is on the answer. `template` is handed over
    by unteach."""

    def __init__(self, template: Any, path: str, max_length: int = 512):
        if not Path(path).is_file():
            raise UserError(f"TSVDataset: there is no file {path}")
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t"))
        encoded = [
            template.encode(question, answer, max_length=max_length) for question, answer in rows
        ]
        self.examples = [build_example(one, index) for index, one in enumerate(encoded)]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.examples[row]
