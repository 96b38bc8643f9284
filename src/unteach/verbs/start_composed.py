"""Start a verb whose configuration is composed from files."""

from typing import Any

from unteach.config.compose_verb import compose_verb
from unteach.config.inference import InferConfig
from unteach.config.schema import RunConfig
from unteach.config.verb_options import Options
from unteach.verbs.modules import carry_out


def start_composed(verb: str, overrides: list[str], options: Options) -> Any:
    """Carry a verb out; give what its `run` gives."""
    config = compose_verb(verb, overrides, options)
    if isinstance(config, RunConfig | InferConfig):
        # Late: what starts processes and reads rows is imported once the words are right.
        from unteach.verbs.start_run import start_run

        return start_run(verb, config, overrides, options)
    return carry_out(verb, config)
