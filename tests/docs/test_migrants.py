"""The keys that the pages for users of other systems name are keys of ours."""

import dataclasses
import re
from pathlib import Path

import pytest

from unteach import cli
from unteach.config import files, schema, training_args, watching

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("coming-from-llm-utils.md", "coming-from-training-code.md", "models.md")
SECTIONS = {
    "trainer.args": set(training_args.declared_fields()) | set(training_args.REFUSED),
    "trainer": {f.name for f in dataclasses.fields(schema.TrainerConfig)} | {"args", "method_args"},
    "trainer.samples": {f.name for f in dataclasses.fields(watching.Samples)},
    "trainer.profiler": {f.name for f in dataclasses.fields(watching.Profiler)},
    "model": {f.name for f in dataclasses.fields(schema.ModelConfig)} | {"safetensors"},
    "data": {f.name for f in dataclasses.fields(files.Files)},
    "wandb": {f.name for f in dataclasses.fields(schema.Wandb)},
    "paths": {f.name for f in dataclasses.fields(schema.Paths)},
}


@pytest.mark.parametrize("page", PAGES)
def test_every_key_is_one_of_ours(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    said = [
        (section, key)
        for section in SECTIONS
        for key in re.findall(rf"(?<![\w./]){re.escape(section)}\.(\w+)\b(?!\()", text)
    ]
    for section in ("trainer.samples", "trainer.profiler"):
        for body in re.findall(rf"{re.escape(section)}=\{{(.*?)\}}", text):
            said += [(section, key) for key in re.findall(r"(\w+):", body)]
    strange = [
        (section, key) for section, key in said if key not in SECTIONS[section] and key != "md"
    ]
    assert len(said) > 10 and not strange
    assert set(re.findall(r"`unteach (\w+)", text)) <= set(cli.VERBS)


@pytest.mark.parametrize("page", ["coming-from-llm-utils.md", "coming-from-training-code.md"])
def test_every_option_of_theirs_has_its_row(page: str) -> None:
    """What their READMEs and argument classes have, by name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    options = {
        "coming-from-llm-utils.md": """
            model_name training_kind modality train_file validation_file test_file train_validation_split validation_test_split
            eval_max_new_tokens input_column image_input_column ga_forget_column output_column chosen_column rejected_column
            pretrain_with_output max_train_samples max_valid_samples streaming shuffle_buffer max_input_length
            evaluate_before_training num_workers class_weights auto_infer_class_weights early_stopping_patience
            early_stopping_threshold use_peft do_lora lora_alpha lora_dropout lora_r lora_target_modules use_bnb model_dtype
            overwrite_final log_verbose n_eval_output_batches do_debug resume_from_checkpoint output_dir""",
        "coming-from-training-code.md": """
            model_name_or_path low_cpu_mem_usage use_xformers train_file eval_file use_lora lora_rank lora_alpha lora_dropout
            lora_target_modules model_load_delay_per_rank enable_profiler add_special_tokens uft output_dir""",
    }[page].split()
    assert [option for option in options if f"--{option}" not in text] == []
