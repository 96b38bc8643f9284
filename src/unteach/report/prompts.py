"""Finds the bare question in a prompt, for logs that hold only the prompt as the model was given
it.

Our own evaluations write the question beside the prompt. Older files and the logs of others do not:
there it is what stands between the last opening of the user's turn and the opening of the answer,
in any of the templates below.
"""

import re
from dataclasses import dataclass

SPACE = r"\s*"
THINKING = r"(?:<think>\s*(?:</think>)?)?"
"""Some templates open the answer with the model's thoughts, or with none."""


@dataclass(frozen=True)
class PromptStyle:
    """How a template opens the user's turn, and how it ends it and opens the answer; regular
    expressions."""

    name: str
    user: str
    answer: str

    def compile(self) -> re.Pattern[str]:
        """The pattern of a whole prompt: the user's last turn is its group."""
        turn = rf"((?:(?!{self.user}).)*?)"
        ending = rf"{SPACE}(?:{self.answer}){SPACE}{THINKING}{SPACE}\Z"
        return re.compile(rf"(?:{self.user}){SPACE}{turn}{ending}", re.DOTALL)


STYLES = (
    # Phi 4 writes <|im_sep|> where the others have a line's end
    PromptStyle(
        "ChatML",
        r"<\|im_start\|>user(?:<\|im_sep\|>|\n)",
        r"<\|im_end\|>\s*(?:<\|im_start\|>assistant(?:<\|im_sep\|>)?)?",
    ),
    PromptStyle(
        "Llama 3",
        r"<\|start_header_id\|>user<\|end_header_id\|>",
        r"<\|eot_id\|>\s*(?:<\|start_header_id\|>assistant<\|end_header_id\|>)?",
    ),
    PromptStyle(
        "Llama 4",
        r"<\|header_start\|>user<\|header_end\|>",
        r"<\|eot\|>\s*(?:<\|header_start\|>assistant<\|header_end\|>)?",
    ),
    PromptStyle("Gemma", r"<start_of_turn>user\n", r"<end_of_turn>\s*(?:<start_of_turn>model)?"),
    PromptStyle(
        "Zephyr and Phi 3",
        r"<\|user\|>",
        r"(?:</s>|<\|end\|>|<\|endoftext\|>)?\s*<\|assistant\|>|(?:</s>|<\|end\|>|<\|endoftext\|>)",
    ),
    PromptStyle("Llama 2 and Mistral", r"\[INST\](?:\s*<<SYS>>.*?<</SYS>>)?", r"\[/INST\]"),
    PromptStyle("DeepSeek", r"<[｜|]User[｜|]>", r"<[｜|]Assistant[｜|]>"),
    PromptStyle(
        "Alpaca",
        r"(?:\A|\n)#+ ?(?:Instruction|Question|User|Human):",
        r"\n#+ ?(?:Response|Answer|Assistant):",
    ),
    PromptStyle("Vicuna", r"(?:\A|\s)(?:USER|Human):", r"\s(?:ASSISTANT|Assistant):"),
    PromptStyle("question and answer", r"(?:\A|\n)\s*(?:Question|Q):", r"(?:Answer|A):"),
    # the tokens that mark the turns are left out of OpenUnlearning's logs, which leaves the names
    # of the roles
    PromptStyle(
        "chat without its marks",
        r"(?:\Asystem\s*\n.*|\A|\n)user\s*\n",
        r"(?:assistant|model)",
    ),
)
PATTERNS = tuple(style.compile() for style in STYLES)


def find_question(prompt: str) -> str:
    """Give the question alone, without the template around it and the examples before it.

    A prompt in none of the templates is its own question.
    """
    for pattern in PATTERNS:
        if match := pattern.search(prompt):
            return match.group(1).strip()
    return prompt.strip()
