"""`unteach check infer model=… input_file=…`: what would be asked, and nothing of it asked."""

from pathlib import Path

from unteach import owner
from unteach.config.inference import find_output_file
from unteach.config.verb_configs import CheckInferConfig
from unteach.console import say
from unteach.data.io import tables
from unteach.inference import input_table, output_columns, planning
from unteach.inference.result_store import ResultStore
from unteach.models.hub import PATH
from unteach.wording import format_count


def run(config: CheckInferConfig) -> None:
    """Say where the answers would go, which rows would be asked, and how the first prompt reads.

    The prompts are built as the run builds them; no weights are loaded.

    Raises:
        UserError: what the run would refuse before it asks.
    """
    infer = config.infer
    infer.backend.check()
    output = find_output_file(infer)
    _refuse_place(output)
    table = tables.open_table(infer.input_file)
    columns = input_table.find_columns(table, infer)
    answer_columns = output_columns.list_columns(infer)
    sheet = input_table.read_input_table(table, columns, infer, answer_columns)
    plan = planning.plan(infer, columns, sheet)
    standing = ResultStore(output, answer_columns).describe_standing(
        plan.settings, sheet, infer.resume, infer.changed
    )

    say(f"output      {output} ({standing})")
    say(f"rows        {format_count(len(sheet), 'row')} of {table.where}")
    say(f"read        {', '.join(columns.list_names())}")
    say(f"model       {infer.model.model_args[PATH]}, backend={infer.backend_name}")
    if len(plan.prepared.unasked):
        num_unasked = format_count(len(plan.prepared.unasked), "row")
        number, reason = plan.prepared.unasked[0]
        say(f"not asked   {num_unasked}; row {number}: {reason}")
    for note in plan.notes:
        say(f"note        {note}")
    print("nothing was asked, and nothing was written")


def _refuse_place(output: Path) -> None:
    """Raise what writing the answers would raise: beside the output and in a folder of parts."""
    owner.refuse_unwritable_beside(output)
    owner.refuse_unwritable(ResultStore(output, ()).parts)
