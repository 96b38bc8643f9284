"""A study of twenty small runs on the authors world, as a file."""

from pathlib import Path

import yaml

WORDS = [
    "eval.tofu.metrics=[forget_Q_A_Prob]",
    "eval.tofu.batch_size=64",
    "trainer.args.learning_rate=1e-3",
]


def write(folder: Path, model: Path, steps: int) -> Path:
    """The file of the study `twenty`: 2 seeds of full, retain and 8 forget runs, each of a few
    steps from `model`."""
    named = {
        f"model.{part}.pretrained_model_name_or_path": str(model)
        for part in ("model_args", "tokenizer_args")
    }
    short = {
        "trainer.args.max_steps": steps,
        "trainer.args.save_steps": 2,
        "trainer.args.logging_steps": 1,
    }
    taught = {"model": "auto", "template": "qa", "data.train": "TOFU_QA_retain", **named, **short}
    forget = {"template": "qa", **short}
    study = {
        "name": "twenty",
        "full": {"experiment": "finetune/authors/default", **taught, "data.train": "TOFU_QA_full"},
        "retain": {"experiment": "finetune/authors/retain", **taught},
        "forget": [
            {"trainer": "GradAscent", **forget},
            {"trainer": "GradDiff", **forget},
            {"trainer": "NPO", **forget, "vary": {"trainer.method_args.beta": [0.1, 0.5, 1.0]}},
            {
                "trainer": "SimNPO",
                **forget,
                "search": {"runs": 2, "over": {"trainer.method_args.beta": {"low": 1, "high": 5}}},
            },
            {"name": "twice", "trainer": "NPO", "from": "GradDiff", **forget},
        ],
        "vary": {"seed": [0, 1]},
        "eval": ["tofu"],
    }
    file = folder / "twenty.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file
