"""Build a dataset or a collator from its configuration and what the run has to offer it."""

import dataclasses
import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from unteach.config import schema
from unteach.data.collators import Collator, DataCollatorForSupervisedDataset
from unteach.data.template import Template
from unteach.models.loading import LoadedModel
from unteach.training.rows import choose_max_length


def build_component(
    component: schema.ComponentConfig, loaded: LoadedModel, **offered: object
) -> Any:
    """Build a dataset or a collator with its configured arguments.

    Args:
        component: its class and arguments.
        loaded: the model, whose template, tokenizer and template_args it gets if its class takes
            arguments of these names.
        offered: what else it gets if it takes it, as `seed`.
    """
    parameters = inspect.signature(component.cls).parameters
    candidates: dict[str, object] = {
        "template": loaded.template,
        "tokenizer": loaded.tokenizer,
        "template_args": build_published_template_args(loaded.template),
        **offered,
    }
    arguments = {name: value for name, value in candidates.items() if name in parameters}
    arguments.update(choose_max_length(component, loaded))
    arguments.update(component.args)
    return component.cls(**arguments)


def build_collator(config: schema.TrainConfig, loaded: LoadedModel) -> Collator:
    """Build the collator that the configuration names, or the default one."""
    if config.collator is None:
        return DataCollatorForSupervisedDataset(loaded.tokenizer)
    collator: Collator = build_component(config.collator, loaded)
    return collator


def build_published_template_args(template: Template) -> DictConfig:
    """Build the template's arguments as OpenUnlearning's datasets take them: what is set, by key or
    by attribute."""
    args = {}
    for name, value in dataclasses.asdict(template.args).items():
        if value is not None:
            args[name] = value
    args["apply_chat_template"] = template.kind == "chat"
    return OmegaConf.create(args)
