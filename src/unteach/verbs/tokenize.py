"""`unteach tokenize`: rows to memory-mapped tokens, once, for many runs."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from unteach import console, owner, run_dir
from unteach.config import compose
from unteach.config.environment import environment
from unteach.config.schema import TemplateArgs
from unteach.config.tokenize import TokenizeConfig
from unteach.data import column_layouts
from unteach.data.io import tables, tokenized_paths
from unteach.data.template import Template, load_saved_args
from unteach.data.tokenized import token_files
from unteach.data.tokenized.recipe import Recipe, build_facts
from unteach.data.tokenized.tokenize_files import write_tokenized_files
from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import UserError
from unteach.models import added_tokens
from unteach.models.model_handlers import load_tokenizer
from unteach.wording import counted


def command(words: list[str]) -> None:
    environment()
    tokenize(compose.flat(TokenizeConfig, words, "unteach tokenize"))


def tokenize(config: TokenizeConfig) -> Path:
    """Writes what the config says; gives the folder. Raises UserError where it holds something
    else."""
    table = tables.open_table(config.input_file, by_line=config.txt == "line", whole=True)
    if config.kind != "text" and config.pretrain_with_output is not None:
        raise UserError("pretrain_with_output: nothing here takes it; it is for kind=text")
    ways = (
        column_layouts.list_text_layouts(config.pretrain_with_output)
        if config.kind == "text"
        else column_layouts.LAYOUTS["answers"]
    )
    form = column_layouts.find_layout(
        table.where, table.columns, ways, config.columns, key="columns"
    )
    of_text = form.handler == "PretrainingDataset"
    if config.kind == "answers" and of_text:
        raise UserError(f"{table.where}: holds text and no answers; leave kind=answers out")
    template = Template(_tokenizer(config), template_args(config, form.raw))
    recipe = Recipe(
        form.handler,
        form.build_arguments(config.columns),
        template,
        config.max_length,
        config.too_long or ("split" if of_text else "truncate_right"),
    )
    facts = build_facts(table, recipe, config.tokenizer_path)
    for note in column_layouts.note_unread(table, form.list_columns(config.columns)):
        console.say(f"note: {note}")
    output = Path(config.output_file)
    num_proc = config.num_proc or len(os.sched_getaffinity(0))
    refuse_too_many("num_proc", num_proc)
    with owner.own(output):
        if output.exists():
            refuse_other(output, facts)
            print(f"finished before: {output}")
            return output
        manifest = write_tokenized_files(table, recipe, output, num_proc, facts)
    for sentence in said(manifest):
        print(sentence)
    print(f"tokens: {output}")
    return output


def _tokenizer(config: TokenizeConfig) -> Any:
    tokenizer = load_tokenizer(
        run_dir.find_model_folder(config.tokenizer_path), config.tokenizer_args, {}
    )
    added_tokens.add(tokenizer, config.added_tokens)
    return tokenizer


def template_args(config: TokenizeConfig, raw: bool | None) -> TemplateArgs:
    """What training would ask with: what is said here, what the columns say, what the model was
    saved with."""

    given = (
        replace(config.template_args, kind=config.template)
        if config.template
        else config.template_args
    )
    if given.kind == "auto" and raw:
        return replace(given, kind="raw")
    return (
        (load_saved_args(run_dir.find_model_folder(config.tokenizer_path)) or given)
        if given == TemplateArgs()
        else given
    )


def refuse_other(output: Path, facts: dict[str, Any]) -> None:
    """A folder is written once; another command needs another folder."""
    if not (output / tokenized_paths.MANIFEST).is_file():
        raise UserError(
            f"output_file={output}: is there already and holds no tokens; name another folder"
        )
    made = token_files.read_manifest(output)
    if odd := sorted(name for name in facts if made.get(name) != facts[name]):
        raise UserError(
            f"output_file={output}: holds tokens made otherwise ({', '.join(odd)}); name another "
            f"folder"
        )


def said(manifest: dict[str, Any]) -> list[str]:
    """What became of the rows, in sentences."""
    rows, size = manifest["rows"], sum(shard["bytes"] for shard in manifest["shards"])
    told = [f"{counted(rows['read'], 'row')} read, {rows['kept']:,} kept"]
    for why, count in rows["dropped"].items():
        told.append(
            f"{counted(count, 'row')} dropped, {why} "
            f"({', '.join(rows['first'][why])}{' …' if count > 8 else ''})"
        )
    if rows["cut"]:
        told.append(
            f"{counted(rows['cut'], 'row')} cut at max_length ({', '.join(rows['first']['cut'])})"
        )
    for key, (count, places) in rows.get("unshown", {}).items():
        unshown = (
            f"{counted(count, 'row')} with {key} in a turn, which the chat template does not show"
        )
        told.append(f"{unshown} ({', '.join(places)}{' …' if count > 8 else ''})")
    told.append(
        f"{counted(manifest['examples'], 'example')}, {counted(manifest['tokens'], 'token')}, "
        f"{manifest['learned']:,} of them learned, "
        f"longest {manifest['longest']:,}; {size / max(1, manifest['tokens']):.2f} bytes a token"
    )
    return told
