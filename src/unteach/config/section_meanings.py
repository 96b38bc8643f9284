"""What the sections of a run and their parts are, where no dataclass says it: docs/reference.md,
the JSON schemas and `unteach help KEY` read it here."""

MEANINGS = {
    "model": "the model: a name, a folder, a run, or a hub id; below it how it is loaded",
    "trainer": "the method that is run; below it its fields, and how it is trained",
    "data": "the rows: a file or folder of your own, a hub set, or datasets by stream",
    "eval": "the suites that are measured: a name, several, or null",
    "audit": "the level of an audit; below it which attacks are made, and on what",
    "collator": "what makes a batch of examples",
    "experiment": "settings that ship, data included: a model is taught, made to forget, or "
    "measured on a benchmark",
    "paths": "the folders that a run writes to",
    "task_name": "names the run's folder; where a file of rows is named it may be left out: model, "
    "rows and method name it",
    "mode": "`train`, `unlearn`, `eval` or `audit`: the verb; part of the run's folder",
    "forget": "a file of rows to forget",
    "retain": "a file of rows to keep",
    "holdout": "a file of rows that the model never sees, measured beside the others",
    "refusal": "a file of prompts that the model refuses to answer",
    "trainer.handler": "the method's name, or a class of yours (`trainer=NAME` sets it)",
    "trainer.args": "`transformers.TrainingArguments`, and the fields below",
    "trainer.method_args": "the method's own fields, below",
    "trainer.guard": "null, or the collapse guard, below",
    "trainer.land": "null, or the budget that the run lands on, below",
    "trainer.dual_optim": "null, or how steps of the two sides take turns, below",
    "trainer.surgery": "left out, a rule's name, or `{name: NAME, field: value}`, below",
    "trainer.perturb": "left out, a perturbation's name, or `{name: NAME, field: value}`, below",
}
STUDY = {
    "name": "the study's folder, `saves/<name>`",
    "base": "overrides of a first run that `full` and `retain` start from; may be left out",
    "full": "keys of the run that is taught everything; its experiment, "
    "`finetune/<benchmark>/…`, names the rest",
    "retain": "keys of the run without what is to be forgotten; every forget run is compared with "
    "it",
    "forget": "a list of overrides, one an unlearning run; each starts from `full`, or from the "
    "forget run that `from` "
    "names; `name` gives it another name, `vary` a grid of its own, `search` random draws",
    "vary": "key -> list of values; the study has the runs of every combination",
    "eval": "the suites that are measured of every run",
    "evaluate": "`[base]`: the base model is evaluated too, once for all that share it; `[audit]` "
    "is `audit: quick`",
    "audit": "a level: every forget run is audited after it ended, beside `full` and `retain`, "
    "into its folder `audit`; or a mapping of overrides of the audits, `{audit: standard, "
    "audit.max_facts: 40}`",
    "wandb": "every trained run goes to Weights & Biases: the group is the study, the job type the "
    "kind of run",
    "local": "how it runs on this machine, below",
    "slurm": "how it runs on a cluster, below",
}
"""The keys of a study file."""
