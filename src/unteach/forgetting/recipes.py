"""How the methods that `unteach forget` tries are set: strong enough to go past the budget, from
which the result lands on it.

Rates of whole models are, of three or four, the best ones at equal budgets (docs/equal-budget.md:
the authors world, a million parameters, and SmolLM2). The rate of a LoRA is not measured.
"""

from dataclasses import dataclass

from unteach.errors import UserError, describe_unknown
from unteach.forgetting.known_rows import ALTERNATE

BATCH_SIZE = 8
NUM_STEPS, NUM_TINY_STEPS = 30, 300
"""Steps of a method, and of models of fewer than TINY parameters, to which more are cheap."""
WHOLE_UNTIL = 1_000_000_000
"""Parameters up to which a model is trained whole; a larger one with a LoRA."""
LORA = "{r: 16, lora_alpha: 32, target_modules: all-linear}"
TINY, TINY_RATE, WHOLE_RATE, LORA_RATE = 20_000_000, 3e-4, 2e-5, 5e-4
"""Learning rates: of models of fewer than TINY parameters, of larger ones, of a LoRA."""


@dataclass(frozen=True)
class Recipe:
    """One method as it is tried.

    Attributes:
        trainer: its name.
        words: its settings beside those that all have.
        takes_wrong_answers: whether it is trained towards a wrong answer to each question.
        rate_factor: how its learning rate stands to that of the others, in whole models.
        why: what is known of it at equal budgets.
    """

    trainer: str
    words: tuple[str, ...] = ()
    takes_wrong_answers: bool = False
    rate_factor: float = 1.0
    why: str = ""


HOLDS = ("trainer.method_args.alpha=1",)
"""Has a method train on rows to keep that leaves them out by itself."""
RECIPES = {
    "NPO": Recipe("NPO", why="the least left after attack on the authors world"),
    "DPO": Recipe(
        "DPO",
        (f"data.columns.alternate={ALTERNATE}",),
        takes_wrong_answers=True,
        why="trained towards wrong answers: the deepest on the people world",
    ),
    "WGA": Recipe("WGA", why="keeps most of what is to be kept among those that go deep"),
    "RMU": Recipe("RMU", rate_factor=3, why="turns hidden states, not answers"),
    "SimNPO": Recipe("SimNPO", why="needs no second model"),
    "GradDiff": Recipe("GradDiff", why="the plain difference of two losses"),
    "CEU": Recipe("CEU", HOLDS, rate_factor=10, why="hides little from prompts"),
    "UNDIAL": Recipe("UNDIAL", HOLDS, rate_factor=3, why="compares with a frozen copy"),
}
CHOSEN = ("WGA", "NPO", "DPO")
"""What is tried where nobody names methods, up to the first of which nothing comes out: first what
left least on SmolLM2, alone or with NPO (docs/forget.md)."""
CHOSEN_WITHOUT_ANSWERS = ("WGA", "NPO", "RMU")
"""The same for chats and documents, which have no wrong answer beside them."""


def choose_recipes(method: list[str] | str, has_wrong_answers: bool = True) -> list[Recipe]:
    """Choose the recipes of the methods that are named, or the usual ones.

    Args:
        method: names, or `auto`.
        has_wrong_answers: whether the rows can have a wrong answer beside each.

    Raises:
        UserError: there is no recipe of that name, or it needs what the rows cannot have.
    """
    usual = CHOSEN if has_wrong_answers else CHOSEN_WITHOUT_ANSWERS
    names = usual if method == "auto" else [method] if isinstance(method, str) else method
    for name in names:
        if name not in RECIPES:
            raise UserError(f"method: {describe_unknown('method of forget', name, RECIPES)}")
        if RECIPES[name].takes_wrong_answers and not has_wrong_answers:
            raise UserError(
                f"method: {name} is trained towards wrong answers to questions, and chats and "
                f"documents have none; leave it out (the usual methods are {', '.join(usual)})"
            )
    return [RECIPES[name] for name in dict.fromkeys(names)]


def choose_num_steps(num_parameters: int) -> int:
    """Choose how many steps each method takes."""
    return NUM_TINY_STEPS if num_parameters < TINY else NUM_STEPS


def choose_settings(recipe: Recipe, num_parameters: int, has_adapter: bool) -> list[str]:
    """Choose what depends on the model: its learning rate, and a LoRA where it is large."""
    is_large = num_parameters > WHOLE_UNTIL
    rate = recipe.rate_factor * (TINY_RATE if num_parameters < TINY else WHOLE_RATE)
    if is_large or has_adapter:
        rate = LORA_RATE
    words = [f"trainer.args.learning_rate={rate:g}"]
    if is_large and not has_adapter:
        words.append(f"model.peft_args={LORA}")
    return words
