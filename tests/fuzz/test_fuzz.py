"""No file and no command line ends in a traceback, a signal or never: 500 of them, in forked
children."""

import pytest

from tests.fuzz import run

FILES, COMMANDS = 350, 150


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_file_is_a_bug() -> None:
    ledger = run.run("files", 0, FILES)
    assert sum(ledger.ended.values()) == FILES
    assert not ledger.faults
    assert ledger.ended[0] > FILES // 10 and ledger.ended[2] > FILES // 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_command_line_is_a_bug() -> None:
    ledger = run.run("commands", 0, COMMANDS)
    assert sum(ledger.ended.values()) == COMMANDS
    assert not ledger.faults
    assert ledger.ended[0] and ledger.ended[2] > COMMANDS // 4
