"""Start a run: in the processes that it asks for, or in this one, with the user's own files
resolved: the last stage of its configuration."""

from pathlib import Path
from typing import Any

from unteach import logs
from unteach.config.inference import InferConfig, find_output_file
from unteach.config.schema import RunConfig
from unteach.config.verb_options import Options
from unteach.data.user_files import resolve_files
from unteach.distributed import accelerate_launch
from unteach.verbs.modules import carry_out


def start_run(
    verb: str, config: RunConfig | InferConfig, overrides: list[str], options: Options
) -> Any:
    """Carry a run out; give where its results are.

    Args:
        verb: `train`, `unlearn`, `eval` or `infer`.
        config: what the words were composed to.
        overrides: the words, for the processes that carry the same run out.
        options: what was said beside them.
    """
    words = [*overrides, *logs.spell_verbose()]
    if accelerate_launch.run_in_processes(
        verb, config, words, options.config_name, options.config_dirs
    ):
        return _find_output(config)
    if isinstance(config, RunConfig):
        config = resolve_files(config)
    return carry_out(verb, config)


def _find_output(config: RunConfig | InferConfig) -> Path:
    if isinstance(config, InferConfig):
        return find_output_file(config)
    return Path(config.paths.output_dir)
