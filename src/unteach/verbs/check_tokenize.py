"""`unteach check tokenize input_file=… output_file=… tokenizer_path=…`: how rows would become
tokens, and none becomes any."""

from pathlib import Path

from unteach import owner
from unteach.config.tokenize import TokenizeConfig
from unteach.console import say
from unteach.verbs.tokenize import plan_tokenizing, refuse_other


def run(config: TokenizeConfig) -> None:
    """Say where the tokens would go, and which columns become tokens, and how.

    Raises:
        UserError: what the run would refuse before it reads the rows.
    """
    output = Path(config.output_file)
    owner.refuse_unwritable_beside(output)
    plan = plan_tokenizing(config)
    standing = "new"
    if output.exists():
        refuse_other(output, plan.facts)
        standing = "finished"
    say(f"output      {output} ({standing})")
    say(f"rows        {plan.table.where}")
    say(f"read        {', '.join(plan.columns)}")
    say(f"template    {plan.recipe.template.kind}")
    say(f"too long    {plan.recipe.too_long}, past {plan.recipe.max_length:,} tokens")
    say(f"processes   {plan.num_proc}")
    for note in plan.notes:
        say(f"note        {note}")
    print("nothing was tokenised, and nothing was written")
