"""Words of OpenUnlearning's command line that mean nothing here, and what to write instead.

docs/coming-from-openunlearning.md has them all, with those that work as they are.
"""

import re

LEAVE_OUT = "leave it out"
KEYS = {
    r"paths\.(root|data)_dir": "a corpus is named by tofu_path, muse_path or wmdp_path, and output "
    "by paths.output_dir",
    r"paths\.datasets": "--config-dir FOLDER adds configurations",
    r"paths\.work_dir": f"a run never changes the working folder; {LEAVE_OUT}",
    r"data\.eval": f"eval= says what is measured; {LEAVE_OUT}",
    r"data\.\w+\.\w+\.access_key": f"there are no pairs to tell apart; {LEAVE_OUT}",
    r"data\.\w+\.(TOFU|MUSE|WMDP)_\w+\.args\.predict_with_generate": f"suites ask the questions; "
    f"{LEAVE_OUT}",
    r"eval/\w+_metrics": "write eval.<suite>.metrics=[NAME,NAME], default or all",
    r"eval\.muse\.data_split": "write data_split=…",
    r"eval\.\w+\.handler": f"there is one evaluator; {LEAVE_OUT}",
    r"eval\.\w+\.output_dir": "write paths.output_dir=…",
    r"eval\.\w+\.overwrite": f"measurements are found by weights, rows, settings: none is stale; "
    f"{LEAVE_OUT}",
    r"eval\.\w+\.samples": "write eval.<suite>.max_rows=…: so many rows of each set, drawn by the "
    "seed",
    r"eval\.\w+\.metrics\.\w+": "write eval.<suite>.metrics=[NAME,NAME] without it",
    r"eval\.\w+\.metrics\.\w+\.batch_size": "write eval.<suite>.batch_size=…",
    r"eval\.\w+\.metrics\.\w+\.generation_args\.\w+": (
        "write max_new_tokens=…, or eval.<suite>.rows.<rows>.generation.max_new_tokens=…; texts "
        "are always greedy"
    ),
    r"eval\.\w+\.metrics\.\w+\.reference_model_path": "write eval.<suite>.reference_model_path=…",
}
"""A pattern of a whole key -> what to write instead."""
CHOICES = {
    r"(TOFU|MUSE)_MIA\w*|MUSE_\w+_(knowmem|verbmem)": (
        "these rows belong to the suites: eval.tofu.rows.mia_forget, mia_holdout, eval.muse.rows.…"
    ),
    r"DataCollatorForSupervisedDatasetwithIndex": f"every row keeps its number; {LEAVE_OUT}",
    r"examples/\w+": "unteach check … --print shows any composed configuration",
}
"""A pattern of the name of a file of theirs that is not here -> what to do instead."""


def find_refusal(key: str, value: object) -> str | None:
    """Say what to write in place of one of their words; None where it is none of these.

    Args:
        key: the word's left side, without `+` or `~`.
        value: its right side; None where there is none.
    """
    if key == "data.eval" and value is None:
        return None
    return next((mend for pattern, mend in KEYS.items() if re.fullmatch(pattern, key)), None)


def find_choice(name: str) -> str | None:
    """Say what to do in place of choosing a file of theirs that nobody has here."""
    return next((mend for pattern, mend in CHOICES.items() if re.fullmatch(pattern, name)), None)
