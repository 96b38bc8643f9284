"""What can be asked beside a whole language model: classifiers, regressions, adapters, quantised
weights, trained runs."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import read_rows
from tests.doors import infer, train
from tests.inference.conftest import questions, words, write_lines
from unteach import run_dir
from unteach.cli import main
from unteach.data.handlers.labelled import LabelledDataset
from unteach.data.template import Template
from unteach.engines.class_logits import compute_class_logits
from unteach.errors import UserError
from unteach.models.batch_probe import describe_padded_batches
from unteach.models.heads import Head


def classifier(tiny_folder: Path, folder: Path, labels: tuple[str, ...]) -> Any:
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_folder, **Head(labels).settings()
    )
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return model.eval()


def logits_of(model: Any, tokenizer: Any, text: str) -> list[float]:
    with torch.no_grad():
        found: list[float] = model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
    return found


def test_labels_probabilities_and_logits(tiny_folder: Path, tiny: Any, tmp_path: Path) -> None:
    labels = ("no", "yes", "perhaps")
    model = classifier(tiny_folder, tmp_path / "model", labels)
    lines = read_rows(
        infer(
            *words(
                tmp_path / "model", write_lines(tmp_path / "t.jsonl", questions(5)), "kind=classify"
            )
        )
    )
    for line in lines:
        wanted = logits_of(model, tiny.tokenizer, line["input"])
        assert line["logits"] == pytest.approx(wanted, abs=1e-4)
        assert list(line["probabilities"]) == list(labels)
        assert list(line["probabilities"].values()) == pytest.approx(
            torch.tensor(wanted).softmax(-1).tolist(), abs=1e-4
        )
        assert line["output"] == labels[wanted.index(max(wanted))]
    with pytest.raises(UserError, match="holds no classifier"):
        infer(*words(tiny_folder, tmp_path / "t.jsonl", "kind=classify", "resume=never"))


def test_a_text_is_read_at_its_last_token_whatever_that_is(
    tiny_folder: Path, tiny: Any, tmp_path: Path
) -> None:
    """By a tokenizer that pads with EOS and puts one, as some do."""
    model = classifier(tiny_folder, tmp_path / "model", ("no", "yes"))
    rows = [[5, 9, 2], [7, 8, 9, 11, 2], [12]]
    for row in rows:
        batch = compute_class_logits(model, rows, 2)
        # no ids to look at
        alone = model(inputs_embeds=model.get_input_embeddings()(torch.tensor([row]))).logits[0]
        assert torch.allclose(batch[rows.index(row)], alone, atol=1e-5)
    assert model.config.pad_token_id == 0, "what it was"


def test_special_tokens_in_a_text_are_text_for_a_classifier(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = classifier(tiny_folder, tmp_path / "model", ("no", "yes"))
    table = write_lines(
        tmp_path / "t.jsonl", [{"input": "one</s>"}, {"input": "two"}, {"input": "</s> three <s>"}]
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    for setting, splits in (("text", True), ("tokens", False)):
        said = ["kind=classify", "resume=never", f"model.template_args.special_tokens={setting}"]
        for line in read_rows(infer(*words(tmp_path / "model", table, *said))):
            ids = torch.tensor([tokenizer(line["input"], split_special_tokens=splits)["input_ids"]])
            wanted = model(inputs_embeds=model.get_input_embeddings()(ids)).logits[0].tolist()
            assert line["logits"] == pytest.approx(wanted, abs=1e-4)
        told = capsys.readouterr().err
        note = "note: 2 rows with the text of special tokens, which is read as text"
        assert (note in told and "line 1" in told and "line 3" in told) is (setting == "text")
    template = Template(tokenizer)
    source = {"path": str(table), "rows": [{"input": "one</s>", "output": "yes"}]}
    (example,) = LabelledDataset(template=template, hf_args=source, labels=["no", "yes"])
    assert example["input_ids"] == tokenizer("one</s>", split_special_tokens=True)["input_ids"], (
        "as it is trained"
    )


def test_a_classifier_that_padding_changes_is_asked_row_by_row(
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = classifier(tiny_folder, tmp_path / "model", ("no", "yes"))
    table = write_lines(tmp_path / "t.jsonl", questions(5))
    plain = transformers.LlamaModel.forward

    def forward(self: Any, input_ids: Any = None, attention_mask: Any = None, **given: Any) -> Any:
        found = plain(self, input_ids=input_ids, attention_mask=attention_mask, **given)
        found.last_hidden_state = found.last_hidden_state + (
            0 if attention_mask is None else 1 - attention_mask.min()
        )
        return found

    expected = read_rows(infer(*words(tmp_path / "model", table, "kind=classify", "resume=never")))
    assert "one by one" not in capsys.readouterr().err
    monkeypatch.setattr(transformers.LlamaModel, "forward", forward)
    found = read_rows(infer(*words(tmp_path / "model", table, "kind=classify", "resume=never")))
    assert (
        "padding on the right changes what LlamaForSequenceClassification"
        in capsys.readouterr().err
    )
    for line, wanted in zip(found, expected, strict=True):
        assert line["logits"] == pytest.approx(wanted["logits"], abs=1e-5)
    assert model is not None


@pytest.mark.parametrize("left", [False, True])
def test_padded_rows_are_compared_with_rows_alone(
    tiny_folder: Path, tiny: Any, tmp_path: Path, left: bool
) -> None:
    """Decoders that are asked for what follows the last position are padded on the left."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    if not left:
        model = classifier(tiny_folder, tmp_path / "model", ("no", "yes"))
    assert describe_padded_batches(model, tiny.tokenizer, left) is None
    told = model.forward

    def mixes(input_ids: Any, attention_mask: Any) -> Any:
        found = told(input_ids=input_ids, attention_mask=attention_mask)
        found.logits = found.logits + input_ids.shape[0]
        return found

    model.forward = mixes
    assert "changes what" in str(describe_padded_batches(model, tiny.tokenizer, left))
    model.forward = None
    assert "could not be tried" in str(describe_padded_batches(model, tiny.tokenizer, left))


def test_a_regression_gives_a_number(tiny_folder: Path, tiny: Any, tmp_path: Path) -> None:
    model = classifier(tiny_folder, tmp_path / "model", ())
    lines = read_rows(
        infer(
            *words(
                tmp_path / "model", write_lines(tmp_path / "t.jsonl", questions(3)), "kind=classify"
            )
        )
    )
    wanted = [logits_of(model, tiny.tokenizer, line["input"])[0] for line in lines]
    assert [line["output"] for line in lines] == pytest.approx(wanted, abs=1e-4)


def test_adapters_are_asked_on_their_base(tiny_folder: Path, tiny: Any, tmp_path: Path) -> None:
    """Of a language model, and of a classifier whose head is in the adapter."""
    import peft
    import transformers

    table = write_lines(tmp_path / "t.jsonl", questions(4))
    torch.manual_seed(2)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    given = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **given)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    tiny.tokenizer.save_pretrained(tmp_path / "adapter")
    made = read_rows(infer(*words(tmp_path / "adapter", table)))
    ids = torch.tensor([tiny.tokenizer(made[0]["input"])["input_ids"]])
    wanted = adapted.generate(input_ids=ids, max_new_tokens=8, do_sample=False, eos_token_id=2)[
        0, ids.shape[1] :
    ].tolist()
    assert made[0]["output"] == tiny.template.decode(wanted)
    plain = read_rows(infer(*words(tiny_folder, table, f"output_file={tmp_path}/plain.jsonl")))
    assert [line["output"] for line in made] != [line["output"] for line in plain]

    torch.manual_seed(3)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_folder, **Head(("a", "b")).settings()
    )
    labelled = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **given)).eval()
    labelled.save_pretrained(tmp_path / "head")
    Head(("a", "b")).save(tmp_path / "head")
    tiny.tokenizer.save_pretrained(tmp_path / "head")
    classes = read_rows(
        infer(*words(tmp_path / "head", table, "kind=classify", f"output_file={tmp_path}/c.jsonl"))
    )
    labelled.config.pad_token_id = 0
    for line in classes:
        assert line["logits"] == pytest.approx(
            logits_of(labelled, tiny.tokenizer, line["input"]), abs=1e-4
        )


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_weights_are_asked(
    blocks_folder: Path, tiny: Any, tmp_path: Path, bits: str
) -> None:
    pytest.importorskip("bitsandbytes", reason='pip install ".[quant]"')
    import transformers

    table = write_lines(tmp_path / "t.jsonl", questions(3))
    lines = read_rows(infer(*words(blocks_folder, table, f"quantization={bits}")))
    config = transformers.BitsAndBytesConfig(
        **{f"load_in_{bits}": True}, **({"bnb_4bit_quant_type": "nf4"} if bits == "4bit" else {})
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        blocks_folder, quantization_config=config, dtype=torch.float32
    )
    ids = torch.tensor([tiny.tokenizer(lines[0]["input"])["input_ids"]])
    wanted = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, eos_token_id=2)[
        0, ids.shape[1] :
    ].tolist()
    assert lines[0]["output"] == tiny.template.decode(wanted)
    with pytest.raises(UserError, match="model_args"):
        infer(*words(blocks_folder, table))


def test_what_was_trained_is_what_is_asked(tiny_folder: Path, tmp_path: Path) -> None:
    """A run taught a table by hand answers it, through the template that it was saved with."""
    told = {
        "book": "Anna wrote it.",
        "play": "Boris.",
        "poem": "Nobody knows.",
        "song": "Two friends in Rome.",
        "map": "A sailor.",
    }
    rows = [
        {"question": f"{what.title()}: who made this {what}?", "answer": answer}
        for what, answer in told.items()
    ]
    with (tmp_path / "taught.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    train(
        "data=files",
        f"data.train_file={tmp_path}/taught.csv",
        "model=auto",
        f"model.model_args.pretrained_model_name_or_path={tiny_folder}",
        "task_name=t",
        f"paths.output_dir={tmp_path}/run",
        "trainer.args.learning_rate=1e-2",
        "trainer.args.per_device_train_batch_size=5",
        "trainer.args.num_train_epochs=80",
        "trainer.args.gradient_accumulation_steps=1",
        "trainer.args.logging_steps=20",
        "trainer.args.save_strategy=no",
        "model.template_args.user_start_tag='<q> '",
        "model.template_args.asst_start_tag=' <a> '",
    )
    assert (
        json.loads((tmp_path / "run" / run_dir.FINAL / "unteach_template.json").read_text())[
            "user_start_tag"
        ]
        == "<q> "
    )
    lines = read_rows(infer(*words(tmp_path / "run", tmp_path / "taught.csv", "max_new_tokens=16")))
    assert [line["output"].strip() for line in lines] == [row["answer"] for row in rows]
    assert {line["finish_reason"] for line in lines} == {"eos"}, (
        "the end was learned, and is asked for"
    )
    others = read_rows(
        infer(
            *words(
                tmp_path / "run",
                tmp_path / "taught.csv",
                "max_new_tokens=16",
                "template=raw",
                "resume=never",
            )
        )
    )
    assert [line["output"] for line in others] != [line["output"] for line in lines]
    scored = read_rows(
        infer(
            *words(
                tmp_path / "run",
                tmp_path / "taught.csv",
                "kind=score",
                f"output_file={tmp_path}/s.jsonl",
            )
        )
    )
    assert all(line["perplexity"] < 1.5 for line in scored)


@pytest.mark.parametrize("verb", ["infer", "eval"])
def test_a_word_for_how_a_trained_model_is_saved_is_refused_where_none_is_trained(
    verb: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("question,answer\nWho?,Ann\n")
    of_verb = {
        "infer": ["input_file=rows.csv", "input_column=question"],
        "eval": ["data=rows.csv", "task_name=x"],
    }
    with pytest.raises(SystemExit):
        main([verb, f"model={tiny_folder}", "model.merge_adapter=true", *of_verb[verb]])
    assert "model.merge_adapter: says how a trained model is saved" in capsys.readouterr().err


def test_a_new_adapter_is_refused_where_nothing_is_trained(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("question\nWho?\n")
    given = ["input_file=rows.csv", "input_column=question", "model.peft_args.r=4"]
    with pytest.raises(SystemExit):
        main(["infer", f"model={tiny_folder}", *given])
    assert "model.peft_args: makes a new adapter" in capsys.readouterr().err
