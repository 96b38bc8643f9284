"""How the package's code reads, where a number says it: none of these may grow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unteach

SOURCE = Path(unteach.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def list_functions() -> Iterator[tuple[Path, Function]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield path, node


def list_parameters(function: Function) -> Iterator[ast.arg]:
    arguments = function.args
    yield from arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    for argument in (arguments.vararg, arguments.kwarg):
        if argument is not None:
            yield argument


def test_any_is_the_whole_type_of_few_parameters() -> None:
    """Between rooms there is a type; what may be anything is an `object`."""
    untyped = []
    for path, function in list_functions():
        for parameter in list_parameters(function):
            if parameter.annotation is not None and ast.unparse(parameter.annotation) == "Any":
                untyped.append(f"{path.name}: {function.name}({parameter.arg})")
    assert len(untyped) <= 40, untyped


def test_no_name_stands_for_any() -> None:
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                assert ast.unparse(node.value) != "Any", f"{path.name}: {ast.unparse(node)}"


def test_imports_stand_at_the_top() -> None:
    """But for optional packages, and where a comment names the start-up cost."""
    late = set()
    for path, function in list_functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                late.add(f"{path.name}: {ast.unparse(node)} in {function.name}")
    assert len(late) <= 60, sorted(late)


def test_functions_and_files_are_one_idea_long() -> None:
    long = [
        f"{path.name}: {function.name}"
        for path, function in list_functions()
        if function.end_lineno and function.end_lineno - function.lineno >= 60
    ]
    long += [path.name for path in FILES if len(path.read_text("utf-8").splitlines()) > 400]
    assert not long


@pytest.mark.parametrize("mark", ["fmt: skip", "fmt: off"])
def test_the_formatter_is_switched_off_nowhere(mark: str) -> None:
    assert not [path.name for path in FILES if mark in path.read_text(encoding="utf-8")]
