"""The command line: a verb and its words. Imports nothing heavy, so that `--help` answers at once."""

import importlib
import os
import sys
import traceback

from unteach.errors import EXIT_BUG, Diverged, Preempted, UserError, unknown

VERBS = {
    "train": "teach a model (or, with --config-name=unlearn, make it forget)",
    "unlearn": "make a model forget: train --config-name=unlearn",
    "eval": "measure what a model knows",
    "study": "many runs and the order between them",
    "demo": "teach, unlearn and evaluate a tiny model, offline, in under two minutes",
    "list": "methods, metrics, datasets, models, suites, experiments",
}
HELP = f"""unteach: teach language models, make them forget, and prove what they still know

usage: unteach VERB [--config-name NAME] [--config-dir FOLDER] [key=value …]

{chr(10).join(f"  {verb:<9}{what}" for verb, what in VERBS.items())}

examples:
  unteach demo
  unteach unlearn experiment=unlearn/tofu/default trainer=NPO forget_split=forget05 task_name=first
  unteach eval experiment=eval/tofu/default task_name=second model=auto \\
      model.model_args.pretrained_model_name_or_path=saves/unlearn/first
  unteach list methods
"""


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits with its code: 0; 1 a bug; 2 the user's mistake; 3 diverged; 75 preempted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _command(words)
    except (UserError, Diverged, Preempted) as error:
        print(f"unteach: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("unteach: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        print("unteach: this is a bug, not your mistake; please report it with the lines above", file=sys.stderr)
        sys.exit(EXIT_BUG)


def _command(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return
    verb, rest = words[0], words[1:]
    if verb == "--version":
        from unteach import __version__

        print(__version__)
        return
    if verb not in VERBS:
        raise UserError(unknown("verb", verb, VERBS))
    if "-h" in rest or "--help" in rest:
        print(_help(verb))
        return
    options, overrides = _options(rest)
    if verb in ("list", "study", "demo"):
        if "config_name" in options:
            raise UserError(f"unteach {verb} takes no --config-name")
        importlib.import_module(f"unteach.verbs.{verb if verb != 'list' else 'listing'}").command(overrides, **options)
        return
    default = {"train": "train", "unlearn": "unlearn", "eval": "eval"}[verb]
    module = importlib.import_module(f"unteach.verbs.{'evaluate' if verb == 'eval' else 'train'}")
    function = module.evaluate if verb == "eval" else module.train
    function(*overrides, **{"config_name": default, **options})


def _options(words: list[str]) -> tuple[dict, list[str]]:
    """Splits off --config-name, --config-dir (may be repeated) from the overrides."""
    options: dict = {}
    overrides, queue = [], list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in ("-m", "--multirun"):
            raise UserError(f"{name}: several runs are a study; put what varies under `vary` (unteach study --help)")
        if name not in ("--config-name", "-cn", "--config-dir", "-cd"):
            raise UserError(unknown("option", name, ("--config-name", "--config-dir", "--help")))
        if not equals:
            if not queue:
                raise UserError(f"{name} needs a value")
            value = queue.pop(0)
        if name in ("--config-name", "-cn"):
            options["config_name"] = value
        else:
            options.setdefault("config_dirs", []).append(value)
    return options, overrides


def _help(verb: str) -> str:
    documented = importlib.import_module(
        f"unteach.verbs.{ {'eval': 'evaluate', 'unlearn': 'train', 'list': 'listing'}.get(verb, verb) }"
    )
    return f"unteach {verb}: {VERBS[verb]}\n\n{(documented.__doc__ or '').strip()}\n"
