"""The script of docs/statement.md checks a statement by securesystemslib alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unteach.audits.signing_keys import load_signer
from unteach.audits.statement import build_statement, write_statement
from unteach.audits.subjects import list_subjects

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statement.md"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    match = re.search(r"```python title=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match is not None
    path = tmp_path / match[1]
    path.write_text(match[2])
    assert "unteach." not in match[2].replace("unteach.dev", "")
    return path


def run_script(
    script: Path, statement: Path, model: Path, key: Path
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", str(script), str(statement), str(model), str(key)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_script_of_the_page_checks_files_and_signature(
    script: Path, model: Path, sign_key: Path, public_key: Path, tmp_path: Path
) -> None:
    statement = tmp_path / "statement.json"
    payload = build_statement(list_subjects(str(model)), {"worst_leak": 0.05})
    write_statement(statement, payload, load_signer(sign_key))
    done = run_script(script, statement, model, public_key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as audited") == 8 and '"worst_leak": 0.05' in done.stdout

    (model / "config.json").write_text("[]")
    assert "CHANGED config.json" in run_script(script, statement, model, public_key).stdout

    write_statement(statement, payload)
    done = run_script(script, statement, model, public_key)
    assert done.returncode == 1 and "VerificationError" in done.stderr
