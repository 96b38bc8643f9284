"""What people call the keys of verbs that compose no configuration, from habit."""

from unteach.config import verb_configs
from unteach.config.forget import ForgetConfig
from unteach.config.tokenize import TokenizeConfig
from unteach.config.verb_configs import list_keys
from unteach.errors import find_nearest

VERIFY, FORGET = "audit verify", "forget"
CHECK = "check "
CHECK_FORGET, CHECK_INFER = "check forget", "check infer"
CHECK_TOKENIZE, CHECK_EXPORT = "check tokenize", "check export"
OF_TWO_WORDS = (VERIFY, CHECK_FORGET, CHECK_INFER, CHECK_TOKENIZE, CHECK_EXPORT)
CONFIGS: dict[str, type] = {
    "report": verb_configs.ReportConfig,
    "compare": verb_configs.CompareConfig,
    "history": verb_configs.HistoryConfig,
    "fetch": verb_configs.FetchConfig,
    "export": verb_configs.ExportConfig,
    CHECK_EXPORT: verb_configs.ExportConfig,
    "list": verb_configs.ListConfig,
    "help": verb_configs.HelpConfig,
    "schema": verb_configs.SchemaConfig,
    "completion": verb_configs.CompletionConfig,
    "env": verb_configs.EnvConfig,
    FORGET: ForgetConfig,
    CHECK_FORGET: ForgetConfig,
    "tokenize": TokenizeConfig,
    CHECK_TOKENIZE: TokenizeConfig,
    VERIFY: verb_configs.VerifyConfig,
}
"""What the words of each of these verbs are read as."""
FOLDER_WORDS = ("out", "output", "output_dir", "output_file", "save_dir", "dir", "to")
"""Words for the place that a command writes to."""
NEAR = 0.75
"""How like a key a word must be to be taken for a slip of the hand."""
HABITS = {
    "eval": "suite",
    "benchmark": "suite",
    "format": "as",
    "torch_dtype": "dtype",
    "push_to_hub": "push",
    "repo": "push",
    "base": "model.base_path",
    "base_model": "model.base_path",
    "model": "tokenizer_path",
    "data": "input_file",
    "file": "input_file",
}


def find_key(verb: str, name: str) -> str | None:
    """Find the key that a verb calls `name`, itself or by another word for it; None where it has
    nothing like it."""
    allowed = list_keys(CONFIGS[verb])
    if name in allowed:
        return name
    if name in FOLDER_WORDS:
        return next((key for key in ("to", "out", "output_file") if key in allowed), None)
    meant = HABITS.get(name)
    return meant if meant in allowed else find_nearest(name, allowed, NEAR)


def refuse_key(verb: str, name: str) -> str:
    """Say that a verb has no such key, which it most likely means, and which it has."""
    key = find_key(verb, name)
    hint = f"did you mean {key}? " if key else ""
    keys = list_keys(CONFIGS[verb])
    allowed = ", ".join(sorted(keys))
    return f"unteach {verb}: {name}: no such key; {hint}Allowed: {allowed}"
