"""`unteach check forget ROWS model=MODEL`: what a request would do, and nothing of it done."""

from collections.abc import Sequence

from unteach.audits import session, table
from unteach.config.forget import YES, ForgetConfig
from unteach.console import say
from unteach.forgetting import exact, gguf_file, runs
from unteach.forgetting.recipes import (
    BATCH_SIZE,
    NUM_STEPS,
    Recipe,
    choose_recipes,
    choose_settings,
)
from unteach.models import loading
from unteach.verbs.forget import find_folder


def run(config: ForgetConfig) -> None:
    """Say which methods would be tried, how they are set, and what their audits would ask."""
    folder = find_folder(config)
    if config.gguf:
        gguf_file.refuse_unfit(config)
    recipes = choose_recipes(config.method)
    look = runs.compose_audit(runs.plan_look(config, folder))
    empty = loading.load_empty(look.model)
    plan = session.plan_audit(look, empty)
    way = exact.find_way(config, folder, len(recipes))
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())
    has_adapter = empty.adapter is not None

    say(f"folder      {folder}")
    say(f"rows        {len(plan.context.audited):,} of {config.rows}")
    say(f"model       {config.model}: {num_parameters:,} parameters")
    for line in exact.describe_way(way, "exact=yes does it" if config.exact != YES else "chosen"):
        say(f"exact       {line}")
    if config.exact != YES:
        _describe_search(config, recipes, num_parameters, has_adapter)
    after = "the model after" if config.exact == YES else "each method's model"
    say(f"audits      level {config.level}, of {after} and of the model before:")
    audit = runs.compose_audit(runs.plan_audit_of_rows(config, folder))
    for line in table.describe_plan(session.plan_audit(audit, empty)):
        say(f"  {line}")
    say("nothing was trained, and nothing was written")


def _describe_search(
    config: ForgetConfig, recipes: Sequence[Recipe], num_parameters: int, has_adapter: bool
) -> None:
    held = config.retain or "text that the model writes itself; retain=FILE gives rows to keep"
    say(f"held by     {held}")
    say(f"budget      KL {config.budget:g} nats a token")
    for recipe in recipes:
        settings = " ".join(choose_settings(recipe, num_parameters, has_adapter))
        say(f"method      {recipe.trainer}: {NUM_STEPS} steps of {BATCH_SIZE} rows, {settings}")
        say(f"            {recipe.why}")
