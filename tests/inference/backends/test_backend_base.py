"""What all backends share: which options are asked for, which cannot be, and where a text is
cut."""

import pytest

from unteach.config.inference import Sampling
from unteach.errors import UserError
from unteach.inference.backends.base import cut, perplexity


def test_options_that_are_asked_for() -> None:
    assert Sampling().list_changed() == {}
    assert Sampling(temperature=0.7).list_changed() == {"temperature": 0.7, "do_sample": True}
    assert Sampling(do_sample=False).drawn is False
    assert Sampling(do_sample=True, num_return_sequences=3).drawn


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"top_p": 1.5}, "top_p must be"),
        ({"do_sample": False, "top_k": 5}, "top_k says how tokens are drawn"),
        ({"num_return_sequences": 2}, "one text 2 times"),
        ({"num_beams": 2, "do_sample": True}, "num_beams searches"),
        ({"stop_strings": [""]}, "empty texts"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sampling(**given)  # type: ignore[arg-type]


def test_a_cut_keeps_the_tokens_that_begin_before_it() -> None:
    pieces = ["ab", "cd", "ef", "gh"]

    def decode(ids: object) -> str:
        return "".join(pieces[i] for i in ids)  # type: ignore[attr-defined]

    whole = cut(range(4), decode, ["zz"])
    assert (whole.text, whole.tokens, whole.stopped) == ("abcdefgh", 4, False)
    inside = cut(range(4), decode, ["gh", "de"])
    assert (inside.text, inside.tokens, inside.stopped) == ("abc", 2, True)
    at_once = cut(range(4), decode, ["ab"])
    assert (at_once.text, at_once.tokens, at_once.stopped) == ("", 0, True)


def test_perplexity() -> None:
    assert perplexity([-1.0, -3.0]) == pytest.approx(7.389, abs=1e-3)
    assert perplexity([]) is None
