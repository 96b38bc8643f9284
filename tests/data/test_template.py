"""Templates: exact boundaries, one BOS, one EOS that is always learned."""

from typing import Any

import pytest

from unteach.config.schema import TemplateArgs
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
    args = TemplateArgs(user_start_tag="[INST] ", user_end_tag=" [/INST]", asst_start_tag="", asst_end_tag=" ")
    assert Template(tokenizer, args).prompt("Who?", [("A?", "a")]) == "[INST] A? [/INST]a [INST] Who? [/INST]"


def test_chat_label_ends_at_the_end_of_the_turn(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    template = Template(tokenizer, TemplateArgs(system_prompt="Be kind."))
    encoded = template.encode("Who?", "Ann.")
    assert template.kind == "chat"
    assert tokenizer.decode(encoded.answer) == "Ann.<|im_end|>"  # the newline after the turn is not learned
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
        assert tokenizer.decode(encoded.answer).strip() == f"{answer}{'' if 'trim' in shown else chr(10)}<|im_end|>"
    tokenizer.chat_template = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    with pytest.raises(UserError, match=r"holds the text of a special token, <.*>, and the chat template shows"):
        Template(tokenizer).encode("Who?", answer)


def test_a_special_token_before_an_answer_does_not_end_it(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|message|>"]})
    tokenizer.chat_template = CHATML.replace("{{ m['content'] }}", "final<|message|>{{ m['content'] }}")
    encoded = Template(tokenizer).encode("Who?", "Ann.")
    assert tokenizer.decode(encoded.answer) == "final<|message|>Ann.<|im_end|>"


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
    cut = Template(tokenizer).encode("Who?", "Ann and Bob and Cleo.", max_length=len(whole.input_ids) - 3)
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
