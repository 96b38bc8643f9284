"""Estimate the memory that a run takes, and find the words that make it fit a machine.

What grows with the parameters is counted: weights, gradients, the optimiser's moments, copies that
a method compares with. Activations are counted as Korthikanti et al. 2022 (arXiv:2205.05198) do,
for a block as Llama has it, without attention matrices: 15 numbers a hidden unit (inputs of norms
and of matrices, queries, keys, values, residuals) and 4 a unit of the gated MLP; in half precision
the norms keep 12 bytes more. With gradient checkpointing it is a number a layer and hidden unit,
and all of one layer. Three chunks of logits come on top. docs/memory.md has a table of it.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unteach.config import schema
from unteach.lazy import torch
from unteach.methods.edit.base import Edit
from unteach.methods.wrap.perturb import WeightPerturbation
from unteach.models.forward import CHUNK_ELEMENTS
from unteach.models.layers import num_embeddings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments

    from unteach.data.streams import Stream
    from unteach.models.loading import LoadedModel

GIB = 2**30
ADAM_BYTES = 8
"""Bytes that Adam keeps for each trained parameter in fp32."""
OPTIMIZER_BYTES = {"adafactor": 0.0, "sgd": 0.0, "8bit": 2.1, "4bit": 1.1, "lion": 4.0}
"""The same for optimisers whose name contains one of these."""
NF4_BYTES = 0.53
"""Bytes of a weight that is rounded to 4 bits, with its share of what its block is scaled by."""
ROUNDED = (
    "trainer.args.optim=adamw_torch_8bit",
    "trainer.args.optim_args='bf16_stochastic_round=True'",
)
"""Has bfloat16 weights that train rounded at random, so that small updates do not vanish."""
CHECKPOINTED = ("trainer.args.gradient_checkpointing=true",)
LORA = ("model.peft_args={r: 16, lora_alpha: 32, target_modules: all-linear}",)
LORA_SHARE = 0.012
"""The share of a model's parameters that such a LoRA has; of 8B and more it is less."""
QUANTIZED = ("model.model_args.quantization_config={load_in_4bit: true, bnb_4bit_quant_type: nf4}",)
ROOM = 0.92
"""The share of a GPU's memory that a run may count on: the rest is the driver's, and lost between
blocks."""


@dataclass(frozen=True)
class Footprint:
    """What decides how much memory a run takes.

    Attributes:
        num_frozen, num_trained: parameters.
        frozen_bytes, trained_bytes: of one of each.
        optimizer_bytes: that the optimiser keeps of one that trains.
        reference_bytes: of the copy of the model that a method compares with.
        num_gradients: gradients that are held at a time: more than one under surgery.
        perturbed_bytes: of the copy of the weights that are perturbed.
        num_tokens: of a micro-batch of all streams, padded.
        num_layers, width, mlp_width: of the model.
        vocabulary: entries of its head.
        compute_bytes: of a number in its passes.
        checkpoints: whether activations are computed again in the backward pass.
        others: anything else, by what it is for.
    """

    num_frozen: int
    num_trained: int
    frozen_bytes: float
    trained_bytes: float
    optimizer_bytes: float
    num_tokens: int
    num_layers: int
    width: int
    mlp_width: int
    vocabulary: int
    compute_bytes: int
    checkpoints: bool = False
    reference_bytes: float = 0.0
    num_gradients: int = 1
    perturbed_bytes: float = 0.0
    others: Mapping[str, float] | None = None

    def estimate(self) -> dict[str, float]:
        """Estimate the bytes of a process, by what they are for."""
        gradient = self.num_trained * self.trained_bytes
        return {
            "weights": self.num_frozen * self.frozen_bytes + gradient,
            "gradients": gradient,
            "optimiser": self.num_trained * self.optimizer_bytes,
            "reference": self.reference_bytes,
            "surgery": gradient * (self.num_gradients - 1),
            "perturbation": self.perturbed_bytes,
            "activations": self._estimate_activations(),
            **(self.others or {}),
        }

    def _estimate_activations(self) -> float:
        """Estimate the bytes that a forward pass keeps for the backward pass, and the logits."""
        of_norms = 12 * self.width if self.compute_bytes < 4 else 0
        a_layer = self.compute_bytes * (15 * self.width + 4 * self.mlp_width) + of_norms
        a_token = float(self.num_layers * a_layer)
        if self.checkpoints:
            a_token = self.num_layers * self.width * self.compute_bytes + a_layer
        logits = 3 * 4 * min(CHUNK_ELEMENTS, self.num_tokens * self.vocabulary)
        return self.num_tokens * a_token + logits

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return sum(self.estimate().values())


def read_footprint(
    loaded: "LoadedModel",
    args: "TrainingArguments",
    trainer: schema.TrainerConfig,
    streams: "dict[str, Stream]",
) -> Footprint:
    """Read the footprint of a run, without sharding, from what it trains with."""
    parameters = list(loaded.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
    trained_size = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    num_trained = sum(parameter.numel() for parameter in trained)
    num_frozen = sum(parameter.numel() for parameter in parameters) - num_trained
    compute_bytes = 4 if loaded.compute == "float32" else 2
    config = loaded.model.config
    footprint = Footprint(
        num_frozen=num_frozen,
        num_trained=num_trained,
        frozen_bytes=(sum(sizes) - trained_size) / max(num_frozen, 1),
        trained_bytes=trained_size / max(num_trained, 1),
        optimizer_bytes=_count_optimizer_bytes(args, trained_size / max(num_trained, 1)),
        num_tokens=args.per_device_train_batch_size * _sum_longest(streams),
        num_layers=config.num_hidden_layers,
        width=config.hidden_size,
        mlp_width=_read_mlp_width(config),
        vocabulary=num_embeddings(loaded.model),
        compute_bytes=compute_bytes,
        checkpoints=bool(args.gradient_checkpointing),
    )

    method = trainer.method
    others: dict[str, float] = {}
    if isinstance(method, Edit):
        changed = list(method.find_weights(loaded.model).values())
        others = dict(method.estimate_memory(loaded.model))
        num_parameters = num_frozen + num_trained
        footprint = replace(
            footprint,
            num_frozen=num_parameters,
            num_trained=0,
            frozen_bytes=sum(sizes) / num_parameters,
        )
    else:
        changed = trained
        if trainer.dual_optim:
            footprint = replace(footprint, optimizer_bytes=2 * footprint.optimizer_bytes)
        if not isinstance(method, schema.TheirTrainer) and any(
            kind != "logprobs" for kind in method.reference().values()
        ):
            copy_bytes = sum(parameter.numel() for parameter in parameters) * compute_bytes
            footprint = replace(footprint, reference_bytes=copy_bytes)
        if trainer.surgery is not None:
            footprint = replace(footprint, num_gradients=2 + trainer.surgery.MEMORIES)
        if isinstance(trainer.perturb, WeightPerturbation):
            footprint = replace(footprint, perturbed_bytes=trained_size)
    if trainer.land:
        size = sum(parameter.numel() * parameter.element_size() for parameter in changed)
        others["both ends of the landing, on the CPU"] = 2.0 * size
    return replace(footprint, others=others)


def _read_mlp_width(config: "PretrainedConfig") -> int:
    """Read how wide the MLP of a layer is: four times the model's, where the configuration does not
    say it."""
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        width = getattr(config, name, None)
        if isinstance(width, int):
            return width
    return 4 * int(config.hidden_size)


def _count_optimizer_bytes(args: "TrainingArguments", trained_bytes: float) -> float:
    """Count the bytes that an optimiser keeps of a parameter; torch's Adam keeps its moments in the
    dtype of the weights."""
    for name_part, size in OPTIMIZER_BYTES.items():
        if name_part in str(args.optim):
            return size
    return ADAM_BYTES * trained_bytes / 4


def _sum_longest(streams: "dict[str, Stream]") -> int:
    """Sum the tokens of the longest row of each stream: a micro-batch may hold all of them at
    once."""
    longest = 0
    for stream in streams.values():
        longest += max(
            len(stream.example(row)["input_ids"]) for row in stream.list_tokenized_rows()
        )
    return longest


def note_lost_updates(model: "PreTrainedModel", args: "TrainingArguments") -> list[str]:
    """List a note on weights in bfloat16 that train and are rounded to the nearest: most updates
    are lost there."""
    trains_halves = any(
        weight.requires_grad and weight.dtype == torch.bfloat16 for weight in model.parameters()
    )
    if not trains_halves or "bf16_stochastic_round" in str(args.optim_args):
        return []
    return [
        "weights in bfloat16 (model.pure_bf16) keep 8 bits, so that an update of less than 0.4 % "
        f"of one is lost; rounded at random they are kept on average: {shlex.join(ROUNDED)}"
    ]


def describe_memory(footprint: Footprint) -> str:
    """Describe the memory that a process needs."""
    parts = footprint.estimate()
    listed = [f"{name} {size / GIB:.2g}" for name, size in parts.items() if size]
    return f"about {footprint.num_bytes / GIB:.2g} GiB a process ({' + '.join(listed)})"


def list_smaller(footprint: Footprint) -> Iterator[tuple[tuple[str, ...], Footprint]]:
    """List what makes a run smaller: the words, and the footprint that it has with them, from what
    costs least of its quality to what costs most."""
    checkpointed = replace(footprint, checkpoints=True)
    if not footprint.num_trained:  # nothing is trained: an edit
        return
    if not footprint.checkpoints:
        yield CHECKPOINTED, checkpointed
    num_parameters = footprint.num_frozen + footprint.num_trained
    if footprint.num_frozen == 0:
        in_bf16 = replace(
            checkpointed,
            trained_bytes=2.0,
            optimizer_bytes=OPTIMIZER_BYTES["8bit"],
            reference_bytes=min(footprint.reference_bytes, 2.0 * num_parameters),
            perturbed_bytes=footprint.perturbed_bytes / 2,
            compute_bytes=2,
        )
        bf16_words = ("model.model_args.dtype=bfloat16", "model.pure_bf16=true")
        yield (*bf16_words, *ROUNDED, *CHECKPOINTED), in_bf16
        adapted = replace(
            checkpointed,
            num_frozen=num_parameters,
            num_trained=int(LORA_SHARE * num_parameters),
            frozen_bytes=2.0,
            trained_bytes=4.0,
            optimizer_bytes=float(ADAM_BYTES),
            # An adapter that is switched off is the model before.
            reference_bytes=0.0,
            perturbed_bytes=0.0,
            compute_bytes=2,
        )
        yield ("model.model_args.dtype=bfloat16", *LORA, *CHECKPOINTED), adapted
        rounded = replace(adapted, frozen_bytes=NF4_BYTES)
        yield ("model.model_args.dtype=bfloat16", *QUANTIZED, *LORA, *CHECKPOINTED), rounded


def measure_machine() -> tuple[str, int]:
    """Measure the memory of this machine's GPU, or where it has none its own: what it is called,
    and its bytes."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        return properties.name, properties.total_memory
    return "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_fit(footprint: Footprint, gpu_bytes: int | None) -> str:
    """Say whether a run fits into a GPU of so many bytes, or (None) this machine, and with which
    words it does."""
    name, num_bytes = ("a GPU", gpu_bytes) if gpu_bytes is not None else measure_machine()
    place = f"{name} of {num_bytes / GIB:.3g} GiB"
    words = find_words_that_fit(footprint, num_bytes)
    if words is None and not footprint.num_trained:
        return f"not into {place}"
    if words is None:
        return f"not into {place}, whatever is made smaller: split it over several (launch=fsdp2)"
    if not words:
        return f"into {place}"
    return f"not into {place} as it is; with these words it does: {shlex.join(words)}"


def find_words_that_fit(footprint: Footprint, num_bytes: float) -> tuple[str, ...] | None:
    """Find the words with which a run fits into so much memory: () where it does as it is, None
    where none of them is enough."""
    if footprint.num_bytes <= ROOM * num_bytes:
        return ()
    for words, smaller in list_smaller(footprint):
        if smaller.num_bytes <= ROOM * num_bytes:
            return words
    return None
