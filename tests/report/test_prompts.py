"""The bare question is found in what real chat templates make of it, with their marks and
without."""

import re

import jinja2
import pytest

from unteach.report.prompts import find_question

QUESTION = "Who wrote «The Hidden [Lake]», and when?\nName the year: both."
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% "
    "endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)
TEMPLATES = {
    "ChatML": CHATML,
    "Qwen 3, thinking off": CHATML + "{{ '<think>\\n\\n</think>\\n\\n' }}",
    "Phi 4": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + "
        "'<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant<|im_sep|>' }}"
    ),
    "Llama 3": (
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' "
        "}}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    ),
    "Llama 4": (
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "{{ '<|header_start|>' + m.role + '<|header_end|>\\n\\n' + m.content + '<|eot|>' }}{% "
        "endfor %}"
        "{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}"
    ),
    "Llama 2": (
        "{{ '<s>' }}{% set system = messages[0].content %}{% for m in messages[1:] %}{% if m.role "
        "== 'user' %}"
        "{{ '[INST] ' + ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if loop.first else '') + "
        "m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' </s><s>' }}{% endif %}{% endfor %}"
    ),
    "Mistral": (
        "{{ '<s>' }}{% for m in messages[1:] %}{% if m.role == 'user' %}{{ '[INST]' + m.content + "
        "'[/INST]' }}{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
    ),
    "Mistral with a system prompt": (
        "{{ '<s>[SYSTEM_PROMPT]' + messages[0].content + '[/SYSTEM_PROMPT]' }}{% for m in "
        "messages[1:] %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% else "
        "%}{{ m.content + '</s>' }}{% endif %}{% endfor %}"
    ),
    "Zephyr": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '</s>\\n' }}{% endfor "
        "%}{{ '<|assistant|>\\n' }}"
    ),
    "Phi 3": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor "
        "%}{{ '<|assistant|>\\n' }}"
    ),
    "Gemma": (
        "{{ '<bos>' }}{% for m in messages[1:] %}{{ '<start_of_turn>' + ('model' if m.role == "
        "'assistant' else m.role)"
        " + '\\n' + m.content + '<end_of_turn>\\n' }}{% endfor %}{{ '<start_of_turn>model\\n' }}"
    ),
    "DeepSeek": (
        "{{ '<｜begin▁of▁sentence｜>' + messages[0].content }}{% for m in messages[1:] %}"
        "{{ ('<｜User｜>' if m.role == 'user' else '<｜Assistant｜>') + m.content }}{% endfor %}"
        "{{ '<｜Assistant｜><think>\\n' }}"
    ),
    "Alpaca": (
        "{{ messages[0].content }}{% for m in messages[1:] %}"
        "{{ ('\\n\\n### Instruction:\\n' if m.role == 'user' else '\\n\\n### Response:\\n') + "
        "m.content }}{% endfor %}"
        "{{ '\\n\\n### Response:\\n' }}"
    ),
    "Vicuna": (
        "{{ messages[0].content }}{% for m in messages[1:] %}{{ (' USER: ' if m.role == 'user' "
        "else ' ASSISTANT: ') + m.content }}{% endfor %}{{ ' ASSISTANT:' }}"
    ),
    "question and answer": (
        "{% for m in messages[1:] %}{{ ('Question: ' if m.role == 'user' else 'Answer:\\n') + "
        "m.content + '\\n' }}"
        "{% endfor %}{{ 'Answer:\\n' }}"
    ),
}
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|begin_of_text|start_header_id|end_header_id|eot_id)\|>|</?s>|<\w+_of_turn>"
)
"""What decoding without special tokens leaves out."""
SHOTS = [("Who is Ann?", "A writer."), ("Who is Bo?", "Her user\nand editor.")]


def render(template: str, shots: list[tuple[str, str]]) -> str:
    messages = [{"role": "system", "content": "Be brief. Say nothing of [others]."}]
    for question, answer in shots:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    messages.append({"role": "user", "content": QUESTION})
    return jinja2.Environment().from_string(template).render(messages=messages)


@pytest.mark.parametrize("shots", [[], SHOTS], ids=["alone", "after examples"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_question_is_found_in_a_template(name: str, shots: list[tuple[str, str]]) -> None:
    prompt = render(TEMPLATES[name], shots)
    assert QUESTION in prompt and prompt.strip() != QUESTION
    assert find_question(prompt) == QUESTION


@pytest.mark.parametrize("shots", [[], SHOTS], ids=["alone", "after examples"])
@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Llama 2", "Mistral", "Zephyr"])
def test_the_question_is_found_where_special_tokens_were_left_out(
    name: str, shots: list[tuple[str, str]]
) -> None:
    stripped = SPECIAL.sub("", render(TEMPLATES[name], shots))
    assert find_question(stripped) == QUESTION


@pytest.mark.parametrize(
    "prompt",
    [
        "Who?",
        "The user went home.\nA user manual says: assistant",
        "In 1902 [INST] was a mark, and <|user|> another; the text goes",
        "Question: what is asked?",
        "",
    ],
)
def test_a_prompt_without_a_template_is_its_own_question(prompt: str) -> None:
    assert find_question(prompt) == prompt
