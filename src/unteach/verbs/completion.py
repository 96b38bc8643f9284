"""`unteach completion SHELL`: the script by which a shell completes verbs, keys and values."""

from unteach.config.verb_configs import CompletionConfig
from unteach.editor import shells
from unteach.errors import UserError, describe_unknown


def run(config: CompletionConfig) -> None:
    """Print the script of a shell; its first lines say how it is installed."""
    if len(config.names) != 1 or config.names[0] not in shells.SHELLS:
        names = " ".join(config.names)
        hint = "" if names else "name a shell: unteach completion bash; "
        raise UserError(hint + describe_unknown("shell", names, shells.SHELLS))
    print(shells.write_script(config.names[0]), end="")
