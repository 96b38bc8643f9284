"""The benchmarks run, and the two ways that each of them compares say the same."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def said(script: str, *words: str) -> str:
    """What the script prints; each in a process of its own, which is how they are run and how they
    fork."""
    given = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, FOLDER / script, *words], capture_output=True, text=True, env=given
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.long
def test_every_method_costs_what_it_costs_for_the_same_loss(tiny_folder: Path) -> None:
    printed = said("methods.py", f"model={tiny_folder}", "batch=2", "length=32", "steps=1")
    numbers = [
        re.findall(r"\| ([\d.]+)(?= )", line)
        for line in printed.splitlines()
        if line.startswith("| ")
    ][1:]
    assert len(numbers) == 11
    assert all(len(row) == 6 and all(float(number) > 0 for number in row) for row in numbers)
    assert float(re.search(r"gradient norm: (\S+)", printed)[1]) < 1e-4


@pytest.mark.long
def test_surgery_and_sam_give_the_plain_ways_gradients() -> None:
    printed = said("surgery.py", "layers=2", "width=64", "vocab=500", "length=32", "steps=1")
    rows = [line for line in printed.splitlines() if re.match(r"\| (neither|pcgrad|SAM)", line)]
    assert len(rows) == 4
    assert float(re.search(r"difference of a gradient: (\S+)", printed)[1]) < 1e-4


@pytest.mark.long
def test_shared_passes_give_the_values_of_one_pass_a_metric(tiny_folder: Path) -> None:
    printed = said("evaluation.py", f"model={tiny_folder}", "max_new_tokens=4")
    assert "| scoring |" in printed and "| generation |" in printed
    assert float(re.search(r"largest difference of a value: (\S+)", printed)[1]) < 1e-5


@pytest.mark.long
def test_three_ways_of_asking_say_the_same(tiny_folder: Path) -> None:
    printed = said(
        "inference.py",
        f"model={tiny_folder}",
        "rows=6",
        "max_new_tokens=8",
        "rounds=1",
        "batches=[4]",
    )
    assert re.findall(r"rows whose text differs from ours, (\w+): (\d+)", printed) == [
        ("plain", "0"),
        ("pipeline", "0"),
    ]


@pytest.mark.long
def test_three_ways_of_generating_give_the_same_tokens(tiny_folder: Path) -> None:
    printed = said(
        "generation.py",
        f"model={tiny_folder}",
        "rows=6",
        "max_new_tokens=8",
        "rounds=1",
        "batches=[4]",
    )
    apart = re.findall(r"rows whose text differs from ours, (\w+): (\d+)", printed)
    assert apart == [("sorted", "0"), ("library", "0")]


@pytest.mark.long
def test_an_audit_from_one_plan_finds_what_its_attacks_find_one_by_one(tiny_folder: Path) -> None:
    printed = said("audit.py", f"model={tiny_folder}", "facts=8")
    different, compared = re.search(r"findings that differ: (\d+) of (\d+)", printed).groups()
    assert different == "0" and int(compared) > 50
    for command in ("suite rows", "audit=quick", "audit=standard, no training"):
        assert f"| {command} |" in printed


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_unteach_is_there(script: Path) -> None:
    """They are run by hand, so that nothing else would tell of a name that was changed."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("unteach"):
            exec(ast.unparse(node), {})  # raises ImportError where a name is gone
