"""Start a verb whose configuration is composed from files: overrides -> Hydra -> normalize -> typed
configuration -> processes, where they are asked for -> the user's own files -> work."""

from pathlib import Path
from typing import Any

from unteach import logs
from unteach.config.compose_verb import compose_verb
from unteach.config.inference import InferConfig, find_output_file
from unteach.config.schema import RunConfig
from unteach.config.verb_options import Options
from unteach.data.user_files import resolve_files
from unteach.distributed import accelerate_launch
from unteach.verbs.modules import carry_out


def start_composed(verb: str, overrides: list[str], options: Options) -> Any:
    """Carry a verb out; give what its `run` gives."""
    config = compose_verb(verb, overrides, options)
    if isinstance(config, RunConfig | InferConfig):
        words = [*overrides, *logs.spell_verbose()]
        dirs = options.config_dirs
        if accelerate_launch.run_in_processes(verb, config, words, options.config_name, dirs):
            return _find_output(config)
    if isinstance(config, RunConfig):
        config = resolve_files(config)
    return carry_out(verb, config)


def _find_output(config: RunConfig | InferConfig) -> Path:
    """Find where the processes that carried a run out have left its results."""
    if isinstance(config, InferConfig):
        return find_output_file(config)
    return Path(config.paths.output_dir)
