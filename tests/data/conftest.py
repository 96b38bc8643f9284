"""Templates of the tiny model's tokenizer, with and without a chat template."""

from pathlib import Path

import pytest

from tests.data.test_template import CHATML
from unteach.data.template import Template


@pytest.fixture
def template(tiny_folder: Path) -> Template:
    import transformers

    return Template(transformers.AutoTokenizer.from_pretrained(tiny_folder))


@pytest.fixture
def chat(tiny_folder: Path) -> Template:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return Template(tokenizer)
