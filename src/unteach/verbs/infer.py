"""`unteach infer model=… input_file=… [backend=hf] [key=value …]`: a model's answer to every row of
a table.

    unteach infer model=saves/train/first input_file=questions.csv
    unteach infer model=gpt2 input_file=a.jsonl temperature=0.7 num_return_sequences=3
    unteach infer model=saves/train/first input_file=answered.csv kind=score

The input is a csv, tsv, jsonl, json, parquet or arrow file, a folder of such files, or a hub set.
The output is JSON lines, one a row, beside it (<input>_output.jsonl) or at output_file=. The same
command again goes on where it was stopped, and asks failed rows again. configs/infer.yaml lists
every option; docs/inference.md explains them.
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import console
from unteach.config import compose, inference
from unteach.config.environment import environment
from unteach.config.inference import InferConfig
from unteach.data.io import tables
from unteach.distributed import accelerate_launch, process_context
from unteach.engines.progress import RowProgress
from unteach.errors import RowsFailed, UserError, require_extra
from unteach.inference import input_table, output_columns, planning
from unteach.inference.backends.base import Job
from unteach.inference.output_columns import ERROR, SKIPPED, build_record, count_tokens
from unteach.inference.result_store import ResultStore
from unteach.wording import counted

if TYPE_CHECKING:
    from unteach.distributed.process_context import DistContext


def command(words: list[str], **options: dict[str, Any]) -> None:
    infer(*words, **options)


def infer(*overrides: str, config_dirs: Iterable[str] = ()) -> Path:
    """Answers what `configs/infer.yaml` and the overrides say; returns the output file.

    Raises RowsFailed, once the file is whole, where rows have an error in place of an answer.
    """
    environment()
    config = compose.composed("infer", overrides, config_dirs, inference.read, starting=True)
    if config.modality == "vlm":
        require_extra("vision", "modality=vlm")
    if accelerate_launch.run_in_processes("infer", config, overrides, None, tuple(config_dirs)):
        return output_of(config)
    return run(config)


def run(config: InferConfig) -> Path:
    """config -> table -> prompts -> what is known already -> model -> answers -> the output, in
    order."""
    config.backend.check()
    table = tables.open_table(config.input_file)
    output = output_of(config)
    columns = input_table.find_columns(table, config)
    added = output_columns.list_columns(config)
    read = input_table.read_input_table(table, columns, config, added)
    ledger = ResultStore(output, added)
    with contextlib.ExitStack() as held:
        process_context.run_on_main(lambda: held.enter_context(ledger.held()))
        plan = planning.plan(config, columns, read)
        said = process_context.run_on_main(
            lambda: ledger.open(plan.settings, read.lines, config.resume, config.changed)
        )
        dist = process_context.init_distributed()
        if dist.is_main:
            for sentence in (*said, *plan.notes):
                console.say(f"note: {sentence}")
        return carry_out(config, plan, read, ledger, dist)


def output_of(config: InferConfig) -> Path:
    """Where the answers go: output_file, or <input>_output.jsonl beside the input."""
    source = config.input_file
    if config.output_file is not None:
        output = Path(config.output_file).expanduser()
        if output.suffix != ".jsonl":
            raise UserError(
                f"output_file={output}: its name must end in .jsonl, for it holds JSON lines"
            )
    elif isinstance(source, str) and Path(source).expanduser().exists():
        path = Path(source).expanduser()
        output = path.with_name(f"{path.stem if path.is_file() else path.name}_output.jsonl")
    else:
        raise UserError(
            "output_file: is required where the rows come from no file here; set "
            "output_file=NAME.jsonl"
        )
    if isinstance(source, str) and output.resolve() == Path(source).expanduser().resolve():
        raise UserError(f"output_file={output}: is the input itself; name another file")
    return output


def carry_out(config: InferConfig, plan: Any, read: Any, ledger: Any, dist: "DistContext") -> Path:
    """Asks what is not known, and writes the output when everything is."""
    lines, output = read.lines, Path(ledger.output)
    done = ledger.done(lines)
    if ledger.damaged and dist.is_main:
        print(
            f"note: {ledger.damaged} torn or damaged lines are passed over, and their rows asked "
            f"again"
        )
    if len(done) == len(lines) and output.exists() and not ledger.parts.exists():
        if dist.is_main:
            print(f"finished before: {output}")
        return output
    with (
        process_context.stop_at_interrupt(
            "stopping after the rows at hand; all answers are kept. Ctrl-C again ends now"
        ),
        ledger.writing(dist.rank) as write,
        RowProgress(len(lines), len(done), dist.world_size, dist.is_main) as pace,
    ):
        for number, why in plan.prepared.unasked.items() if dist.is_main else ():
            write(lines[number], build_record(why, None, 0, config, ()))
        if any(request.number not in done for request in plan.prepared.requests):
            for number, found in answered(config, plan, done, dist):
                write(lines[number], found)
                pace(count_tokens(found))
    dist.barrier()
    failed = tell(ledger.finish(lines), plan, pace, output) if dist.is_main else 0
    if dist.any(failed > 0):
        raise RowsFailed(
            f"{failed} of {counted(len(lines), 'row')} have an error in place of an answer; run "
            f"again to ask just those"
        )
    return output


def answered(
    config: InferConfig, plan: Any, done: set[int], dist: "DistContext"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the backend says of every row that is not done, as it comes."""
    prepared = plan.prepared
    requests = {request.number: request for request in prepared.requests}
    session = config.backend.open(
        Job(plan.model, config.kind, config.sampling, dist, config.modality, plan.longest)
    )
    try:
        given = (
            (prepared.requests, config.sampling, done)
            if config.kind == "generate"
            else (prepared.requests, done)
        )
        for number, answer in getattr(session, config.kind)(*given):
            yield (
                number,
                build_record(
                    answer,
                    requests[number],
                    prepared.num_cut.get(number, 0),
                    config,
                    session.labels,
                ),
            )
            if dist.world_size == 1:
                dist.check_preemption()
    finally:
        session.close()


def tell(known: dict[Any, dict[str, Any]], plan: Any, pace: Any, output: Path) -> int:
    """Says what became of the rows; gives how many failed."""
    why = [answer[ERROR] for answer in known.values() if answer[ERROR] is not None]
    skipped = sum(answer.get("finish_reason") == SKIPPED for answer in known.values())
    counts = {
        "failed": len(why),
        "skipped as too long": skipped,
        "shortened from the left": len(plan.prepared.num_cut),
    }
    beside = "".join(f", {count} {what}" for what, count in counts.items() if count)
    print(
        f"{len(known) - len(why) - skipped} of {counted(len(known), 'row')} answered{beside}; "
        f"{pace.rates}"
    )
    for sentence in list(dict.fromkeys(why))[:3]:
        console.say(f"  {sentence}")
    print(f"results: {output}")
    return len(why)
