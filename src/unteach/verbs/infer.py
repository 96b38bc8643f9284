"""`unteach infer model=… input_file=… [backend=hf] [key=value …]`: a model's answer to every row of
a table.

    unteach infer model=saves/train/first input_file=questions.csv
    unteach infer model=gpt2 input_file=a.jsonl temperature=0.7 num_return_sequences=3
    unteach infer model=saves/train/first input_file=answered.csv kind=score

The input is a csv, tsv, jsonl, json, parquet or arrow file (text also as .gz or .zst), a folder of
such files, or a hub set.
The output is JSON lines, one a row, beside it (<input>_output.jsonl) or at output_file=. The same
command again goes on where it was stopped, and asks failed rows again. configs/infer.yaml lists
every option; docs/inference.md explains them.
"""

import contextlib
import logging
from pathlib import Path

from unteach import console
from unteach.config.inference import InferConfig, find_output_file
from unteach.data.io import tables
from unteach.distributed import process_context
from unteach.distributed.process_context import DistContext
from unteach.engines.progress import RowProgress
from unteach.errors import RowsFailed
from unteach.inference import input_table, output_columns, planning
from unteach.inference.answering import answer_rows
from unteach.inference.input_table import InputTable
from unteach.inference.output_columns import build_record, count_tokens
from unteach.inference.planning import Plan
from unteach.inference.result_store import AnswerCounts, ResultStore
from unteach.wording import format_count

logger = logging.getLogger(__name__)
ANSWERING = "stopping after the rows at hand; all answers are kept. Ctrl-C again ends now"
"""What is said at the first Ctrl-C."""


def run(config: InferConfig) -> Path:
    """Answer every row of a table, and give the file of the answers, which has the rows' order.

    The same command again goes on where it was stopped.

    Raises:
        RowsFailed: once the file is whole, where rows have an error in place of an answer.
    """
    config.backend.check()
    table = tables.open_table(config.input_file)
    store_path = find_output_file(config)
    columns = input_table.find_columns(table, config)
    answer_columns = output_columns.list_columns(config)
    sheet = input_table.read_input_table(table, columns, config, answer_columns)
    store = ResultStore(store_path, answer_columns)
    with contextlib.ExitStack() as held:
        # One run at a time writes into a file of answers.
        process_context.run_on_main(lambda: held.enter_context(store.held()))
        plan = planning.plan(config, columns, sheet)
        notes = process_context.run_on_main(
            lambda: store.open(plan.settings, sheet, config.resume, config.changed)
        )
        dist = process_context.init_distributed()
        for note in (*notes, *plan.notes):
            logger.info(note)
        return _answer(config, plan, sheet, store, dist)


def _answer(
    config: InferConfig, plan: Plan, sheet: InputTable, store: ResultStore, dist: DistContext
) -> Path:
    """Ask what has no answer yet, and write the output when everything has one."""
    output = Path(store.output)
    done = store.done(sheet)
    if store.damaged:
        logger.info(
            f"{store.damaged} torn or damaged lines are passed over, and their rows asked again"
        )
    if len(done) == len(sheet) and output.exists() and not store.parts.exists():
        if dist.is_main:
            print(f"finished before: {output}")
        return output
    with (
        process_context.stop_at_interrupt(ANSWERING),
        store.writing(dist.rank) as write,
        RowProgress(len(sheet), len(done), dist.world_size, dist.is_main) as pace,
    ):
        if dist.is_main:
            for number, reason in plan.prepared.unasked:
                write(sheet[number], build_record(reason, None, 0, config, ()))
        if any(number not in done for number in plan.prepared.requests.numbers):
            for number, answer in answer_rows(config, plan, done, dist):
                write(sheet[number], answer)
                pace(count_tokens(answer))
    dist.barrier()
    num_failed = _tell(store.finish(sheet), plan, pace, output) if dist.is_main else 0
    if dist.any(num_failed > 0):
        raise RowsFailed(
            f"{num_failed} of {format_count(len(sheet), 'row')} have an error in place of an "
            "answer; "
            "run again to ask just those"
        )
    return output


def _tell(counts: AnswerCounts, plan: Plan, pace: RowProgress, output: Path) -> int:
    """Print what became of the rows; give how many failed."""
    others = {
        "failed": counts.num_failed,
        "skipped as too long": counts.num_skipped,
        "shortened from the left": sum(num_cut > 0 for num_cut in plan.prepared.num_cut),
    }
    parts = [f", {count} {what}" for what, count in others.items() if count]
    num_answered = counts.num_rows - counts.num_failed - counts.num_skipped
    rows = format_count(counts.num_rows, "row")
    print(f"{num_answered} of {rows} answered{''.join(parts)}; {pace.rates}")
    for error in counts.errors:
        console.say(f"  {error}")
    print(f"results: {output}")
    return counts.num_failed
