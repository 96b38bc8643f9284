"""What a checkpoint lacks is an error when a run goes on from it; what is tied to other weights is
not lacking."""

from types import SimpleNamespace
from typing import Any

import pytest

from unteach.errors import UserError
from unteach.training.resumable import Resumable


def load(missing: list[str], unexpected: list[str], capfd: Any) -> str:
    """What is printed of a checkpoint that a model with a tied head was loaded from."""
    model = SimpleNamespace(all_tied_weights_keys={"lm_head.weight": "model.embed_tokens.weight"})
    result = SimpleNamespace(missing_keys=missing, unexpected_keys=unexpected)
    Resumable._issue_warnings_after_load(SimpleNamespace(model=model), result)  # type: ignore[arg-type]
    printed = capfd.readouterr()
    return str(printed.out + printed.err)


def test_a_tied_head_is_not_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert load(["lm_head.weight"], [], capfd) == ""


def test_weights_that_are_missing_or_too_many_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"the checkpoint lacks the weights model\.norm\.weight: it is damaged"
    ):
        load(["lm_head.weight", "model.norm.weight"], [], capfd)
    with pytest.raises(
        UserError, match=r"has, beside this model's, the weights a, b, c and 1 more"
    ):
        load([], ["a", "b", "c", "d"], capfd)
