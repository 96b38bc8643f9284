"""`unteach check forget ROWS model=MODEL`: what a request would do, and nothing of it done."""

from collections.abc import Sequence
from dataclasses import replace

from unteach import owner
from unteach.audits import session, table
from unteach.audits.taught_rows import group_by_row
from unteach.config.forget import YES, ForgetConfig
from unteach.console import say
from unteach.forgetting import exact, gguf_file, runs
from unteach.forgetting.earlier import find_earlier
from unteach.forgetting.overlap import refuse_overlap
from unteach.forgetting.price import describe_price, estimate_price
from unteach.forgetting.recipes import (
    BATCH_SIZE,
    Recipe,
    choose_num_steps,
    choose_recipes,
    choose_settings,
)
from unteach.forgetting.row_form import can_have_wrong_answers
from unteach.models import loading
from unteach.models.loading import LoadedModel
from unteach.verbs.forget import find_folder


def run(config: ForgetConfig) -> None:
    """Say which methods would be tried, how they are set, what they cost, and what their audits
    would ask."""
    folder = find_folder(config)
    owner.refuse_unwritable(folder)
    if config.gguf:
        gguf_file.refuse_unfit(config)
    way = exact.find_way(config, folder)
    earlier = find_earlier(config.model)
    say(f"folder      {folder}")
    if earlier is not None:
        say(f"earlier     {earlier.folder}: its {len(earlier.asked):,} facts stay forgotten")
        config = replace(config, model=earlier.model)
    audit = runs.compose_audit(runs.plan_audit_of_rows(config, folder))
    empty = loading.load_empty(audit.model)
    refuse_overlap(audit, empty, earlier)
    plan = session.plan_audit(audit, empty)
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())

    say(f"rows        {len(group_by_row(plan.context.audited)):,} of {config.rows}")
    say(f"model       {config.model}: {num_parameters:,} parameters")
    for line in exact.describe_way(way, "exact=yes does it" if config.exact != YES else "chosen"):
        say(f"exact       {line}")
    recipes = choose_recipes(config.method, can_have_wrong_answers(audit))
    if config.exact == YES:
        say(f"audits      level {config.level}, of the model after and of the model before:")
    else:
        _describe_search(config, recipes, empty, num_parameters)
        price = estimate_price(plan, num_parameters, len(recipes), config.budget, way.seconds_a_row)
        say(f"price       {describe_price(price)}")
        say(f"audits      level {config.level}, of each method's model and of the model before:")
    for line in table.describe_plan(plan):
        say(f"  {line}")
    say("nothing was trained, and nothing was written")


def _describe_search(
    config: ForgetConfig, recipes: Sequence[Recipe], empty: LoadedModel, num_parameters: int
) -> None:
    held = config.retain or "text that the model writes itself; retain=FILE gives rows to keep"
    say(f"held by     {held}")
    say(f"budget      KL {config.budget:g} nats a token")
    num_steps = choose_num_steps(num_parameters)
    for recipe in recipes:
        settings = choose_settings(recipe, num_parameters, empty.adapter is not None)
        say(
            f"method      {recipe.trainer}: {num_steps} steps of {BATCH_SIZE} rows, "
            f"{' '.join(settings)}"
        )
        say(f"            {recipe.why}")
    if config.may_end_early and len(recipes) > 1:
        say("            one of which nothing comes out, and which keeps 97 %, ends the search")
