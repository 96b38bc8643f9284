"""A sequence classifier on the rows of a table: the label of each text, and how surely."""

from collections.abc import Sequence, Set
from typing import Any

from unteach import runs
from unteach.data.template import Template, saved_args
from unteach.engines.backends.base import Answered, Job, Labelled, Request
from unteach.engines.backends.hf import answered, place
from unteach.engines.batches import Batches, Row
from unteach.errors import UserError
from unteach.inference import Sampling
from unteach.models.handlers import load_tokenizer
from unteach.models.hub import PATH, SOURCE, from_hub
from unteach.models.loading import Loaded, compute_dtype
from unteach.schema import ModelConfig

HEADS = "ForSequenceClassification"


def load(config: ModelConfig) -> Loaded:
    """A sequence classifier, its tokenizer, and the template it was saved with, if it was."""
    import torch
    import transformers

    args = dict(config.model_args)
    path = runs.model_folder(str(args.pop(PATH)))
    compute = compute_dtype(args.pop("dtype", None))
    if args.get("attn_implementation") == "auto":
        args.pop("attn_implementation")
    source = {name: args[name] for name in SOURCE if name in args}
    settings = from_hub(transformers.AutoConfig, path, **source)
    held = settings.architectures or []
    if not any(name.endswith(HEADS) for name in held):
        raise UserError(
            f"{path}: holds no classifier ({', '.join(held) or 'it does not say what'}); kind=classify asks one"
        )
    if torch.get_default_device().type == "meta":
        model = transformers.AutoModelForSequenceClassification.from_config(settings)
    else:
        model = from_hub(
            transformers.AutoModelForSequenceClassification,
            path,
            dtype=getattr(torch, compute),
            use_safetensors=True,
            **args,
        )
    tokenizer = load_tokenizer(path, config.tokenizer_args, source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    saved = saved_args(path)
    template: Any = Template(tokenizer, saved) if saved else None
    return Loaded(model, tokenizer, template, compute, path)


def load_empty(config: ModelConfig) -> Loaded:
    """The same with no weights."""
    import torch

    with torch.device("meta"):
        return load(config)


class Classifying(Batches):
    """Reads a request's prompt; the classes are named by the model's id2label."""

    def __init__(self, job: Job, batch_size: int | None, tokens_per_batch: int | None):
        loaded = load(job.model)
        super().__init__(loaded.model, batch_size, job.here, None)
        place(self.model, job.here.device)
        self.autocast, config = loaded.autocast, loaded.model.config
        self.pad = loaded.tokenizer.pad_token_id
        if config.pad_token_id is None:
            config.pad_token_id = self.pad  # by which a causal model finds the last token of a row
        if config.num_labels < 2:
            raise UserError("this model gives one number and knows no classes: it was made for regression")
        self.labels: Sequence[str] = [str(config.id2label[i]) for i in range(config.num_labels)]
        if tokens_per_batch:
            self.budgets["classify"] = tokens_per_batch

    def classify(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        import torch

        def work(batch: list[Row]) -> list[Labelled]:
            rows = [list(requests[i].prompt) for [i] in batch]
            most, device = max(map(len, rows)), next(self.model.parameters()).device
            ids = torch.tensor([row + [self.pad] * (most - len(row)) for row in rows], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in rows], device=device)
            with self.autocast():
                logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
            both = zip(logits.tolist(), logits.softmax(-1).tolist(), strict=True)
            return [Labelled(tuple(logit), tuple(probability)) for logit, probability in both]

        batching = self.batching("classify", requests, lambda request: len(request.prompt))
        yield from answered(self, "classify", requests, batching, work, done)

    def generate(self, requests: Sequence[Request], sampling: Sampling, done: Set[int]) -> Answered:
        raise AssertionError("a classifier continues nothing")

    def score(self, requests: Sequence[Request], done: Set[int]) -> Answered:
        raise AssertionError("a classifier scores no answer")

    def close(self) -> None:
        """Nothing stays open."""
