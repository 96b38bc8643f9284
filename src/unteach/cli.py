"""The command line: a verb and its words. Imports nothing heavy, so that `--help` answers at
once."""

import io
import logging
import os
import sys
import traceback
import warnings
from dataclasses import dataclass

from unteach import __version__, console, logs, plugins
from unteach.config.verb_options import Options
from unteach.distributed import launch_environment
from unteach.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    Diverged,
    Ended,
    LeakFound,
    NotForgotten,
    Preempted,
    RowsFailed,
    UserError,
    describe_machine_failure,
)


@dataclass(frozen=True)
class Verb:
    """What a verb does, and the options by dashes that it takes."""

    what: str
    options: tuple[str, ...] = ("config_dirs",)


RUN_OPTIONS = ("config_dirs", "config_name")
VERBS = {
    "train": Verb("teach a model: fine-tune, pretrain, classify, prefer", RUN_OPTIONS),
    "unlearn": Verb("make a model forget some rows and keep others", RUN_OPTIONS),
    "eval": Verb("measure what a model knows", RUN_OPTIONS),
    "audit": Verb("attack a model: what it still knows of rows that it was to forget", RUN_OPTIONS),
    "forget": Verb("from rows to a model that forgot them, tested, with a record"),
    "infer": Verb("ask a model every row of a table, and lose none"),
    "ask": Verb("put one question to a model, or one after the other"),
    "check": Verb(
        "all about a run but the run: rows, steps, memory, every key",
        (*RUN_OPTIONS, "prints_tree"),
    ),
    "study": Verb("many runs and the order between them", ("config_dirs", "write")),
    "tokenize": Verb("rows to memory-mapped tokens, once, for many runs", ()),
    "report": Verb("runs beside each other: a table, and one page with everything", ()),
    "compare": Verb("what changed between two runs", ()),
    "export": Verb("a run, a checkpoint or an adapter as a plain model folder"),
    "history": Verb("what a run logged, as a table", ()),
    "demo": Verb("teach, unlearn and evaluate a tiny model, offline, in minutes"),
    "fetch": Verb("published retain logs, or the WMDP corpora"),
    "world": Verb("a world of authors or people of your own, as a dataset folder", ()),
    "list": Verb("methods, metrics, datasets, models, experiments, and their fields"),
    "help": Verb("what a key, a method, a metric or a suite is: unteach help KEY"),
    "schema": Verb("the JSON schema of a kind of file, for an editor"),
    "completion": Verb("the script by which bash, zsh or fish complete on Tab", ()),
    "env": Verb("versions and machine, as a report of a bug needs them", ()),
}
OPTIONS = {
    "--config-name": "config_name",
    "-cn": "config_name",
    "--config-dir": "config_dirs",
    "-cd": "config_dirs",
}
OPTIONS |= {"--config": "run_file", "--write": "write"}
FLAGS = {"--print": "prints_tree"}
RESULTS = (Diverged, RowsFailed, LeakFound, NotForgotten, Preempted)
"""How a command ends that was carried out, and did not come to what was asked for."""
logger = logging.getLogger(__name__)
REPORT = "CONTRIBUTING.md in the repository of unteach says how"
HELP = f"""unteach: teach language models, make them forget, and prove what they still know

usage: unteach VERB [key=value ...] [--config-dir FOLDER] [--config-name NAME]
       unteach VERB --help

{chr(10).join(f"  {name:<10} {verb.what}" for name, verb in VERBS.items())}

examples
  unteach demo
  unteach ask model=saves/demo/full "Who wrote it?"
  unteach train model=MODEL data=my.csv
  unteach unlearn model=MODEL forget=forget.csv retain=retain.csv trainer=NPO
  unteach report saves/unlearn/mine
  unteach list methods

verbose=debug|info|quiet, a word of every verb, says how much is logged.
MODEL is a folder, a run, or a hub id (org/name). The pages that help names as
docs/... are in the repository of unteach; docs/first-hour.md comes first.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit with its code.

    0; 1 a bug; 2 a mistake; 3 diverged; 4 rows failed, or no model forgot them well enough; 5 an
    audit found a leak past its fail_if; 75 stopped, and goes on when run again; 130 ended by
    Ctrl-C.

    Of processes that were launched together, the first speaks for all.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    launch_environment.end_with_launcher()
    # what libraries will rename is for us to follow, not for users
    warnings.simplefilter("ignore", FutureWarning)
    is_main = not launch_environment.rank()
    if not is_main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        warnings.simplefilter("ignore")
    console.survive_closed_pipes()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is said is in a log file at once
    try:
        _command(words)
    except (UserError, Ended, *RESULTS) as error:
        logger.debug("where it was raised", exc_info=error)
        is_result = isinstance(error, RESULTS)
        is_said_by_main = is_result or getattr(error, "of_all", False)
        if is_main or not is_said_by_main:
            _print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if is_main:
            print(
                "unteach: interrupted; what was whole is kept, and the same command goes on from "
                "it",
                file=sys.stderr,
            )
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Print what became of an error that is no mistake of the command's words; give the exit
    code."""
    if known := describe_machine_failure(error):
        logger.debug("where it was raised", exc_info=error)
        message, exit_code = known
        _print_error(message)
        return exit_code
    traceback.print_exc()
    if line := plugins.find_plugin_line(error):
        name = type(error).__name__
        _print_error(f"{line}: {name}: {error} (in a plugin, which this run names)")
        return EXIT_MISTAKE
    _print_error(
        "this is a bug, not your mistake. Please report it with the lines above and what `unteach "
        f"env` prints to the maintainers ({REPORT})"
    )
    return EXIT_BUG


def _print_error(message: str) -> None:
    """Print how a command ended, and which process says it, where it is not the first."""
    rank = launch_environment.rank()
    process = f" (process {rank})" if rank else ""
    print(f"unteach{process}: {console.neutralize(message)}", file=sys.stderr)


def _command(words: list[str]) -> None:
    """Carry out the words of one command."""
    words, verbose = logs.take_verbose(words)
    logs.set_verbosity(
        "info" if verbose is None else verbose, is_main=not launch_environment.rank()
    )
    if words[:1] == ["help"] and (len(words) == 1 or words[1] in VERBS):
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    name, rest = words[0], words[1:]
    if name in ("--version", "-V", "-v", "version"):
        print(__version__)
        return
    if name not in VERBS:
        # Here and below, late: `--help` answers at once.
        from unteach.config import synonyms

        raise UserError(synonyms.unknown_verb(name, VERBS))
    if "-h" in rest or "--help" in rest:
        from unteach.verbs.help import show_help

        print(show_help(name), end="")
        return
    options, overrides = _options(rest, name)
    from unteach.verbs.start import start

    start(name, overrides, options)


def _run_file(value: str) -> str:
    if not value.endswith((".yaml", ".yml")):
        raise UserError(
            f"--config {value}: takes the file of a run, NAME.yaml; a primary configuration is "
            f"--config-name"
        )
    return value


def _options(words: list[str], verb: str) -> tuple[Options, list[str]]:
    """Split the options by dashes from the overrides.

    `--config FILE`, as other tools have it, and a --config-name that is a file's path say what the
    first word says: the file of a run.
    """
    taken: dict[str, str | bool] = {}
    config_dirs: list[str] = []
    overrides, queue = list[str](), list(words)
    strange: list[tuple[str, str | None]] = []
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
        elif name in ("-m", "--multirun"):
            raise UserError(
                f"{name}: several runs are a study; put what varies under `vary` (unteach study "
                f"--help)"
            )
        elif name in FLAGS:
            taken[FLAGS[name]] = True
        elif name in OPTIONS:
            if not equals and not queue:
                raise UserError(f"{name} needs a value")
            value = value if equals else queue.pop(0)
            if OPTIONS[name] == "config_dirs":
                config_dirs.append(value)
            elif name == "--config" or ("/" in value and value.endswith((".yaml", ".yml"))):
                overrides.insert(0, _run_file(value))
            else:
                taken[OPTIONS[name]] = value
        else:
            has_value_beside = queue and "=" not in queue[0] and not queue[0].startswith("-")
            if not equals and has_value_beside:
                strange.append((name, queue.pop(0)))
            else:
                strange.append((name, value if equals else None))
    if strange:
        from unteach.config import options as dashed

        raise dashed.unknown_options(strange, (*OPTIONS, *FLAGS, "--help"), verb)
    given = [*taken, *(["config_dirs"] if config_dirs else [])]
    _refuse_other_options(given, verb)
    return Options(config_dirs=tuple(config_dirs), **taken), overrides  # type: ignore[arg-type]


def _refuse_other_options(options: list[str], verb: str) -> None:
    """Raise UserError for an option that the verb does not take."""
    for option in options:
        if option not in VERBS[verb].options:
            spellings = {**OPTIONS, **FLAGS}
            word = next(word for word, meant in spellings.items() if meant == option)
            takers = [name for name, other in VERBS.items() if option in other.options]
            raise UserError(f"unteach {verb} takes no {word}; these do: {', '.join(takers)}")
