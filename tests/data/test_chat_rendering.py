"""A chat template of others ends, or is refused with a message."""

import signal
from pathlib import Path
from typing import Any

import pytest
import transformers

from unteach.data import chat_rendering
from unteach.data.template import Template
from unteach.errors import UserError

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
    "text": "{% for i in range(99999) %}{% for j in range(999) %}{{ messages[0]['content'] }}{% "
    "endfor %}{% endfor %}",
}
FAULTY = {
    "power": ("{{ 10 ** (10 ** 9) }}", "computes a power"),
    "no index": ("{{ messages[7]['content'] + 'x' }}", "cannot show this conversation"),
    "kinds": ("{{ messages + 5 }}", "fails on a conversation"),
    "zero": ("{{ 1 / 0 }}", "fails on a conversation"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on a conversation"),
    "escape": ("{{ ''.__class__.__mro__ }}", "cannot show this conversation"),
}


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_stopped(
    name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_rendering, "LONGEST", 0.2)
    tokenizer.chat_template = ENDLESS[name]
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with pytest.raises(UserError, match=r"not done with one conversation after 0\.2 s"):
        Template(tokenizer).write_prompt("hi")
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0) == before


@pytest.mark.parametrize("name", FAULTY)
def test_a_template_that_fails_is_a_message(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template, said = FAULTY[name]
    with pytest.raises(UserError, match=said):
        Template(tokenizer).write_prompt("hi")


def test_arguments_may_be_spread() -> None:
    chat_rendering.refuse_powers("{{ f(**kwargs) }}{{ f(a, ** kwargs) }} and 2 ** 3 in the text")
    for text in ("{{ a**b }}", "{% set x = (1) ** 2 %}"):
        with pytest.raises(UserError, match="power"):
            chat_rendering.refuse_powers({"default": text})
