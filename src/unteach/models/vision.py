"""Vision-language models, loaded to be asked through their own processor and its chat template."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach import run_dir
from unteach.config.schema import ModelConfig, TemplateArgs
from unteach.data.chat_rendering import render
from unteach.data.special_text import SpecialText
from unteach.errors import UserError
from unteach.lazy import torch, transformers
from unteach.models import adapters
from unteach.models.hub import PATH, from_hub
from unteach.models.load_as import load_as
from unteach.models.loading import LoadedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass
class VisionModel(LoadedModel):
    """A model that reads text and images.

    There is no template of ours: the processor's chat template says where the images of a question
    go.

    Attributes:
        processor: makes the model's inputs of text and images; it holds the tokenizer.
    """

    processor: Any = None

    @property
    def stops(self) -> list[int]:
        """The ids at which an answer is over: the tokenizer's, and those that the model's own
        settings name."""
        stops = []
        if self.tokenizer.eos_token_id is not None:
            stops.append(self.tokenizer.eos_token_id)
        own = self.model.generation_config.eos_token_id or []
        stops += [own] if isinstance(own, int) else own
        return list(dict.fromkeys(stops))

    def render_chat(self, messages: Sequence[dict[str, Any]]) -> str:
        """Render a conversation as the text that the model reads, a placeholder for each image.

        Raises:
            UserError: a text holds a special token. The processor finds images by their tokens in
                the text, so that it cannot stay text here.
        """
        for message in messages:
            self._refuse_special_text(message["content"])

        def apply_template() -> str:
            text: str = self.processor.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
            return text

        return render(getattr(self.processor, "chat_template", None), apply_template)

    def _refuse_special_text(self, content: str | list[dict[str, Any]]) -> None:
        """Raise UserError where the content of a turn holds the text of a special token."""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            matches = self.special.find(text) if isinstance(text, str) else []
            if matches:
                _, start, end = matches[0]
                assert text is not None
                raise UserError(
                    f"the text holds the special token {text[start:end]}, which a model that reads "
                    "images would take for the token itself; write it in another way. Images are "
                    "named in their own column"
                )

    @functools.cached_property
    def special(self) -> SpecialText:
        """The tokenizer's special tokens."""
        return SpecialText(self.tokenizer)

    def adds_special_tokens(self, rendered: str) -> bool:
        """Say whether the tokenizer still puts what begins a sequence: not where the chat template
        has written it."""
        bos = self.tokenizer.bos_token
        return bos is None or not rendered.startswith(bos)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def load(config: ModelConfig) -> VisionModel:
    """Load what a ModelConfig names by AutoModelForImageTextToText and AutoProcessor.

    Raises:
        UserError: it is no such model, or is asked in a way that these models are not.
    """
    path = run_dir.find_model_folder(str(config.model_args[PATH]))
    if adapters.is_adapter(path):
        raise UserError(
            f"{path}: holds an adapter, and modality=vlm asks whole models; merge it with its base"
        )
    if config.template_args != TemplateArgs():
        raise UserError(
            "template, model.template_args: modality=vlm asks by the chat template of the model's "
            "processor"
        )

    def refuse_other_models(settings: "PretrainedConfig") -> None:
        known = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        if type(settings) not in known and not hasattr(settings, "auto_map"):
            raise UserError(
                f"{path}: a {settings.model_type} model reads no images; modality=lm asks it"
            )

    model, compute, source = load_as(
        transformers.AutoModelForImageTextToText, config, path, refuse_other_models
    )
    processor = from_hub(transformers.AutoProcessor, path, **{**source, **config.tokenizer_args})
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"{path}: its processor has no chat template, which says how it is asked about an image"
        )
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    template: Any = None
    return VisionModel(model, tokenizer, template, compute, path, processor=processor)


def load_empty(config: ModelConfig) -> VisionModel:
    """Load the same with no weights."""
    with torch.device("meta"):
        return load(config)
