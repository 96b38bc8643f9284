"""The command line: a verb and its words. Imports nothing heavy, so that `--help` answers at
once."""

import importlib
import io
import os
import sys
import traceback
import warnings
from dataclasses import dataclass

from unteach import console, plugins
from unteach.distributed import launch_environment
from unteach.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    Diverged,
    Ended,
    Preempted,
    RowsFailed,
    UserError,
    describe_machine_failure,
)


@dataclass(frozen=True)
class Verb:
    """What a verb does, the module of `unteach.verbs` whose `command` does it, and the options it
    takes."""

    what: str
    module: str
    options: tuple[str, ...] = ("config_dirs",)
    config_name: str | None = None


RUN = ("config_dirs", "config_name")
VERBS = {
    "train": Verb("teach a model: fine-tune, pretrain, classify, prefer", "train", RUN, "train"),
    "unlearn": Verb("make a model forget some rows and keep others", "train", RUN, "unlearn"),
    "eval": Verb("measure what a model knows", "evaluate", RUN, "eval"),
    "infer": Verb("ask a model every row of a table, and lose none", "infer"),
    "ask": Verb("put one question to a model, or one after the other", "ask"),
    "check": Verb(
        "all about a run but the run: rows, steps, memory, every key", "check", (*RUN, "printed")
    ),
    "study": Verb("many runs and the order between them", "study", ("config_dirs", "write")),
    "tokenize": Verb("rows to memory-mapped tokens, once, for many runs", "tokenize", ()),
    "report": Verb("runs beside each other: a table, and one page with everything", "report", ()),
    "compare": Verb("what changed between two runs", "compare", ()),
    "export": Verb("a run, a checkpoint or an adapter as a plain model folder", "export", ()),
    "history": Verb("what a run logged, as a table", "history", ()),
    "demo": Verb("teach, unlearn and evaluate a tiny model, offline, in minutes", "demo"),
    "fetch": Verb("published retain logs, or the WMDP corpora", "fetch"),
    "world": Verb("an authors world of your own, as a dataset folder", "world", ()),
    "list": Verb("methods, metrics, datasets, models, experiments, and their fields", "listing"),
}
OPTIONS = {
    "--config-name": "config_name",
    "-cn": "config_name",
    "--config-dir": "config_dirs",
    "-cd": "config_dirs",
}
OPTIONS |= {"--config": "run_file", "--write": "write"}
FLAGS = {"--print": "printed"}
REPORT = "CONTRIBUTING.md in the repository of unteach says how"
HELP = f"""unteach: teach language models, make them forget, and prove what they still know

usage: unteach VERB [key=value ...] [--config-dir FOLDER] [--config-name NAME]
       unteach VERB --help

{chr(10).join(f"  {name:<9} {verb.what}" for name, verb in VERBS.items())}

examples
  unteach demo
  unteach ask model=saves/demo/full "Who wrote it?"
  unteach train model=MODEL data=my.csv
  unteach unlearn model=MODEL forget=forget.csv retain=retain.csv trainer=NPO
  unteach report saves/unlearn/mine
  unteach list methods

MODEL is a folder, a run, or a hub id (org/name). The pages that help names as
docs/... are in the repository of unteach; docs/first-hour.md comes first.
"""


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits with its code.

    0; 1 a bug; 2 a mistake; 3 diverged; 4 rows failed; 75 stopped, and goes on when run again; 130
    ended by Ctrl-C.

    Of processes that were launched together, the first speaks for all.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    launch_environment.end_with_launcher()
    # what libraries will rename is for us to follow, not for users
    warnings.simplefilter("ignore", FutureWarning)
    if launch_environment.rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        warnings.simplefilter("ignore")
    console.survive_closed_pipes()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is said is in a log file at once
    try:
        _command(words)
    except (UserError, Diverged, RowsFailed, Preempted, Ended) as error:
        of_all = isinstance(error, Diverged | RowsFailed | Preempted) or getattr(
            error, "of_all", False
        )
        if not (launch_environment.rank() and of_all):
            print(f"unteach{_which()}: {console.neutralize(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if not launch_environment.rank():
            print(
                "unteach: interrupted; what was whole is kept, and the same command goes on from "
                "it",
                file=sys.stderr,
            )
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if known := describe_machine_failure(error):
            print(f"unteach{_which()}: {console.neutralize(known[0])}", file=sys.stderr)
            sys.exit(known[1])
        traceback.print_exc()
        if place := plugins.find_plugin_line(error):
            said = f"{place}: {type(error).__name__}: {error} (in a plugin, which this run names)"
            print(f"unteach{_which()}: {console.neutralize(said)}", file=sys.stderr)
            sys.exit(EXIT_MISTAKE)
        print(
            f"unteach{_which()}: this is a bug, not your mistake. Please report it with the lines "
            f"above to the maintainers ({REPORT})",
            file=sys.stderr,
        )
        sys.exit(EXIT_BUG)


def _which() -> str:
    """Which of the processes speaks, where it is not the first."""
    return f" (process {launch_environment.rank()})" if launch_environment.rank() else ""


def _command(words: list[str]) -> None:
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    name, rest = words[0], words[1:]
    if name in ("--version", "-V", "-v", "version"):
        from unteach import __version__

        print(__version__)
        return
    if name not in VERBS:
        from unteach.config import synonyms

        raise UserError(synonyms.unknown_verb(name, VERBS))
    verb = VERBS[name]
    if "-h" in rest or "--help" in rest:
        from unteach.verbs.help import show_help

        print(show_help(name), end="")
        return
    module = importlib.import_module(f"unteach.verbs.{verb.module}")
    options, overrides = _options(rest, name)
    for option in options:
        if option not in verb.options:
            word = next(word for word, meant in {**OPTIONS, **FLAGS}.items() if meant == option)
            takers = [other for other, one in VERBS.items() if option in one.options]
            raise UserError(f"unteach {name} takes no {word}; these do: {', '.join(takers)}")
    if verb.config_name:
        options.setdefault("config_name", verb.config_name)
    module.command(overrides, **options)


def _run_file(value: str) -> str:
    if not value.endswith((".yaml", ".yml")):
        raise UserError(
            f"--config {value}: takes the file of a run, NAME.yaml; a primary configuration is "
            f"--config-name"
        )
    return value


def _options(words: list[str], verb: str) -> tuple[dict, list[str]]:
    """Splits off --config-name, --config-dir (may be repeated) and --print from the overrides.

    `--config FILE`, as other tools have it, and a --config-name that is a file's path say what the
    first word says: the file of a run.
    """
    options: dict = {}
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
            options[FLAGS[name]] = True
        elif name in OPTIONS:
            if not equals and not queue:
                raise UserError(f"{name} needs a value")
            value = value if equals else queue.pop(0)
            if OPTIONS[name] == "config_dirs":
                options.setdefault("config_dirs", []).append(value)
            elif name == "--config" or ("/" in value and value.endswith((".yaml", ".yml"))):
                overrides.insert(0, _run_file(value))
            else:
                options[OPTIONS[name]] = value
        else:
            bare = not equals and queue and "=" not in queue[0] and not queue[0].startswith("-")
            if bare:
                value = queue.pop(0)
            strange.append((name, value if bare or equals else None))
    if strange:
        from unteach.config import options as dashed

        raise dashed.unknown_options(strange, (*OPTIONS, *FLAGS, "--help"), verb)
    return options, overrides
