"""Audits of a model that vLLM runs, by a stand-in for it; tests/inference/backends/test_vllm.py has the
real one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.audit.test_audit_run import compose_audit, words
from unteach.audits import files, session
from unteach.config.inference import Sampling
from unteach.config.reader import ConfigErrors
from unteach.engines.hf import HFEngine
from unteach.errors import Preempted, UserError
from unteach.inference.backends.base import AnswerScore, Completion, Failure, Job, Request
from unteach.inference.backends.vllm import VLLM
from unteach.models import loading
from unteach.verbs import audit


class StandIn:
    """What vLLM would answer, by transformers."""

    opened: ClassVar[list["StandIn"]] = []
    labels = ()

    def __init__(self, job: Job):
        loaded = loading.load(job.model, training=False)
        self.engine = HFEngine(loaded.model, loaded.tokenizer, stops=loaded.template.stops)
        self.longest = job.longest
        self.num_asked = 0
        self.penalties: set[float | None] = set()
        self.is_closed = False
        self.opened.append(self)

    def generate(
        self, requests: Any, sampling: Sampling, done: set[int]
    ) -> Iterator[tuple[int, list[Completion] | Failure]]:
        for request in requests:
            self.note(request, sampling.max_new_tokens)
            self.penalties.add(sampling.repetition_penalty)
            if sampling.drawn:
                [found] = self.engine.sample(
                    [request.prompt],
                    sampling.num_return_sequences,
                    sampling.max_new_tokens,
                    request.seed,
                    do_sample=True,
                    top_k=0,
                )
            else:
                found = self.engine.generate([request.prompt], sampling.max_new_tokens)
            yield request.number, [Completion("", "eos", None, ids=tuple(ids)) for ids in found]

    def score(self, requests: Any, done: set[int]) -> Iterator[tuple[int, AnswerScore]]:
        for request in requests:
            self.note(request, len(request.answer))
            [score] = self.engine.score([(request.prompt, request.answer)])
            yield request.number, AnswerScore(tuple(score.logprob.tolist()))

    def note(self, request: Request, num_more: int) -> None:
        self.num_asked += 1
        assert len(request.prompt) + num_more <= self.longest

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.opened = []
    monkeypatch.setattr(VLLM, "check", lambda self: None)
    monkeypatch.setattr(VLLM, "open", lambda self, job: StandIn(job))


def read_summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "audit" / files.SUMMARY).read_text())
    return summary


def test_what_vllm_says_is_judged_as_what_transformers_says(kit: Path, tmp_path: Path) -> None:
    only = "audit.only=[rank,clean,prefill,leak_at_k,rtn4,relearn]"
    level = ["audit=standard", "audit.max_facts=4"]
    plain = words(kit, tmp_path / "hf", "reference")
    audit.run(compose_audit(*plain, *level, "audit.only=[rank,clean,prefill,leak_at_k]"))
    served = words(kit, tmp_path / "vllm", "reference")
    audit.run(
        compose_audit(*served, *level, only, "backend=vllm", "original=" + str(kit / "policy"))
    )

    found, expected = read_summary(tmp_path / "vllm"), read_summary(tmp_path / "hf")
    for name in ("rank", "clean", "prefill"):
        assert found["attacks"][name]["rate"] == expected["attacks"][name]["rate"]
    assert found["attacks"]["leak_at_k"]["leak_at_k"].keys()
    assert (found["backend"], expected["backend"]) == ("vllm", "hf")
    assert "vllm holds" in found["absent"]["rtn4"] and "vllm holds" in found["absent"]["relearn"]
    assert [one.is_closed for one in StandIn.opened] == [True, True]

    # What is known is not asked again, and no model is started for it.
    audit.run(
        compose_audit(
            *served, *level, only, "backend=vllm", "original=" + str(kit / "policy"), "resume=never"
        )
    )
    assert len(StandIn.opened) == 2


def test_a_stopped_audit_keeps_what_was_answered(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*words(kit, tmp_path, "reference"), "audit.only=[clean]", "backend=vllm"]
    whole = StandIn.generate

    def stop_early(self: StandIn, requests: Any, *rest: Any) -> Iterator[Any]:
        for count, answer in enumerate(whole(self, requests, *rest)):
            if count == 3:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(StandIn, "generate", stop_early)
    with pytest.raises(KeyboardInterrupt):
        audit.run(compose_audit(*given))
    monkeypatch.setattr(StandIn, "generate", whole)
    audit.run(compose_audit(*given))
    first, second = StandIn.opened
    assert first.is_closed and second.num_asked == count_asked(kit, tmp_path) - 3


def count_asked(kit: Path, folder: Path) -> int:
    config = compose_audit(*words(kit, folder, "reference"), "audit.only=[clean]")
    plan = session.plan_audit(config, loading.load_empty(config.model))
    return plan.battery.num_distinct


def test_a_question_that_vllm_does_not_take_ends_the_audit(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: StandIn, requests: Any, *_: Any) -> Iterator[Any]:
        yield requests[0].number, Failure("vLLM does not take this row: too long")

    monkeypatch.setattr(StandIn, "generate", refuse)
    given = [*words(kit, tmp_path, "reference"), "audit.only=[clean]", "backend=vllm"]
    with pytest.raises(UserError, match=r"no answer to a question of this audit.*too long"):
        audit.run(compose_audit(*given))


def test_a_processor_that_vllm_leaves_out_is_refused(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "unteach.audits.engine_model.list_processors"
    monkeypatch.setattr(name, lambda _: ["suppress_tokens of generation_config.json"])
    given = [*words(kit, tmp_path, "reference"), "audit.only=[clean]", "backend=vllm"]
    with pytest.raises(UserError, match=r"suppress_tokens.*vllm does not apply"):
        audit.run(compose_audit(*given))


def test_settings_of_generation_hold_or_are_refused(kit: Path, tmp_path: Path) -> None:
    """The original's too."""
    original = tmp_path / "original"
    shutil.copytree(kit / "policy", original)
    file = original / "generation_config.json"
    settings = json.loads(file.read_text())
    given = [*words(kit, tmp_path, "reference"), "audit.only=[clean]", "backend=vllm"]
    given.append(f"original={original}")
    file.write_text(json.dumps({**settings, "no_repeat_ngram_size": 3}))
    with pytest.raises(UserError, match=r"original has no_repeat_ngram_size of generation_config"):
        audit.run(compose_audit(*given))

    spelled_out = {"num_beams": 1, "length_penalty": 1.0, "no_repeat_ngram_size": 0}
    shown = {"output_scores": True, "output_attentions": False}
    own = {**settings, **spelled_out, **shown, "repetition_penalty": 1.3}
    file.write_text(json.dumps(own))
    audit.run(compose_audit(*given))
    assert [one.penalties for one in StandIn.opened] == [{1.3}, {None}]


def test_a_stop_is_heard_between_two_answers(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: object) -> None:
        raise Preempted("stopped")

    monkeypatch.setattr("unteach.distributed.process_context.DistContext.check_preemption", stop)
    given = [*words(kit, tmp_path, "reference"), "audit.only=[clean]", "backend=vllm"]
    with pytest.raises(Preempted):
        audit.run(compose_audit(*given))
    [opened] = StandIn.opened
    assert opened.num_asked == 1 and opened.is_closed


def test_another_backend_is_refused_by_name(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"backend=vllm.*backend=openai"):
        compose_audit(*words(kit, tmp_path, "reference"), "backend=sglang")


def test_a_batch_size_that_vllm_does_not_heed_is_refused(kit: Path, tmp_path: Path) -> None:
    given = [*words(kit, tmp_path, "reference"), "backend=vllm", "audit.batch_size=4"]
    with pytest.raises(UserError, match=r"audit\.batch_size.*max_num_seqs"):
        audit.run(compose_audit(*given))
