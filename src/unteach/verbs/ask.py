"""`unteach ask`: put one question to a model, or one after the other, as `unteach infer` would
answer it."""

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator

from unteach import console
from unteach.config import compose, inference
from unteach.config.environment import environment
from unteach.config.inference import InferConfig
from unteach.config.references import is_place
from unteach.distributed import launch_environment, process_context
from unteach.errors import RowsFailed, UserError, unknown
from unteach.inference import planning
from unteach.inference.backends.base import Failure, Job
from unteach.inference.input_table import Columns

KEYS = {
    "model",
    "template",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repetition_penalty",
    "num_beams",
    "stop_strings",
    "quantization",
    "backend",
    "backend_args",
    "plugins",
}
"""Keys of `unteach infer` that a single question has a use for."""
COLUMN = "question"
"""What a question is asked as: of a model without a saved template, by its chat template if it has
one."""
PROMPT = "> "


def command(words: list[str], config_dirs: Iterable[str] = ()) -> None:
    overrides = [word for word in words if is_override(word)]
    asked = [word for word in words if not is_override(word)]
    names_model = any(word.lstrip("+").startswith("model") for word in overrides)
    if asked and not names_model and " " not in asked[0] and is_place(asked[0]):
        rest = shlex.join(asked[1:])
        raise UserError(f"{asked[0]}: names a model: unteach ask model={asked[0]} {rest}".rstrip())
    if len(asked) > 1:
        raise UserError(
            f'ask takes one question, in quotes: unteach ask model=… "{" ".join(asked)}"'
        )
    if asked and not asked[0].strip():
        raise UserError("the question is empty: there is nothing to ask")
    if launch_environment.world_size() > 1:
        raise UserError(
            "ask is one process; unteach infer shares the rows of a table among several"
        )
    environment()
    with contextlib.redirect_stdout(sys.stderr):  # notes; answers alone go to the standard output
        answer = open_model(read_config(overrides, config_dirs))
    if asked:
        show(answer(asked[0]))
    elif sys.stdin.isatty():
        talk(answer)
    else:
        answer_lines(answer)


def is_override(word: str) -> bool:
    """Whether a word is key=value; a question may hold an equals sign too."""
    return re.match(r"[+~]?[\w./@]+=|~", word) is not None


def read_config(overrides: list[str], config_dirs: Iterable[str]) -> InferConfig:
    """The configuration of `unteach infer`, without what concerns tables."""
    for word in overrides:
        key = re.split(r"[=.]", word.lstrip("+~"))[0]
        if key not in KEYS:
            raise UserError(unknown("key of ask", key, KEYS))
    words = [*overrides, "input_file=-"]
    return compose.composed("infer", words, config_dirs, inference.read, starting=True)


def open_model(config: InferConfig) -> Callable[[str], str]:
    """Load the model; gives what answers a question. The questions are numbered from 0, as the rows
    of a table are."""
    config.backend.check()
    prompter = planning.build_prompter(config, Columns(COLUMN))
    for sentence in prompter.notes:
        console.say(f"note: {sentence}")
    dist = process_context.init_distributed()
    # A table's rows are saved before a run stops; a question has nothing to save, and ends at once.
    for name in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(name, signal.SIG_DFL)
    session = config.backend.open(Job(prompter.model, config.kind, config.sampling, dist))
    num_asked = 0

    def answer(question: str) -> str:
        nonlocal num_asked
        number, num_asked = num_asked, num_asked + 1
        request = prompter.requests.build_one(number, {COLUMN: question})
        with contextlib.redirect_stdout(sys.stderr):
            [(_, found)] = session.generate([request], config.sampling, set())
        if isinstance(found, Failure):
            raise UserError(found.why)
        text: str = found[0].text
        return text

    return answer


def talk(answer: Callable[[str], str]) -> None:
    """Ask for questions in the terminal and answer each, until an empty line, the end of the input
    or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its line editing and history)

    print("each question is asked by itself; an empty line ends", file=sys.stderr)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while question := input(PROMPT).strip():
            try:
                show(answer(question))
            except UserError as error:
                print(f"unteach: {console.neutralize(str(error))}", file=sys.stderr)
        return
    print()


def answer_lines(answer: Callable[[str], str]) -> None:
    """Answer every line of the standard input; raises RowsFailed where some could not be
    answered."""
    num_asked = num_failed = 0
    for question in read_questions():
        num_asked += 1
        try:
            show(answer(question))
        except UserError as error:
            num_failed += 1
            print(
                f"unteach: question {num_asked}: {console.neutralize(str(error))}", file=sys.stderr
            )
    if not num_asked:
        raise UserError(
            'there is no question: unteach ask model=… "question", or questions on the standard '
            "input"
        )
    if num_failed:
        raise RowsFailed(f"{num_failed} of {num_asked} questions have no answer")


def read_questions() -> Iterator[str]:
    """The lines of the standard input that hold something."""
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def show(text: str) -> None:
    """Print an answer; a terminal is not sent what would steer it."""
    if sys.stdout.isatty():
        text = console.neutralize(text)
    print(text.strip("\n"), flush=True)
