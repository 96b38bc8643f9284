"""Writes docs/architectures.md: what each decoder family of the installed transformers can do here,
each tried.

python -m tests.architectures.make_page [FAMILY …]

With names only those rows are tried again, and the others stay as the page has them; so a run that
was stopped goes on.
"""

import contextlib
import io
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import transformers

from tests.architectures.checks import CHECKS, try_family
from tests.architectures.tiny import NO_DECODERS, decoders
from unteach.errors import get_first_line

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
SECONDS = 240
HEAD = f"""\
# Architectures

Which families of language models work here, and how. Each line was tried on a tiny random model of the family, whose numbers were compared with those of
the library's own code, one row at a time, on a CPU in fp32 with the library's own attention. `make test-architectures` writes this page (transformers
{transformers.__version__}); `make test-architectures ARGS="llama gpt_oss"` tries some rows again.

Every model that you load is tried in the same way, whatever its family: its logits, padded rows, rows
laid end to end, and text that goes on after other rows have ended, in three passes of 28 tokens and one of a single
token. If all of it holds, that is remembered in `~/.cache/unteach/capabilities/` for its configuration, the versions of transformers and torch, its attention and its
dtype. *Right* means within 1e-4 in fp32, and 2e-2 in half precision.

| | |
|---|---|
| right | as the library's own code has it, in the usual way |
| slower | the same result in a slower way: padded rows or the documents of a packed row go through the layers one by one, answers to one prompt have a row each, continuations are made one at a time |
| refused | a message by name before any work, in the words below the table |
| wrong, crash | neither; there should be none |

`train` is the loss and the gradient's norm of SFT, `NPO` its loss, `RMU` its loss at the second layer, `layer names`
what `layers.1` and `layers.25%` mean, `modules` what the first layer gets and what it and its MLP give, `LoRA` the scores
under an adapter on all linear layers, `merge` those of the merged model when it is loaded again, `packing`
`data.packing=best_fit`, `evaluation` several answers to one prompt, `greedy text` continuations of rows of unequal
lengths. `model.packed=true` is refused where `packing` is slower.
"""
Results = dict[str, dict[str, str]]
"""What became of each capability, or under `built` why no tiny model could be made, by family."""


def read_page() -> Results:
    """Read the rows that the page has, with what it says below the table."""
    results: Results = {}
    if not PAGE.exists():
        return results
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and line.count("|") == len(CHECKS) + 2:
            family, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            results[family.strip("`")] = dict(zip(CHECKS, cells, strict=True))
        elif line.startswith("- `"):
            family, name, said = (
                line.removeprefix("- `").split("`, ", 1)[0],
                *line.split("`, ", 1)[1].split(": ", 1),
            )
            if name == "built":
                results[family] = {name: said}
            else:
                for column in name.split(" and "):
                    results[family][column] = said
    return results


def write_page(results: Results) -> None:
    names = [name for name in decoders() if name in results and "built" not in results[name]]
    columns = list(CHECKS)
    lines = [HEAD, f"| family | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| `{name}` | {' | '.join(_word(results[name][column]) for column in columns)} |"
        for name in names
    ]
    lines += ["", "## What is refused", ""]
    for name in names:
        by_message: dict[str, list[str]] = {}
        for column in columns:
            if ": " in results[name][column]:
                by_message.setdefault(results[name][column], []).append(column)
        lines += [
            f"- `{name}`, {' and '.join(found)}: {message}" for message, found in by_message.items()
        ]
    lines += ["", "## What is not tried", ""]
    lines += [
        f"- `{name}`, built: {result['built']}"
        for name, result in sorted(results.items())
        if "built" in result
    ]
    for reason, families in NO_DECODERS.items():
        lines += [
            "",
            f"Left out, because they are {reason}: "
            f"{', '.join(f'`{name}`' for name in families.split())}.",
        ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _word(result: str) -> str:
    return result.split(":")[0]


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"over {SECONDS} s")


def main(families: list[str]) -> int:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    signal.signal(signal.SIGALRM, _too_long)
    results = read_page()
    failed = 0
    for family in families or decoders():
        with tempfile.TemporaryDirectory() as folder:
            signal.alarm(SECONDS)
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # its notes stand in the table
                    results[family] = try_family(family, Path(folder))
            except Exception as error:  # what a family may do is what the page is about
                reason = f"{type(error).__name__}: {get_first_line(error)}"
                results[family] = {"built": f"no tiny model of it could be made ({reason})"}
            finally:
                signal.alarm(0)
        bad = {
            name: said
            for name, said in results[family].items()
            if _word(said) in ("wrong", "crash")
        }
        failed += bool(bad)
        print(family, *(_word(said) for said in results[family].values()), bad or "", flush=True)
        write_page(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
