"""Build a tiny model, a reference and rows that any method can take a step on."""

from typing import TYPE_CHECKING, Any

from unteach.config import schema
from unteach.config.schema import BESIDE
from unteach.data.synthetic import authors
from unteach.lazy import torch, transformers
from unteach.methods.base import Method
from unteach.models.heads import Head
from unteach.models.layer_names import count_named_layers
from unteach.models.loading import LoadedModel, finish
from unteach.models.model_handlers import learn_tokenizer
from unteach.testing.examples import Examples, build_classified_examples, build_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_tiny_world(
    method: Method,
) -> "tuple[LoadedModel, PreTrainedModel, dict[str, Examples]]":
    """Build a tiny model as deep as the method needs, a reference that differs from it, and rows.

    Rows are of unequal lengths: 13 for the anchor and streams that are parts of its rows, 9 for
    every other stream.
    """
    head = None
    if method.ROWS == "classes":
        head = Head(("a", "b", "c"))
    elif method.ROWS == "numbers":
        head = Head()
    policy, reference = _build_tiny_models(method, head)
    reference.model.requires_grad_(False).eval()

    full = authors.build_rows("full")
    rows = {}
    names = method.streams()
    anchor_source = BESIDE.get(names[0], names[0])
    for stream_index, name in enumerate(names):
        num_rows = 13 if BESIDE.get(name, name) == anchor_source else 9
        first = stream_index * 20
        longer_rows = []
        for i, row in enumerate(full[first : first + num_rows]):
            num_repeats = 1 + (i + stream_index) % 4
            answer = " ".join([row["answer"]] * num_repeats)
            longer_rows.append({**row, "answer": answer, "forget": i % 3 == 0})
        if head:
            num_classes = max(1, len(head.labels))
            rows[name] = build_classified_examples(policy.template, longer_rows, num_classes)
        else:
            rows[name] = build_examples(policy.template, longer_rows, False, name)
    return policy, reference.model, rows


def _build_tiny_models(method: Method, head: Head | None) -> list[LoadedModel]:
    """Build two models of the same shape with different weights."""
    texts = [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")]
    tokenizer = learn_tokenizer(texts, 400)
    # As deep as the last layer that the method names by number; by depth, 4 tell layers apart.
    names: list[str] = []
    for ends in method.layers().values():
        names += [ends] if isinstance(ends, str) else ends
    num_layers = max(4 if any("%" in name for name in names) else 2, count_named_layers(names))
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model_cls: Any = transformers.LlamaForCausalLM
    if head:
        model_cls = transformers.LlamaForSequenceClassification
        config.update(head.settings())
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = model_cls(config)
        models.append(finish(model, tokenizer, schema.TemplateArgs(kind="qa"), "float32"))
    return models
