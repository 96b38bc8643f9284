"""Start a verb: its words become a configuration, and what carries it out is imported then.

The command line and the Python door start here.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from unteach.config import verb_keys
from unteach.config.compose_flat import compose_flat
from unteach.config.environment import prepare_environment
from unteach.config.verb_configs import ListConfig
from unteach.config.verb_options import Options
from unteach.errors import UserError
from unteach.verbs.modules import carry_out


def start(verb: str, overrides: Iterable[str], options: Options | None = None) -> Any:
    """Carry a verb out; give what its `run` gives.

    Raises:
        UserError: with every mistake found, before torch is imported.
    """
    options = options or Options()
    words = list(overrides)
    if words and f"{verb} {words[0]}" in verb_keys.OF_TWO_WORDS:
        verb = f"{verb} {words.pop(0)}"
        _refuse_options(verb, options)
    prepare_environment()
    if verb not in verb_keys.CONFIGS:
        # Late, as it costs Hydra, which the other verbs do without.
        from unteach.verbs.start_composed import start_composed

        return start_composed(verb, words, options)
    config: object = compose_flat(
        verb_keys.CONFIGS[verb], words, verb.removeprefix(verb_keys.CHECK)
    )
    if isinstance(config, ListConfig):  # or help, or schema, which are told the same
        config = replace(config, config_dirs=options.config_dirs)
    return carry_out(verb, config)


def _refuse_options(verb: str, options: Options) -> None:
    """Raise UserError for an option that goes with the first word of a verb of two alone."""
    taken = {"--print": options.prints_tree, "--config-name": options.config_name}
    for name, value in taken.items():
        if value:
            first = verb.split()[0]
            raise UserError(
                f"unteach {verb} takes no {name}; it goes with `unteach {first}` of a run that "
                "trains, evaluates or audits"
            )
