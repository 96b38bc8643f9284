"""The collapse guard: looks at what should be retained while a method forgets, and ends a run that ruins the model.

Every few steps it asks the model about some retain rows: the mean loss of their answers, and greedy continuations of
their prompts. It draws no random number and changes nothing, so a run with it takes the steps of a run without.
"""

import itertools
from collections.abc import Callable
from typing import Any

import transformers

from unteach import console
from unteach.config.watching import Guard
from unteach.data.streams import Stream
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.engines.processes import Processes
from unteach.errors import Diverged
from unteach.models.forward import IGNORED
from unteach.models.loading import Loaded

NEW_TOKENS = 32
"""Of each continuation that is looked at."""


def repetition(tokens: list[int]) -> float:
    """The share of a text's pairs of neighbouring tokens that it had before; 1 for an empty text."""
    pairs = list(itertools.pairwise(tokens))
    return 1 - len(set(pairs)) / len(pairs) if pairs else float(not tokens)


class Unasked(Processes):
    """Never stops between two batches: the step that a look belongs to is not over yet."""

    def pause_point(self) -> None:
        pass


DOES = {
    "warn": "Training goes on (trainer.guard.action=warn)",
    "stop": "Training ends here (trainer.guard.action=stop)",
    "best": "Training ends here and goes back to step {step}, the last healthy one (trainer.guard.action=best)",
}


class CollapseGuard(transformers.TrainerCallback):
    """Looks at the beginning and every `guard.every` steps; logs what it sees, and stops or goes back.

    log: where each look is logged, as guard_loss, guard_rise and guard_repetition; the trainer's own log.
    """

    def __init__(self, guard: Guard, loaded: Loaded, stream: Stream):
        self.guard, self.loaded = guard, loaded
        alone = Unasked(0, 1, None, None)
        self.engine = HFEngine(loaded.model, loaded.tokenizer, guard.rows, alone, stops=loaded.template.stops)
        self.pairs = [_prompt_and_answer(stream.example(n)) for n in range(min(guard.rows, len(stream)))]
        self.began: float | None = None
        self.healthy_step: int | None = None
        self.collapsed: str | None = None
        self.log: Callable[[dict[str, float]], None] = lambda logs: None

    def state(self) -> dict[str, Any]:
        return {"began": self.began, "healthy_step": self.healthy_step, "collapsed": self.collapsed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.began, self.healthy_step, self.collapsed = (state[k] for k in ("began", "healthy_step", "collapsed"))

    @property
    def ended(self) -> bool:
        """Whether training is over because of what it saw."""
        return self.collapsed is not None and self.guard.action != "warn"

    @property
    def goes_back(self) -> bool:
        return self.ended and self.guard.action == "best"

    def look(self) -> tuple[float, float]:
        """(mean loss of the retain answers in nats, mean repetition of the continuations)."""
        with self.loaded.autocast():
            scores = self.engine.score(self.pairs)
            texts = self.engine.generate([prompt for prompt, _ in self.pairs], NEW_TOKENS)
        return sum(s.avg_loss for s in scores) / len(scores), sum(map(repetition, texts)) / len(texts)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.began is None:
            self.began, repeated = self.look()
            self._log(control, self.began, repeated)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.guard.every:
            return
        assert self.began is not None
        loss, repeated = self.look()
        self._log(control, loss, repeated)
        rise = loss - self.began
        if rise <= self.guard.max_rise and repeated <= self.guard.max_repetition:
            self._healthy(args, state, control)
            return
        self.collapsed = (
            f"step {state.global_step}: the retain answers' loss is {loss:.3g}, {rise:+.3g} since the beginning "
            f"(allowed {self.guard.max_rise:+g}), and {repeated:.0%} of what is said repeats itself (allowed "
            f"{self.guard.max_repetition:.0%})"
        )
        if state.is_world_process_zero:
            does = DOES[self.guard.action].format(step=self.healthy_step)
            console.say(f"note: the model is collapsing. {self.collapsed}. {does}")
        if self.guard.action == "best" and self.healthy_step is None:
            raise Diverged(f"{self.collapsed}. It was never seen healthy before: lower trainer.args.learning_rate or "
                           "trainer.guard.every")  # fmt: skip
        if self.ended:
            control.should_training_stop = True

    def _log(self, control: transformers.TrainerControl, loss: float, repeated: float) -> None:
        assert self.began is not None
        is_due = control.should_log
        self.log({"guard_loss": loss, "guard_rise": loss - self.began, "guard_repetition": repeated})
        control.should_log = is_due  # any line that is logged takes it back, and the step's own is still to come

    def _healthy(self, args: Any, state: Any, control: Any) -> None:
        self.healthy_step = state.global_step
        if self.guard.action == "best":
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"
            control.should_save = True


def _prompt_and_answer(example: dict[str, Any]) -> tuple[Ids, Ids]:
    ids, labels = [int(i) for i in example["input_ids"]], [int(i) for i in example["labels"]]
    start = next(i for i, label in enumerate(labels) if label != IGNORED)
    return tuple(ids[: max(start, 1)]), tuple(ids[max(start, 1) :])
