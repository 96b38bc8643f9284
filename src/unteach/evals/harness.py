"""Tasks of lm-evaluation-harness, asked through our engine.

The harness writes the questions and judges the answers; every pass is the engine's, with its batches, its processes and
its store. It is an extra package, and imported only where a suite asks for one of its tasks.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

from unteach.config.suites import SuiteConfig
from unteach.data.template import Template
from unteach.engines.base import Engine, Ids
from unteach.errors import UserError, nearest
from unteach.evals.base import TaskResult

Progress = Callable[[str, int], Callable[[int], None]]
WITHOUT_CONTEXT = 2048
"""Tokens that a model reads which does not say how many it does."""
NEW_TOKENS = 256
"""Of an answer to a task that does not say how many, as the harness has it."""


def refuse_unknown(task: str, config: SuiteConfig) -> None:
    """Raises UserError where the harness is not installed, or has no such task."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            f"eval.{config.suite}: {task} is a task of lm-evaluation-harness, which is not installed. Install it: "
            'pip install "unteach[lm-eval]"'
        )
    path = config.simple_evaluate_args.include_path
    if path and not os.path.isdir(path):
        raise UserError(f"eval.{config.suite}.simple_evaluate_args.include_path={path}: there is no such folder")
    known = manager([task], path).all_tasks
    if task not in known:
        guess = nearest(task, known)
        meant = f"; did you mean {guess}?" if guess else ""
        raise UserError(f"eval.{config.suite}: lm-evaluation-harness has no task called {task!r}{meant}")
    if task in manager([task], path).all_tags:
        raise UserError(f"eval.{config.suite}: {task} is a tag, without a value of its own; name its tasks, or a group")


def manager(tasks: list[str], include_path: str | None) -> Any:
    """What knows the tasks: the user's folder where all are in it, else that and the harness's own."""
    own = _manager(include_path, False) if include_path else None
    return own if own and set(tasks) <= set(own.all_tasks) else _manager(include_path, True)


@functools.lru_cache(maxsize=4)
def _manager(include_path: str | None, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=include_path, include_defaults=defaults)


def ask(
    tasks: list[str], settings: dict[str, Any], engine: Engine, template: Template, progress: Progress
) -> list[TaskResult]:
    """The results of tasks, all asked together; every process asks for all of them and the engine shares the passes."""
    from lm_eval import simple_evaluate

    given = dict(settings)
    tasks_of = manager(tasks, given.pop("include_path"))
    model = _model(engine, template, progress)
    with _undisturbed():
        built = _each_once({task: tasks_of.load([task]) for task in tasks})
        found = simple_evaluate(model, tasks=built, task_manager=tasks_of, bootstrap_iters=0, **given)
    return [_result(task, found, model.cut) for task in tasks]


def _each_once(loaded: dict[str, Any]) -> list[Any]:
    """The groups and tasks that are asked for, without those that another group holds: the harness refuses them."""
    under = {name: set(one["tasks"]) | set(one["groups"]) for name, one in loaded.items()}
    held = {name for name in loaded for other in loaded if other != name and name in under[other]}
    return [one["groups"].get(name) or one["tasks"][name] for name, one in loaded.items() if name not in held]


def _result(task: str, found: dict[str, Any], cut: int) -> TaskResult:
    values = {
        name.removesuffix(",none"): float(value)
        for name, value in (found.get("groups", {}).get(task) or found["results"][task]).items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    }
    documents = [
        {"task": leaf, **_document(one, values)} for leaf in _leaves(task, found) for one in found["samples"][leaf]
    ]
    return TaskResult(values, documents, cut)


def _leaves(task: str, found: dict[str, Any]) -> list[str]:
    """The tasks with documents under a group, or the task itself."""
    if task in found["samples"]:
        return [task]
    return [leaf for child in found["group_subtasks"].get(task, []) for leaf in _leaves(child, found)]


def _document(one: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    """What a document's answer is worth, by metric; with several filters there is one such entry for each."""
    named = {name if one["filter"] == "none" else f"{name},{one['filter']}": one[name] for name in one["metrics"]}
    worth = {name: float(value) for name, value in named.items() if isinstance(value, int | float) and name in values}
    return {"doc_id": one["doc_id"], "target": str(one["target"]), **worth}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The harness seeds every generator of random numbers, gives results only to the first local process, and asks git
    for a commit, which complains where there is none."""
    import numpy as np
    import torch
    from lm_eval import evaluator

    states, rank = (random.getstate(), np.random.get_state()), os.environ.get("LOCAL_RANK")
    asked, evaluator.get_git_commit_hash = evaluator.get_git_commit_hash, lambda: None
    try:
        if rank:
            os.environ["LOCAL_RANK"] = "0"
        with torch.random.fork_rng():
            yield
    finally:
        evaluator.get_git_commit_hash = asked
        random.setstate(states[0])
        np.random.set_state(states[1])
        if rank:
            os.environ["LOCAL_RANK"] = rank


def _model(engine: Engine, template: Template, progress: Progress) -> Any:
    """The engine as the harness sees a model. cut: how many prompts lost their beginning, to fit into the context."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Asked(TemplateLM):
        backend = "causal"
        tokenizer = template.tokenizer
        max_length = engine.context or WITHOUT_CONTEXT
        cut = 0

        @property
        def eot_token_id(self) -> int:
            return int(self.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            begin = self.tokenizer.bos_token_id
            return self.eot_token_id if begin is None else int(begin)

        @property
        def tokenizer_name(self) -> str:
            return str(self.tokenizer.name_or_path).replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is None:
                add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
            return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )  # fmt: skip

        def fitted(self, prompt: list[int], room: int) -> Ids:
            """The end of a prompt that `room` has place for."""
            if room < 1:
                raise UserError(
                    f"lm-evaluation-harness: an answer leaves no room for its question in the {self.max_length} tokens "
                    "that the model reads"
                )
            self.cut += len(prompt) > room
            return tuple(prompt[-room:])

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            pairs = [(self.fitted(p, self.max_length - len(a)), tuple(a)) for _, p, a in requests]
            wanted = list(dict.fromkeys(pairs))
            scores = engine.score(wanted, progress("scoring the answers of tasks", len(wanted)))
            found = {pair: (float(s.logprob.sum()), bool(s.hit.all())) for pair, s in zip(wanted, scores, strict=True)}
            return [found[pair] for pair in pairs]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            windows, owners = [], []
            for number, request in enumerate(requests):
                ids, begin = self.tok_encode(request.args[0]), self.prefix_token_id
                for window in get_rolling_token_windows(ids, begin, self.max_length - 1, 1):
                    windows.append((None, *make_disjoint_window(window)))
                    owners.append(number)
            totals = [0.0] * len(requests)
            for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
                totals[number] += logprob
            return totals

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            alike: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                alike.setdefault(repr(request.args[1]), []).append(number)
            texts = [""] * len(requests)
            for numbers in alike.values():
                given = dict(normalize_gen_kwargs(requests[numbers[0]].args[1], NEW_TOKENS))
                until, most = [one for one in given.pop("until", []) if one], given.pop("max_gen_toks")
                if not given.get("do_sample"):
                    given = {name: value for name, value in given.items() if name not in ("temperature", "do_sample")}
                prompts = [self.fitted(self.tok_encode(requests[n].args[0]), self.max_length - most) for n in numbers]
                wanted = list(dict.fromkeys(prompts))
                said = progress("answering tasks", len(wanted))
                made = dict(zip(wanted, engine.generate(wanted, most, said, until, **given), strict=True))
                for number, prompt in zip(numbers, prompts, strict=True):
                    text = template.text(made[prompt])
                    texts[number] = text[: min((p for stop in until if (p := text.find(stop)) >= 0), default=None)]
            return texts

    return Asked()
