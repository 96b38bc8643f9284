"""`unteach check forget ROWS model=MODEL`: what a request would do, and nothing of it done."""

from unteach.audits import session, table
from unteach.audits.taught_rows import group_by_row
from unteach.config.compose import compose
from unteach.config.forget import ForgetConfig
from unteach.config.schema import AuditConfig
from unteach.console import say
from unteach.data.user_files import resolve_files
from unteach.forgetting import runs
from unteach.forgetting.recipes import (
    BATCH_SIZE,
    NUM_STEPS,
    choose_recipes,
    choose_settings,
)
from unteach.forgetting.row_form import can_have_wrong_answers
from unteach.models import loading
from unteach.verbs.forget import find_folder


def run(config: ForgetConfig) -> None:
    """Say which methods would be tried, how they are set, and what their audits would ask."""
    folder = find_folder(config)
    look = compose("audit", runs.plan_look(config, folder).overrides)
    assert isinstance(look, AuditConfig)
    look = resolve_files(look)
    recipes = choose_recipes(config.method, can_have_wrong_answers(look))
    empty = loading.load_empty(look.model)
    plan = session.plan_audit(look, empty)
    num_parameters = sum(parameter.numel() for parameter in empty.model.parameters())
    has_adapter = empty.adapter is not None

    say(f"folder      {folder}")
    say(f"rows        {len(group_by_row(plan.context.audited)):,} of {config.rows}")
    say(f"model       {config.model}: {num_parameters:,} parameters")
    held = config.retain or "text that the model writes itself; retain=FILE gives rows to keep"
    say(f"held by     {held}")
    say(f"budget      KL {config.budget:g} nats a token")
    for recipe in recipes:
        settings = " ".join(choose_settings(recipe, num_parameters, has_adapter))
        say(f"method      {recipe.trainer}: {NUM_STEPS} steps of {BATCH_SIZE} rows, {settings}")
        say(f"            {recipe.why}")
    say(f"audits      level {config.level}, of each method's model and of the model before:")
    audit = compose("audit", runs.plan_audit_of_rows(config, folder).overrides)
    assert isinstance(audit, AuditConfig)
    for line in table.describe_plan(session.plan_audit(resolve_files(audit), empty)):
        say(f"  {line}")
    say("nothing was trained, and nothing was written")
