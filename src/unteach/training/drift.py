"""How far a model has gone from what it was: KL(before || now) on texts that it wrote before.

No second model is held: of the model before, its last hidden states on the texts are kept, and its
head where that changes.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import fingerprints
from unteach.atomic import atomic_write
from unteach.data.template import Template
from unteach.engines.base import Ids
from unteach.engines.hf import HFEngine
from unteach.engines.padding import pad_rows
from unteach.errors import UserError
from unteach.lazy import safetensors_torch, torch
from unteach.models.forward import IGNORED, OutputSpec
from unteach.models.layers import unwrap_model
from unteach.models.lm_head import head_logits
from unteach.models.loading import LoadedModel
from unteach.seeds import derive_seed
from unteach.training.guard import NeverPreempted

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel

ROWS = 8
"""Texts of a pass."""
STREAM = "texts"
OPENINGS = (
    "Tell me about something that you find interesting.",
    "Write a short story.",
    "Explain how something works.",
    "What is a good way to spend a day?",
    "Describe a place.",
    "Give me some advice.",
    "Write a list of useful things and say what they are for.",
    "What would you like to talk about?",
)
"""What a chat model is asked for its texts: of no subject, so that the model chooses it."""


@dataclass(frozen=True)
class OwnText:
    """A text that the model wrote, and what it was written after."""

    prompt: Ids
    continuation: Ids


def sample_texts(
    loaded: LoadedModel, prompts: Sequence[Ids], num_tokens: int, seed: int
) -> list[OwnText]:
    """Let the model write a text after each prompt, at temperature 1 and without any cut of its
    distribution.

    A text ends where the model ends it, with the token by which it does, or after `num_tokens`.

    Returns:
        The same texts for the same weights and seed.
    """
    dist = NeverPreempted(0, 1, None, None)
    stops = loaded.template.stops
    engine = HFEngine(loaded.model, loaded.tokenizer, None, dist, stops=stops)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), loaded.autocast():
        continuations = engine.generate(
            prompts, num_tokens, seed=derive_seed(seed, "own texts"), do_sample=True, top_k=0
        )
    texts = []
    for prompt, ids in zip(prompts, continuations, strict=True):
        ended = [stops[0]] if len(ids) < num_tokens else []
        texts.append(OwnText(prompt, (*ids, *ended)))
    return texts


def list_openings(template: Template) -> list[Ids]:
    """List what a model is given to write after where nobody names prompts: OPENINGS where it
    chats, else the first token of any text."""
    if template.kind == "chat":
        return [template.encode_prompt(opening) for opening in OPENINGS]
    first = template.tokenizer.bos_token_id
    if first is None:
        first = template.tokenizer.eos_token_id
    return [(first,)]


class DriftMeter:
    """Measures KL(before || now), the mean over the tokens of some texts, in nats.

    Build it before anything wraps the model, `prepare` it or `remember` what the model
    says before it changes.
    Passes are in the weights' own dtype, so in fp32 where they are fp32; logits and KL in fp32.

    Args:
        loaded: the model.
        changed: the parameters that will change.
        texts: on which it is measured; none yet where `load` brings them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        changed: "Iterable[Parameter]",
        texts: Sequence[OwnText] = (),
    ):
        self.loaded = loaded
        self.texts = list(texts)
        # accelerate wraps `forward` in autocast when a run trains in half precision.
        self._forward: Callable[..., Any] = loaded.model.forward
        self._head = _copy_head(loaded.model, changed)
        self._hidden: list[Tensor] = []
        """of the model before, at what predicts a token, one tensor a batch: [N, d]"""

    def prepare(self, prompts: Sequence[Ids], num_tokens: int, seed: int, cache_dir: Path) -> None:
        """Let the model write its texts, and remember what it says of them; both are kept in
        `cache_dir`, so that runs from one folder or hub model share them."""
        path = None
        if self.loaded.path is not None:  # of others no file says which weights they are
            key = self._identify_texts(prompts, num_tokens, seed, cache_dir)
            path = cache_dir / "own_texts" / f"{key}.safetensors"
            if path.exists():
                self.load(path)
                return
        self.texts = sample_texts(self.loaded, prompts, num_tokens, seed)
        self.remember()
        if path is not None:
            self.save(path)

    def _identify_texts(
        self, prompts: Sequence[Ids], num_tokens: int, seed: int, cache_dir: Path
    ) -> str:
        """Return what tells the texts, and what the model says of them, from all others."""
        loaded = self.loaded
        parameter = next(loaded.model.parameters())
        weights = loaded.identity(cache_dir / fingerprints.MEMORY_FILE)
        precision = [str(parameter.dtype), loaded.compute, parameter.device.type]
        settings = [list(prompts), loaded.template.stops, num_tokens, seed]
        return fingerprints.hash_value([weights, precision, settings])

    def remember(self) -> None:
        """Keep what the model says of the texts now: that is what it is compared with."""
        self._hidden = []
        for batch in self._iterate_batches():
            self._hidden.append(self._run(batch, OutputSpec(fn=None)).cpu())

    def save(self, path: Path) -> None:
        """Write the texts, and what was remembered of them."""
        tensors = {}
        for index, text in enumerate(self.texts):
            tensors[f"prompt.{index}"] = torch.tensor(text.prompt)
            tensors[f"continuation.{index}"] = torch.tensor(text.continuation)
        for index, hidden in enumerate(self._hidden):
            tensors[f"hidden.{index}"] = hidden.contiguous()
        path.parent.mkdir(exist_ok=True, parents=True)
        with atomic_write(path) as temporary:
            safetensors_torch.save_file(tensors, temporary)

    def load(self, path: Path) -> None:
        """Take the texts of a file, and what was remembered of them."""
        if not path.exists():
            raise UserError(
                f"{path}: is gone, by which the landing of this run knows what the model was; "
                "begin again with resume=never"
            )
        tensors = safetensors_torch.load_file(path)
        self.texts, self._hidden = [], []
        while f"prompt.{len(self.texts)}" in tensors:
            index = len(self.texts)
            prompt = tuple(tensors[f"prompt.{index}"].tolist())
            self.texts.append(OwnText(prompt, tuple(tensors[f"continuation.{index}"].tolist())))
        while f"hidden.{len(self._hidden)}" in tensors:
            self._hidden.append(tensors[f"hidden.{len(self._hidden)}"])

    def measure(self) -> float:
        """Measure KL(before || now): exactly 0 where nothing changed, infinite where the model says
        nothing finite any more."""
        assert self._hidden, "remember or load comes first"
        total, num_tokens = 0.0, 0
        for batch, hidden in zip(self._iterate_batches(), self._hidden, strict=True):
            spec = OutputSpec(fn=self._compute_kl, extra=(hidden.to(batch["labels"].device),))
            kl = self._run(batch, spec)
            total += float(kl.double().sum())
            num_tokens += len(kl)
        # Of a model that hardly moved, the rounding of a sum may lie below 0.
        return max(total / num_tokens, 0.0) if math.isfinite(total) else math.inf

    def _compute_kl(self, logits: "Tensor", labels: "Tensor", hidden: "Tensor") -> "Tensor":
        """[n, V], [n], the model's before [n, d] -> [n], called chunk by chunk."""
        with self._using_head_before():
            before = head_logits(self.loaded.model, hidden).float().log_softmax(-1)
        kl: Tensor = (before.exp() * (before - logits.log_softmax(-1))).sum(-1)
        return kl

    @contextlib.contextmanager
    def _using_head_before(self) -> Iterator[None]:
        """Put the head before in the place of the head."""
        if self._head is None:
            yield
            return
        causal = unwrap_model(self.loaded.model)
        head = causal.get_output_embeddings()
        device = next(head.parameters()).device
        causal.set_output_embeddings(self._head.to(device))
        try:
            yield
        finally:
            causal.set_output_embeddings(head)

    def _run(self, batch: dict[str, Any], spec: OutputSpec) -> "Tensor":
        model = self.loaded.model
        settings = unwrap_model(model).config.get_text_config()
        kernel = str(getattr(settings, "_attn_implementation", ""))
        # FlashAttention takes half precision alone.
        is_flash = "flash" in kernel
        precision = self.loaded.autocast() if is_flash else contextlib.nullcontext()
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), precision:
                value: Tensor = self._forward(batch=batch, want={STREAM: spec})[STREAM].value
        finally:
            model.train(was_training)
        return value

    def _iterate_batches(self) -> Iterator[dict[str, Any]]:
        """Batches of the texts, labelled where the model wrote."""
        device = next(self.loaded.model.parameters()).device
        pad_id = self.loaded.tokenizer.pad_token_id
        for start in range(0, len(self.texts), ROWS):
            texts = self.texts[start : start + ROWS]
            rows = [[*text.prompt, *text.continuation] for text in texts]
            tensors = pad_rows(rows, pad_id, device, left=False)
            labels = torch.full_like(tensors["input_ids"], IGNORED)  # [B, T]
            for row, text in enumerate(texts):
                first, end = len(text.prompt), len(rows[row])
                labels[row, first:end] = tensors["input_ids"][row, first:end]
            yield {
                **tensors,
                "labels": labels,
                "weight": labels.new_ones(len(texts)),
                "rows": {STREAM: (0, len(texts))},
            }


def _copy_head(model: "PreTrainedModel", changed: "Iterable[Parameter]") -> Any:
    """Copy the head of a model; None where none of its parameters will change."""
    head: Any = unwrap_model(model).get_output_embeddings()
    ids = {id(parameter) for parameter in changed}
    if not any(id(parameter) in ids for parameter in head.parameters()):
        return None
    return copy.deepcopy(head)
