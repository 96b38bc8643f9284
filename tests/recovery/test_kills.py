"""Commands killed before calls that change files, and at random moments: `kills` tries them all,
here are some."""

from pathlib import Path

import pytest

from tests.recovery import kills


@pytest.fixture
def kitchen(tiny_folder: Path, tmp_path: Path) -> kills.Kitchen:
    kills.warm_up()
    return kills.Kitchen(tmp_path / "kitchen", tiny_folder)


def test_tokens_killed_while_they_are_put_in_their_place(
    kitchen: kills.Kitchen, tmp_path: Path
) -> None:
    """From the last shard on to the end: nothing is ever moved out of the only folder that has
    it."""
    kitchen.lay_out()
    words = kitchen.words("tokenize")
    whole = kitchen.carry_out(words)
    assert whole.code == 0, whole.said
    expected = kitchen.outcome()
    for number in range(whole.calls - 9, whole.calls + 1, 2):
        kitchen.lay_out()
        assert kitchen.carry_out(words, kill_before=number).code == -9
        again = kitchen.carry_out(words)
        assert again.code == 0, again.said
        assert (kitchen.outcome(), kitchen.strays()) == (expected, []), (
            f"killed before call {number}"
        )


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", kills.COMMANDS)
def test_killed_anywhere_it_ends_the_same(
    kitchen: kills.Kitchen, tmp_path: Path, verb: str
) -> None:
    """Sixty kills in all; `python -m tests.recovery.kills` makes more of them."""
    if verb == "report":
        kitchen.run = kills.make_run(kitchen)
    ledger, most = tmp_path / "ledger.jsonl", 6 if verb in ("train", "study", "report") else 7
    made = kills.try_verb(kitchen, verb, ledger, moments=most, most=most, every=11)
    assert len(made) >= 3
    assert not [line for line in made if not kills.is_good(line)]
