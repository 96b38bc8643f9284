"""Compare unteach with a file of reference values: `python tests/parity/values.py FILE KIT`.

FILE has the form of losses_2.json or audit_values.json, KIT is the folder of models and rows that its values were
computed on. Prints a line a value, then what unteach does not offer, and last how many values are
equal and the greatest difference (relative, but absolute where a file says so). The exit code is 1 where a value differs, 2 where the
two paths are not given.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit_values import compare_leak_at_k, compare_logit_lens, compare_quantise, compare_uds
from comparison import Compared, NotOffered, Outcomes, Reference
from decode_values import compare_decode
from dual_optim_values import compare_dual_optim
from edit_values import compare_edits
from method_values import compare_formulas, compare_goldens
from perturb_values import compare_latent, compare_perturb
from surgery_values import compare_surgery

BLOCKS: dict[str, Callable[[Reference, Any], Outcomes]] = {
    "goldens": compare_goldens,
    "formula_only": compare_formulas,
    "surgery": compare_surgery,
    "perturb": compare_perturb,
    "latent": compare_latent,
    "dual_optim": compare_dual_optim,
    "decode": compare_decode,
    "edits": compare_edits,
    "uds": compare_uds,
    "logit_lens": compare_logit_lens,
    "leak_at_k": compare_leak_at_k,
    "quantise": compare_quantise,
}
"""What compares each block of a file."""
ABOUT = {"rows", "template", "versions", "other_answers", "batches", "compare"}
"""Keys that say what the values are, and hold none."""


def compare_file(file: Path, kit: Path) -> dict[str, list[Compared | NotOffered]]:
    """Compare every block of a file; a block that nothing compares is not offered."""
    reference = Reference(json.loads(file.read_text(encoding="utf-8")), kit)
    outcomes: dict[str, list[Compared | NotOffered]] = {}
    for name, block in reference.values.items():
        if name in BLOCKS:
            outcomes[name] = list(BLOCKS[name](reference, block))
        elif name not in ABOUT:
            outcomes[name] = [NotOffered("the whole block", "unteach has nothing of it yet")]
    return outcomes


def print_outcomes(outcomes: dict[str, list[Compared | NotOffered]]) -> bool:
    """Print all of them; returns whether every value that is offered is equal."""
    compared: list[tuple[str, Compared]] = []
    for block, found in outcomes.items():
        for outcome in found:
            if isinstance(outcome, Compared):
                verdict = "equal" if outcome.is_equal else "DIFFERS"
                print(f"{block}: {outcome.name}: {outcome.difference:.1e} {verdict}")
                compared.append((block, outcome))
    for block, found in outcomes.items():
        for outcome in found:
            if isinstance(outcome, NotOffered):
                print(f"not offered: {block}: {outcome.name} ({outcome.reason})")
    num_equal = sum(outcome.is_equal for _, outcome in compared)
    if not compared:
        print("0 of 0 values equal")
        return False
    block, worst = max(compared, key=lambda pair: pair[1].difference)
    print(
        f"{num_equal} of {len(compared)} values equal, worst difference "
        f"{worst.difference:.1e} ({block}: {worst.name})"
    )
    return num_equal == len(compared)


def main(words: list[str]) -> int:
    if len(words) != 2:
        print("usage: python tests/parity/values.py FILE KIT", file=sys.stderr)
        return 2
    file, kit = map(Path, words)
    return 0 if print_outcomes(compare_file(file, kit)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
