"""`unteach tokenize`: rows to memory-mapped tokens, once, for many runs."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import owner, run_dir
from unteach.config.schema import TemplateArgs
from unteach.config.tokenize import TokenizeConfig
from unteach.data import column_layouts
from unteach.data.column_layouts import ColumnLayout
from unteach.data.io import tables, tokenized_paths
from unteach.data.template import Template, load_saved_args
from unteach.data.tokenized import token_files
from unteach.data.tokenized.recipe import Recipe, build_facts
from unteach.data.tokenized.tokenize_files import write_tokenized_files
from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import UserError
from unteach.models import added_tokens
from unteach.models.model_handlers import load_tokenizer
from unteach.wording import format_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass
class Plan:
    """How a table's rows become tokens.

    Attributes:
        columns: those that are read.
        facts: what the tokens depend on.
        notes: what the user should know before it starts.
    """

    table: tables.Table
    columns: Sequence[str]
    recipe: Recipe
    facts: dict[str, Any]
    num_proc: int
    notes: Sequence[str]


def run(config: TokenizeConfig) -> Path:
    """Write the tokens of a table's rows into a folder, and give the folder.

    Raises:
        UserError: where the folder holds something else.
    """
    plan = plan_tokenizing(config)
    for note in plan.notes:
        logger.info(note)
    output = Path(config.output_file)
    with owner.own(output):
        if output.exists():
            refuse_other(output, plan.facts)
            print(f"finished before: {output}")
            return output
        manifest = write_tokenized_files(plan.table, plan.recipe, output, plan.num_proc, plan.facts)
    for line in describe(manifest):
        print(line)
    print(f"tokens: {output}")
    return output


def plan_tokenizing(config: TokenizeConfig) -> Plan:
    """Find how a table's rows become tokens; none becomes any."""
    table = tables.open_table(
        config.input_file,
        by_line=config.txt == "line",
        whole=True,
    )
    layout = _find_layout(config, table)
    recipe = _build_recipe(config, layout)
    facts = build_facts(table, recipe, config.tokenizer_path)
    columns = layout.list_columns(config.columns)
    notes = column_layouts.note_unread(table, columns)
    num_proc = config.num_proc or len(os.sched_getaffinity(0))
    refuse_too_many("num_proc", num_proc)
    return Plan(table, columns, recipe, facts, num_proc, notes)


def _find_layout(config: TokenizeConfig, table: tables.Table) -> ColumnLayout:
    """Find how the table's rows are written, by their columns."""
    if config.kind != "text" and config.pretrain_with_output is not None:
        raise UserError("pretrain_with_output: nothing here takes it; it is for kind=text")
    layouts = column_layouts.LAYOUTS["answers"]
    if config.kind == "text":
        layouts = column_layouts.list_text_layouts(config.pretrain_with_output)
    layout = column_layouts.find_layout(
        table.where,
        table.columns,
        layouts,
        config.columns,
        key="columns",
    )
    if config.kind == "answers" and layout.handler == "PretrainingDataset":
        raise UserError(f"{table.where}: holds text and no answers; leave kind=answers out")
    return layout


def _build_recipe(config: TokenizeConfig, layout: ColumnLayout) -> Recipe:
    """Build how rows of a layout become tokens."""
    template_args = build_template_args(config, layout.raw)
    template = Template(_load_tokenizer(config), template_args)
    too_long = config.too_long
    if not too_long:
        is_text = layout.handler == "PretrainingDataset"
        too_long = "split" if is_text else "truncate_right"
    return Recipe(
        layout.handler,
        layout.build_arguments(config.columns),
        template,
        config.max_length,
        too_long,
    )


def _load_tokenizer(config: TokenizeConfig) -> "PreTrainedTokenizerBase":
    folder = run_dir.find_model_folder(config.tokenizer_path)
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder, config.tokenizer_args, {})
    added_tokens.add(tokenizer, config.added_tokens)
    return tokenizer


def build_template_args(config: TokenizeConfig, is_raw: bool | None) -> TemplateArgs:
    """Build what training would ask with: what is said here, what the columns say, what the model
    was saved with.

    Args:
        is_raw: whether the columns hold texts that no template goes around.
    """
    args = config.template_args
    if config.template:
        args = replace(args, kind=config.template)
    if args.kind == "auto" and is_raw:
        return replace(args, kind="raw")
    if args != TemplateArgs():
        return args
    return load_saved_args(run_dir.find_model_folder(config.tokenizer_path)) or args


def refuse_other(output: Path, facts: dict[str, Any]) -> None:
    """Refuse a folder that was written by another command: it is written once.

    Args:
        facts: what this command's tokens are made of.

    Raises:
        UserError: it holds other tokens, or none.
    """
    if not (output / tokenized_paths.MANIFEST).is_file():
        raise UserError(
            f"output_file={output}: is there already and holds no tokens; name another folder"
        )
    manifest = token_files.read_manifest(output)
    differing = sorted(name for name in facts if manifest.get(name) != facts[name])
    if differing:
        raise UserError(
            f"output_file={output}: holds tokens made otherwise ({', '.join(differing)}); name "
            "another folder"
        )


def describe(manifest: dict[str, Any]) -> list[str]:
    """Describe what became of the rows, in sentences."""
    rows = manifest["rows"]
    first = rows["first"]
    num_read = format_count(rows["read"], "row")
    lines = [f"{num_read} read, {rows['kept']:,} kept"]
    for reason, count in rows["dropped"].items():
        num_rows = format_count(count, "row")
        places = _list_places(first[reason], count)
        lines.append(f"{num_rows} dropped, {reason} ({places})")
    if rows["cut"]:
        num_rows = format_count(rows["cut"], "row")
        places = ", ".join(first["cut"])
        lines.append(f"{num_rows} cut at max_length ({places})")
    for key, (count, first_places) in rows.get("unshown", {}).items():
        num_rows = format_count(count, "row")
        places = _list_places(first_places, count)
        lines.append(
            f"{num_rows} with {key} in a turn, which the chat template does not show ({places})"
        )

    num_tokens = manifest["tokens"]
    num_bytes = sum(shard["bytes"] for shard in manifest["shards"])
    bytes_a_token = num_bytes / max(1, num_tokens)
    examples = format_count(manifest["examples"], "example")
    tokens = format_count(num_tokens, "token")
    lines.append(
        f"{examples}, {tokens}, {manifest['learned']:,} of them learned, "
        f"longest {manifest['longest']:,}; {bytes_a_token:.2f} bytes a token"
    )
    return lines


def _list_places(first: list[str], count: int) -> str:
    """Name the first rows of some, with a sign where there are more."""
    places = ", ".join(first)
    return f"{places} …" if count > 8 else places
