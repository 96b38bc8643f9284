"""Start a verb from Python: with the user's own words, and those that objects were spelled as."""

from collections.abc import Iterable
from pathlib import Path

from unteach import logs
from unteach.config.verb_options import Options
from unteach.distributed import launch_environment
from unteach.errors import UserError
from unteach.verbs.start import start


def start_with(
    verb: str, overrides: tuple[str, ...], words: list[str], options: Options, verbose: str | None
) -> Path:
    """Start a verb by the user's own words and those that its objects were spelled as."""
    given, verbose_word = logs.take_verbose(overrides)
    if verbose is None:
        verbose = verbose_word
    logs.set_verbosity(verbose, is_main=not launch_environment.rank())
    keys = {word.partition("=")[0].lstrip("+") for word in given}
    for word in words:
        key = word.partition("=")[0]
        if key in keys:
            raise UserError(
                f"{key}: is given twice, as a word, an argument or in settings; leave one out"
            )
        keys.add(key)
    output: Path = start(verb, [*given, *words], options)
    return output


def list_dirs(config_dirs: Iterable[str | Path]) -> tuple[str, ...]:
    """List one folder, or several, by their names."""
    if isinstance(config_dirs, str | Path):
        return (str(config_dirs),)
    return tuple(str(folder) for folder in config_dirs)
