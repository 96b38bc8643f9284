"""What may be wrong with a model, a tokenizer, a log or the rows: one clear error, or a count,
each."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from tests.evals.test_suites import silent, tofu
from unteach.config.schema import TemplateArgs
from unteach.config.suites import RowsConfig, SuiteConfig
from unteach.data.template import Template
from unteach.engines.hf import HFEngine
from unteach.errors import UserError
from unteach.evals import suite_plan, suites
from unteach.evals.rows import EvalRows


def test_weights_that_are_not_a_number_name_the_metric(tiny: Any) -> None:
    import copy

    from unteach.models.forward import extend

    broken = copy.deepcopy(tiny.model)
    broken.__dict__.pop("forward", None)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    engine = HFEngine(extend(broken), tiny.tokenizer)
    for metric in ("forget_Q_A_Prob", "mia_min_k", "mia_gradnorm", "extraction_strength"):
        config = tofu(f"eval.tofu.metrics=[{metric}]", "forget_split=forget01")
        with pytest.raises(
            UserError,
            match=f"{metric}: the model's values are not finite at rows .*it has diverged",
        ):
            suites.evaluate(config, engine, tiny.template, silent, None)
    with pytest.raises(
        UserError,
        match="generating: the model's outputs are infinite or not a number: it has diverged",
    ):
        suites.evaluate(
            tofu("eval.tofu.metrics=[forget_Q_A_ROUGE]"), engine, tiny.template, silent, None
        )


@pytest.fixture
def merging() -> Any:
    """A tokenizer that makes one token of a line's end and an `A`, and of `ab`."""
    names = [*dict.fromkeys("Question: Answer\nab?"), "\nA", "ab", "<eos>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("\n", "A"), ("a", "b")]))
    bpe.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>"
    )


def rows_of(
    merging: Any, folder: Path, row: dict[str, Any], args: TemplateArgs, **settings: Any
) -> EvalRows:
    (folder / "r.jsonl").write_text(json.dumps(row))
    limits = {"max_length": settings.pop("max_length")} if "max_length" in settings else {}
    config = SuiteConfig(
        "s", [], {"r": RowsConfig({"path": str(folder), "name": "r"}, **settings)}, **limits
    )
    return EvalRows(config, Template(merging, args), settings.pop("context", None))


def test_a_tokenizer_that_joins_prompt_and_answer(merging: Any, tmp_path: Path) -> None:
    """Apart, the boundary is exact; joint, or inside one text, it moves, each answer keeps its own,
    and it is counted."""
    row = {"question": "a?", "answer": ["As", "b"]}
    apart = rows_of(merging, tmp_path, row, TemplateArgs(kind="qa"))
    first, second = apart.load_column("r.answer").pairs[0]
    assert first[0] == second[0] == tuple(merging("Question: a?\nAnswer:\n")["input_ids"])
    assert apart.num_joined == {}
    joint = rows_of(merging, tmp_path, row, TemplateArgs(kind="qa", boundary="joint"))
    first, second = joint.load_column("r.answer").pairs[0]
    assert merging.decode([*first[0], *first[1]]) == "Question: a?\nAnswer:\nAs<eos>"
    assert first[0] != second[0], "the boundary of the one moved, that of the other did not"
    assert joint.num_joined == {"r.answer": 1}
    text = rows_of(merging, tmp_path, {"question": "a", "rest": "b"}, TemplateArgs(), kind="text")
    assert text.num_joined == {}


def test_moved_boundaries_are_told(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Template.encode

    def moved(self: Template, *args: Any, **kwargs: Any) -> Any:
        encoded = real(self, *args, **kwargs)
        return type(encoded)(
            encoded.prompt[:-1], (encoded.prompt[-1], *encoded.answer), encoded.cut
        )

    monkeypatch.setattr(Template, "encode", moved)
    template = Template(tiny.tokenizer, TemplateArgs(boundary="joint"))
    config = tofu("eval.tofu.metrics=[mia_loss]", "forget_split=forget01")
    suites.evaluate(config, HFEngine(tiny.model, tiny.tokenizer), template, silent, tmp_path)
    assert (
        "2: the tokenizer joins"
        in json.loads((tmp_path / "TOFU_NOTES.json").read_text())[
            "boundaries moved in mia_forget.answer"
        ]
    )


def test_empty_continuations_are_worth_nothing(tiny: Any, tmp_path: Path) -> None:
    class Silent(HFEngine):
        def generate(self, prompts: Any, *_: Any, **__: Any) -> Any:
            return [[] for _ in prompts]

    config = tofu("eval.tofu.metrics=[forget_Q_A_ROUGE]", "forget_split=forget01")
    value = suites.evaluate(
        config, Silent(tiny.model, tiny.tokenizer), tiny.template, silent, tmp_path
    )["tofu"]
    assert value["forget_Q_A_ROUGE"].agg == 0
    assert value["forget_Q_A_ROUGE"].n == 2


class Short(HFEngine):
    """A model that reads 30 tokens."""

    context = 30  # type: ignore[assignment]


def test_answers_and_continuations_longer_than_the_context_are_cut_and_counted(
    tiny: Any, tmp_path: Path
) -> None:
    (tmp_path / "forget10_perturbed.jsonl").write_text(
        "\n".join(json.dumps({"question": "Who?", "answer": a}) for a in ("Mara", "word " * 60))
    )
    config = tofu(
        "eval.tofu.metrics=[forget_Q_A_Prob,forget_Q_A_ROUGE]",
        "eval.tofu.generation.max_new_tokens=50",
        path=str(tmp_path),
    )
    engine = Short(tiny.model, tiny.tokenizer)
    suites.evaluate(config, engine, tiny.template, silent, tmp_path)
    notes = json.loads((tmp_path / "TOFU_NOTES.json").read_text())
    assert (
        "1: longer than max_length allows, or than the model reads"
        in notes["answers cut in forget.answer"]
    )
    assert "2: the model's context ends before" in notes["continuations cut in forget.answer"]
    assert not (tmp_path / "TOFU_ABSENT.json").exists(), "no metric is absent"
    prompt = tiny.template.encode_prompt("Who?")
    [made] = engine.generate([prompt], 50)
    assert 0 < len(made) <= 30 - len(prompt)
    with pytest.raises(UserError, match="a prompt of 31 tokens leaves the model no room"):
        engine.generate([tuple(range(31))], 5)


@pytest.mark.parametrize("key", ["retain_logs_path", "before_logs_path"])
@pytest.mark.parametrize("size", [0, 20, -3])
def test_a_log_that_a_crash_cut_short(tiny: Any, tmp_path: Path, key: str, size: int) -> None:
    engine = HFEngine(tiny.model, tiny.tokenizer)
    suites.evaluate(
        tofu("eval.tofu.metrics=[mia_loss]", "forget_split=forget01"),
        engine,
        tiny.template,
        silent,
        tmp_path,
    )
    log = tmp_path / "TOFU_EVAL.json"
    log.write_text(log.read_text()[:size])
    with pytest.raises(UserError, match=f"{key}: .* is not whole JSON .*make it again"):
        suite_plan.plan_suite(tofu(f"{key}={log}")["tofu"], tiny.template)


def test_a_log_of_the_model_before_is_read_as_a_retain_log_is(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"before_logs_path=.*: no \*_EVAL.json in this folder"):
        suite_plan.plan_suite(tofu(f"before_logs_path={tmp_path}")["tofu"], tiny.template)
