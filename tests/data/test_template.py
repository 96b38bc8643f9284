"""Templates: exact boundaries, one BOS, one EOS that is always learned."""

from pathlib import Path
from typing import Any

import pytest

from unteach.config.schema import TemplateArgs
from unteach.data.handlers.qa import QADataset
from unteach.data.handlers.text import PretrainingDataset
from unteach.data.template import Template
from unteach.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_folder: Any) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


def test_qa_is_the_default_without_a_chat_template(tokenizer: Any) -> None:
    template = Template(tokenizer)
    encoded = template.encode("Who?", "Ann.")
    assert tokenizer.decode(encoded.prompt) == "Question: Who?\nAnswer:\n"
    assert tokenizer.decode(encoded.answer) == "Ann.</s>"
    assert encoded.labels == [-100] * len(encoded.prompt) + list(encoded.answer)


def test_tags_of_the_seed(tokenizer: Any) -> None:
    args = TemplateArgs(
        user_start_tag="[INST] ", user_end_tag=" [/INST]", asst_start_tag="", asst_end_tag=" "
    )
    assert (
        Template(tokenizer, args).write_prompt("Who?", [("A?", "a")])
        == "[INST] A? [/INST]a [INST] Who? [/INST]"
    )


def test_chat_label_ends_at_the_end_of_the_turn(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    template = Template(tokenizer, TemplateArgs(system_prompt="Be kind."))
    encoded = template.encode("Who?", "Ann.")
    assert template.kind == "chat"
    # the newline after the turn is not learned
    assert tokenizer.decode(encoded.answer) == "Ann.<|im_end|>"
    assert tokenizer.decode(encoded.prompt).startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert tokenizer.decode(encoded.prompt).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "answer", ["Use <s>old</s> here", "say <|im_end|> and go on", "end <|im_end|>", "<|im_start|>"]
)
def test_a_special_token_in_an_answer_does_not_end_it(tokenizer: Any, answer: str) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    for shown in (CHATML, CHATML.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")):
        tokenizer.chat_template = shown
        encoded = Template(tokenizer).encode("Who?", f" {answer}\n")
        assert (
            tokenizer.decode(encoded.answer).strip()
            == f"{answer}{'' if 'trim' in shown else chr(10)}<|im_end|>"
        )
    tokenizer.chat_template = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    with pytest.raises(UserError, match="does not show the answer as it is written"):
        Template(tokenizer).encode("WHO?", f"so: {answer}")


def test_a_special_token_before_an_answer_does_not_end_it(tokenizer: Any) -> None:
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|message|>"]}
    )
    tokenizer.chat_template = CHATML.replace(
        "{{ m['content'] }}", "final<|message|>{{ m['content'] }}"
    )
    encoded = Template(tokenizer).encode("Who?", "Ann.")
    assert tokenizer.decode(encoded.answer) == "final<|message|>Ann.<|im_end|>"


@pytest.mark.parametrize("kind", ["chat", "qa", "raw"])
def test_special_tokens_in_data_are_text(tokenizer: Any, kind: str) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    plain = Template(tokenizer, TemplateArgs(kind=kind)).encode("hi user yes", "one two")  # type: ignore[arg-type]
    template = Template(tokenizer, TemplateArgs(kind=kind))  # type: ignore[arg-type]
    question, answer = "hi</s>\n<|im_start|>user yes", "one</s>two<|im_end|>three"
    encoded = template.encode(question, answer)
    assert tokenizer.decode(encoded.prompt) == template.write_prompt(question)
    assert tokenizer.decode(encoded.answer[:-1]) == answer, "the answer is learned whole"
    for told, ours in ((encoded.prompt, plain.prompt), (encoded.answer, plain.answer)):
        assert [token for token in told if token in special] == [
            token for token in ours if token in special
        ]
    assert template.encode_prompt(question) == encoded.prompt, (
        "what is asked is what was learned from"
    )
    tokens = Template(tokenizer, TemplateArgs(kind=kind, special_tokens="tokens"))  # type: ignore[arg-type]
    assert tokenizer.eos_token_id in tokens.encode(question, answer).answer[:-1]
    assert tokenizer.decode(tokens.encode(question, answer).answer[:-1]) == answer


def test_text_of_a_special_token_is_tokenised_as_other_text_is(tokenizer: Any) -> None:
    """As the tokenizer splits a text in which it knows no special token."""
    for text in ("</s>", "a </s> b", "author</s>s"):
        split = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert (
            list(
                Template(tokenizer, TemplateArgs(kind="raw")).encode("Who?", f"{text}.").answer[:-2]
            )
            == split
        )
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"] == [2], (
        "the tokenizer itself is unchanged"
    )


def test_texts_are_tokenised_as_the_tokenizer_does(tokenizer: Any) -> None:
    """Its backend is asked directly, whatever somebody else has set in it."""
    special = Template(tokenizer).special
    texts = ("Who wrote it?", "", "a </s> b", "Zoë\n\n \u4e2d")
    for padded in (False, True):
        if padded:
            tokenizer(["x"], padding="max_length", truncation=True, max_length=3)
        for text in texts:
            for adds in (False, True):
                found = special.encode(text, add_special_tokens=adds)
                assert list(found) == tokenizer(text, add_special_tokens=adds)["input_ids"]
                if padded:
                    tokenizer(["x"], padding="max_length", truncation=True, max_length=3)


def test_a_tokenizer_with_steps_of_its_own_takes_them(tokenizer: Any) -> None:
    class Loud(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, text: str, **given: Any) -> Any:
            return super().__call__(text.upper(), **given)

    tokenizer.__class__ = Loud
    assert tokenizer.decode(Template(tokenizer).special.encode("who")) == "WHO"


@pytest.mark.parametrize("puts_bos", [True, False])
def test_text_written_with_its_bos_and_eos_has_one_of_each(tokenizer: Any, puts_bos: bool) -> None:
    from tokenizers.processors import TemplateProcessing

    if puts_bos:
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    raw = Template(tokenizer, TemplateArgs(kind="raw"))
    words = raw.encode("Hi", " there").input_ids[puts_bos:]
    assert raw.encode("<s>Hi", " there</s>").input_ids == [1, *words]
    assert raw.encode("", "<s>Hi").input_ids == [1, *raw.encode("", "Hi").answer]
    assert raw.write_prompt("<s>Hi") == "<s>Hi"
    tagged = Template(tokenizer, TemplateArgs(kind="qa", system_prompt_with_special_tokens="<s>"))
    assert tagged.encode_prompt("Hi").count(1) == 1


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ("hello", "what a turn of user says"),
        ("{{ '' }}", "what a turn of user says"),
        ("{{ messages[0]['content'] }}", "does not show the answer"),
        ("{% for m in messages %}{{ m['content'][:9] }}{% endfor %}", "does not show the answer"),
    ],
)
def test_a_template_that_loses_the_question_or_the_answer_is_refused(
    tokenizer: Any, shown: str, message: str, tmp_path: Path
) -> None:
    tokenizer.chat_template = shown
    template = Template(tokenizer)
    with pytest.raises(UserError, match=message):
        template.encode("Who?", "Ann and Bob and Cleo.")
    assert template.stops == (tokenizer.eos_token_id,)
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "Who?", "answer": "Ann and Bob and Cleo."}\n')
    with pytest.raises(UserError, match=rf"{message}.*\(row 1\)"):
        QADataset(template, {"path": "json", "data_files": str(file), "split": "train"})
    if "user" in message:
        with pytest.raises(UserError, match=message):
            template.encode_prompt("Who?")


THINKING = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}{% else %}"
    "<model>{{ m['content'].split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<model><think>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("answer", "learned"),
    [
        ("Ann.", "\n</think>\n\nAnn.</s>"),
        ("<b>Ann</b>", "\n</think>\n\n<b>Ann</b></s>"),
        ("<think>\nhm\n</think>\n\nAnn.", "hm\n</think>\n\nAnn.</s>"),
        ("hm </think> Ann.", "hm </think> Ann.</s>"),
    ],
)
def test_an_answer_follows_a_prompt_that_opens_reasoning(
    tokenizer: Any, answer: str, learned: str
) -> None:
    tokenizer.chat_template = THINKING
    encoded = Template(tokenizer).encode("Who?", answer)
    assert tokenizer.decode(encoded.prompt) == "<user>Who?<model><think>\n"
    assert tokenizer.decode(encoded.answer) == learned


def test_one_of_several_chat_templates_is_taken_by_its_name(tokenizer: Any) -> None:
    tokenizer.chat_template = {"a": CHATML, "b": CHATML.replace("assistant", "model")}
    with pytest.raises(
        UserError, match=r"several chat templates, a, b, .* model.template_args.chat_template=a"
    ):
        Template(tokenizer)
    with pytest.raises(UserError, match=r"no chat template called 'c'; it has a, b"):
        Template(tokenizer, TemplateArgs(chat_template="c"))
    assert (
        Template(tokenizer, TemplateArgs(chat_template="b"))
        .write_prompt("Who?")
        .endswith("<|im_start|>model\n")
    )
    assert Template(tokenizer, TemplateArgs(kind="qa")).kind == "qa"
    tokenizer.chat_template = {"default": CHATML, "b": "x"}
    assert Template(tokenizer).write_prompt("Who?").endswith("<|im_start|>assistant\n")
    tokenizer.chat_template = CHATML
    with pytest.raises(UserError, match="has one, without a name"):
        Template(tokenizer, TemplateArgs(chat_template="b"))


def test_raw_is_the_words_as_they_are(tokenizer: Any) -> None:
    encoded = Template(tokenizer, TemplateArgs(kind="raw")).encode("Once upon", " a time")
    assert tokenizer.decode(encoded.input_ids) == "Once upon a time</s>"


def test_a_tokenizer_that_puts_bos_and_eos_keeps_one_of_each(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ids = Template(tokenizer).encode("Who?", "Ann.").input_ids
    assert (ids.count(1), ids.count(2)) == (1, 1)
    assert (ids[0], ids[-1]) == (1, 2)


def test_joint_boundary_joins_before_tokenising(tokenizer: Any) -> None:
    apart = Template(tokenizer, TemplateArgs(kind="raw")).encode("auth", "ors")
    joint = Template(tokenizer, TemplateArgs(kind="raw", boundary="joint")).encode("auth", "ors")
    assert joint.input_ids == [*tokenizer("authors")["input_ids"], 2]
    assert tokenizer.decode(joint.input_ids) == tokenizer.decode(apart.input_ids)


def test_a_cut_answer_says_by_how_much(tokenizer: Any) -> None:
    whole = Template(tokenizer).encode("Who?", "Ann and Bob and Cleo.")
    cut = Template(tokenizer).encode(
        "Who?", "Ann and Bob and Cleo.", max_length=len(whole.input_ids) - 3
    )
    assert cut.cut == 3
    assert cut.answer == whole.answer[:-3]


def test_chat_without_a_chat_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no chat template"):
        Template(tokenizer, TemplateArgs(kind="chat"))


def test_an_answer_ends_with_its_turn_even_where_that_is_not_the_end_of_sequence(tiny: Any) -> None:
    """As Gemma's <end_of_turn> or Phi's <|end|>: it is learned, and generation stops there too."""
    import copy

    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    template = Template(tokenizer)
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert template.encode("Who?", "She.").answer[-1] == turn == template.eos
    assert template.stops == (turn, tokenizer.eos_token_id)


def test_rows_with_the_text_of_special_tokens_are_counted(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "one</s>two"}\n{"question": "Who?", "answer": "Ann."}\n'
    )
    given = {"path": "json", "data_files": str(file), "split": "train"}
    (note,) = QADataset(Template(tokenizer), given).notes()
    assert note.startswith(
        "1 row with the text of special tokens, which is read as text (row 1); model.template_args"
    )
    assert (
        QADataset(Template(tokenizer, TemplateArgs(special_tokens="tokens")), given).notes() == []
    )
    (note,) = PretrainingDataset(Template(tokenizer), given, text_key="answer").notes()
    assert "1 row with the text of special tokens" in note
    file.write_text('{"answer": "<s>one two</s>"}\n')
    assert PretrainingDataset(Template(tokenizer), given, text_key="answer").notes() == [], (
        "its own BOS and EOS"
    )
