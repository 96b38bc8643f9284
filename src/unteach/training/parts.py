"""Builds a dataset or a collator from its configuration and what the run has to give it."""

import dataclasses
import inspect
from typing import Any

from omegaconf import OmegaConf

from unteach.config import schema
from unteach.data.collators import DataCollatorForSupervisedDataset
from unteach.data.template import Template
from unteach.models.loading import LoadedModel
from unteach.training.rows import fit_context


def build_part(part: schema.ComponentConfig, loaded: LoadedModel, **given: object) -> Any:
    """A dataset or collator with its arguments, and whichever of template, tokenizer,
    template_args, seed it takes."""
    offered = {
        "template": loaded.template,
        "tokenizer": loaded.tokenizer,
        "template_args": as_published(loaded.template),
        **given,
    }
    taken = {
        name: value
        for name, value in offered.items()
        if name in inspect.signature(part.cls).parameters
    }
    return part.cls(**{**taken, **fit_context(part, loaded), **part.args})


def build_collator(config: schema.TrainConfig, loaded: LoadedModel) -> Any:
    """Build the collator that the configuration names, or ours."""
    if config.collator is None:
        return DataCollatorForSupervisedDataset(loaded.tokenizer)
    return build_part(config.collator, loaded)


def as_published(template: Template) -> Any:
    """The template's arguments as OpenUnlearning's datasets take them: what is set, by key or by
    attribute."""
    given = {
        name: value
        for name, value in dataclasses.asdict(template.args).items()
        if value is not None
    }
    return OmegaConf.create({**given, "apply_chat_template": template.kind == "chat"})
