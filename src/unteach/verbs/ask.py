"""`unteach ask`: put one question to a model, or one after the other, as `unteach infer` would
answer it."""

import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator

from unteach import console
from unteach.config.inference import InferConfig
from unteach.config.verb_configs import AskConfig
from unteach.distributed import launch_environment, process_context
from unteach.errors import RowsFailed, UserError
from unteach.inference import planning
from unteach.inference.backends.base import Failure, Job
from unteach.inference.input_table import Columns

logger = logging.getLogger(__name__)
COLUMN = "question"
"""What a question is asked as: of a model without a saved template, by its chat template if it has
one."""
PROMPT = "> "


def run(config: AskConfig) -> None:
    """Answer one question, those that are typed in a terminal, or every line of the input."""
    if launch_environment.world_size() > 1:
        raise UserError(
            "ask is one process; unteach infer shares the rows of a table among several"
        )
    with contextlib.redirect_stdout(sys.stderr):  # answers alone go to the standard output
        answer = open_model(config.infer)
    if config.question is not None:
        show(answer(config.question))
    elif sys.stdin.isatty():
        talk(answer)
    else:
        answer_lines(answer)


def open_model(config: InferConfig) -> Callable[[str], str]:
    """Load the model; give what answers a question. The questions are numbered from 0, as the rows
    of a table are."""
    config.backend.check()
    prompter = planning.build_prompter(config, Columns(COLUMN))
    for note in prompter.notes:
        logger.info(note)
    dist = process_context.init_distributed()
    # A table's rows are saved before a run stops; a question has nothing to save, and ends at once.
    for name in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(name, signal.SIG_DFL)
    session = config.backend.open(Job(prompter.model, config.kind, config.sampling, dist))
    num_asked = 0

    def answer(question: str) -> str:
        nonlocal num_asked
        request = prompter.requests.build_one(num_asked, {COLUMN: question})
        num_asked += 1
        with contextlib.redirect_stdout(sys.stderr):
            [(_, completions)] = session.generate([request], config.sampling, set())
        if isinstance(completions, Failure):
            raise UserError(completions.why)
        text: str = completions[0].text
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
    """Answer every line of the standard input; raise RowsFailed where some could not be
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
    """Read the lines of the standard input that hold something."""
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def show(text: str) -> None:
    """Print an answer; a terminal is not sent what would steer it."""
    if sys.stdout.isatty():
        text = console.neutralize(text)
    print(text.strip("\n"), flush=True)
