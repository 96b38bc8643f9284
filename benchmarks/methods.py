"""The cost of one optimiser step of each unlearning method, against the same step written the plain
way.

    python benchmarks/methods.py [model=FOLDER | layers=8 width=256 vocab=32000] [batch=4]
                                 [length=96] [steps=3] [methods=[NPO,RMU]] [dtype=float32]

Ours: one forward over all streams, the head on answer positions in chunks, reference log-probs from
a table that was computed beforehand, passes that end at RMU's layer. Plain, as published code does
it: a forward a stream, the logits of every position in fp32, and a resident copy of the model, run
in every step, where the method compares with what the model was. Both start from the same weights
and take the same steps on the same rows, in turn, each in a process of its own (on a GPU one after
the other in this one); the median time and the peak are printed, losses and gradient norms must
agree.
"""

import contextlib
import copy
import gc
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import yaml  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig  # noqa: E402

from unteach.config.reader import Reader, join_problems  # noqa: E402
from unteach.data.batches import SlotDataset, collate  # noqa: E402
from unteach.data.collators import DataCollatorForSupervisedDataset  # noqa: E402
from unteach.data.steps import Steps  # noqa: E402
from unteach.data.streams import ALTERNATE, Stream  # noqa: E402
from unteach.errors import UserError, describe_unknown  # noqa: E402
from unteach.methods.base import Context  # noqa: E402
from unteach.models.forward import IGNORED, extend  # noqa: E402
from unteach.models.layer_names import find_layer  # noqa: E402
from unteach.models.reference import Reference, compute_table, drop_unused_layers, needs_copy  # noqa: E402
from unteach.testing import Examples, build_method  # noqa: E402
from unteach.training.step import count_step_units, micro_batch_loss, setup_method  # noqa: E402

LEARNING_RATE = 1e-5
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far loss and gradient norm of the two ways may be apart, relatively, in any step."""
WAYS = ("plain", "ours")
SHAPE = ("layers", "width", "vocab")
COLLATOR = DataCollatorForSupervisedDataset(SimpleNamespace(pad_token_id=0))


@dataclass
class Side:
    """What a plain pass says of one stream: fp32 logits [b, T, V] and the labels that follow each
    position [b, T]."""

    logits: Tensor
    labels: Tensor

    def asked(self) -> Tensor:
        return self.labels != IGNORED

    def logp(self) -> Tensor:
        """log p of each label, 0 where there is none: [b, T]."""
        losses = F.cross_entropy(self.logits.flatten(0, 1), self.labels.flatten(), reduction="none")
        return -losses.view_as(self.labels)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` [b, T] over answer tokens."""
        return value[self.asked()].mean()

    def ce(self) -> Tensor:
        return self.mean(-self.logp())


@dataclass
class Passes:
    """A model and each stream's batch; every call is a forward of its own."""

    model: Any
    batches: dict[str, dict[str, Any]]

    def __call__(self, stream: str) -> Side:
        batch = self.batches[stream]
        made = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        )
        return Side(made.logits.float(), F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED))

    def activations(self, stream: str, layer: str) -> Tensor:
        """What a layer gives, by a hook on a whole forward: [b, T, d]."""
        address = find_layer(self.model, layer)
        seen: list[Any] = []
        hook = address.layers[address.index].register_forward_hook(
            lambda _, __, given: seen.append(given)
        )
        self(stream)
        hook.remove()
        return seen[0][0] if isinstance(seen[0], tuple) else seen[0]

    def distance(self, stream: str, layer: str, target: Tensor) -> Tensor:
        """(h - target)^2: mean over hidden size, over each sequence's answer tokens, over
        sequences."""
        mask = self.batches[stream]["labels"] != IGNORED
        squared = (self.activations(stream, layer).float() - target.float()).square().mean(
            -1
        ) * mask
        return (squared.sum(-1) / mask.sum(-1)).mean()


def grad_diff(m: Any, policy: Passes, reference: Passes) -> Tensor:
    return -m.gamma * policy("forget").ce() + m.alpha * policy("retain").ce()


def grad_diff_kl(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget, retain = policy("forget").ce(), policy("retain")
    with torch.no_grad():
        target = reference("retain").logits.log_softmax(-1)
    divergence = F.kl_div(
        retain.logits.log_softmax(-1), target, reduction="none", log_target=True
    ).sum(-1)
    return -m.gamma * forget + m.alpha * retain.mean(divergence)


def gain(stream: str, policy: Passes, reference: Passes) -> Tensor:
    """s - s_ref of each row: [b]."""
    with torch.no_grad():
        before = reference(stream).logp().sum(-1)
    return policy(stream).logp().sum(-1) - before


def npo(m: Any, policy: Passes, reference: Passes) -> Tensor:
    loss = -(2 / m.beta) * F.logsigmoid(-m.beta * gain("forget", policy, reference)).mean()
    return m.gamma * loss + m.alpha * policy("retain").ce()


def simnpo(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget = policy("forget")
    surprise = -forget.logp().sum(-1) / forget.asked().sum(-1)
    loss = -(2 / m.beta) * F.logsigmoid(m.beta * (surprise - m.delta)).mean()
    return m.gamma * loss + m.alpha * policy("retain").ce()


def dpo(m: Any, policy: Passes, reference: Passes) -> Tensor:
    margin = gain(ALTERNATE, policy, reference) - gain("forget", policy, reference)
    return (
        m.gamma * -(2 / m.beta) * F.logsigmoid(m.beta * margin).mean()
        + m.alpha * policy("retain").ce()
    )


def rmu(m: Any, policy: Passes, reference: Passes) -> Tensor:
    direction = m.control_vector.to(policy.model.device)
    forget = policy.distance(
        "forget", m.module_regex, m.steering_coeff * direction / direction.norm()
    )
    with torch.no_grad():
        target = reference.activations("retain", m.module_regex)
    return m.gamma * forget + m.alpha * policy.distance("retain", m.module_regex, target)


def undial(m: Any, policy: Passes, reference: Passes) -> Tensor:
    with torch.no_grad():
        before = reference("forget")
        chosen = before.labels.clamp(min=0).unsqueeze(-1)
        lowered = before.logits.new_full(chosen.shape, -m.beta)
        target = before.logits.scatter_add_(-1, chosen, lowered).softmax(-1)
    forget = policy("forget")
    return m.gamma * forget.mean(-(target * forget.logits.log_softmax(-1)).sum(-1))


def ceu(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget = policy("forget")
    chosen = forget.labels.clamp(min=0).unsqueeze(-1)
    target = forget.logits.detach().scatter(-1, chosen, float("-inf")).softmax(-1)
    losses = -(target * forget.logits.log_softmax(-1)).sum(-1)
    later = forget.asked() & (forget.asked().cumsum(-1) > m.ignore_first_n_answer_tokens)
    return m.gamma * losses[later].mean()


def wga(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget = policy("forget")
    logp = forget.logp()
    return (
        m.gamma * forget.mean(logp.detach().exp() ** m.beta * logp)
        + m.alpha * policy("retain").ce()
    )


def satimp(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget = policy("forget")
    logp = forget.logp()
    p = logp.detach().exp()
    return (
        m.gamma * forget.mean(p**m.beta1 * (1 - p) ** m.beta2 * logp)
        + m.alpha * policy("retain").ce()
    )


def pdu(m: Any, policy: Passes, reference: Passes) -> Tensor:
    forget = policy("forget")
    flatness = forget.mean((forget.logits.amax(-1) - forget.logits.mean(-1)).square())
    return m.gamma * flatness + m.multiplier * (policy("retain").ce() - m.retain_loss_eps)


PlainLoss = Callable[[Any, Passes, Passes], Tensor]


@dataclass(frozen=True)
class Case:
    """One line of the table: the method, its arguments, and its loss written out."""

    method: str
    plain: PlainLoss
    args: dict[str, Any] = field(default_factory=dict)


CASES = {
    # with 1 the two terms cancel before any training
    "GradDiff": Case("GradDiff", grad_diff, {"alpha": 2.0}),
    "GradDiff-KL": Case("GradDiff", grad_diff_kl, {"retain_loss_type": "KL"}),
    "NPO": Case("NPO", npo),
    "SimNPO": Case("SimNPO", simnpo),
    "DPO": Case("DPO", dpo),
    "RMU": Case("RMU", rmu),
    "UNDIAL": Case("UNDIAL", undial),
    "CEU": Case("CEU", ceu),
    "WGA": Case("WGA", wga),
    "SatImp": Case("SatImp", satimp),
    "PDU": Case("PDU", pdu, {"retain_loss_eps": 0.3}),
}


@dataclass
class Settings:
    """What is measured. model: a folder; else a random Llama. length: tokens of the longest row,
    prompt and answer.
    steps: how many are measured of each way, after one that is not."""

    model: str | None = None
    layers: int = 8
    width: int = 256
    vocab: int = 32000
    batch: int = 4
    length: int = 96
    steps: int = 3
    methods: list[str] = field(default_factory=lambda: list(CASES))
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in (name for name in self.methods if name not in CASES):
            raise UserError(describe_unknown("method to measure", name, CASES))
        least = {"layers": 1, "width": 8, "vocab": 8, "batch": 1, "length": 32, "steps": 1}
        for name in (name for name, bound in least.items() if getattr(self, name) < bound):
            raise UserError(f"{name} must be at least {least[name]}, got {getattr(self, name)}")


def read(words: list[str]) -> Settings:
    """The settings that the words key=value say."""
    for word in (word for word in words if "=" not in word):
        raise UserError(f"{word!r}: an argument is written key=value")
    given = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}
    if "model" in given and (shape := [key for key in SHAPE if key in given]):
        raise UserError(
            f"{', '.join(shape)}: the shape of a random model; leave out, or leave out model="
        )
    reader = Reader()
    settings: Settings = reader.record(Settings, given, "")
    if reader.problems:
        raise UserError(join_problems(reader.problems))
    return settings


def config_of(settings: Settings) -> Any:
    """The configuration of the folder's model, or of a Llama of the shape that is asked for."""
    if settings.model:
        return AutoConfig.from_pretrained(settings.model)
    width = settings.width
    shape = {
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_attention_heads": max(1, width // 64),
    }
    return LlamaConfig(vocab_size=settings.vocab, num_hidden_layers=settings.layers, **shape)


def new_model(settings: Settings) -> Any:
    """The model that both ways start from."""
    dtype = getattr(torch, settings.dtype)
    if settings.model:
        return AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(settings), dtype=dtype)


def examples(stream: str, settings: Settings, vocabulary: int) -> Examples:
    """Rows of random tokens: a third is prompt, and lengths are even between half of the longest
    and the longest. An alternate answer has 8 to 12 tokens, as an "I don't know" line has."""
    made = Examples()
    for row in range(settings.batch):
        chance = random.Random(f"{stream} {row}")
        length = (
            settings.length if row == 0 else chance.randint(settings.length // 2, settings.length)
        )
        prompt, answer = length // 3, length - length // 3
        answer = chance.randint(8, 12) if stream == ALTERNATE else answer
        ids = [chance.randrange(3, vocabulary) for _ in range(prompt + answer)]
        example = {
            "input_ids": ids,
            "labels": [IGNORED] * prompt + ids[prompt:],
            "attention_mask": [1] * len(ids),
        }
        made.append({ALTERNATE: example} if stream == ALTERNATE else example)
    return made


def method_of(name: str, layers: int) -> Any:
    """The method; RMU's layer is the one below the middle, as 7 is of 16."""
    at = {"module_regex": rf"model\.layers\.{max(0, layers // 2 - 1)}"} if name == "RMU" else {}
    return build_method(CASES[name].method, {**CASES[name].args, **at})


@dataclass
class Work:
    """A method and the rows of one optimiser step, which every step that is measured takes
    again."""

    method: Any
    streams: dict[str, Stream]
    steps: Steps

    @classmethod
    def of(cls, settings: Settings, name: str, config: Any) -> "Work":
        method = method_of(name, config.num_hidden_layers)
        rows = {
            stream: examples(stream, settings, config.vocab_size) for stream in method.streams()
        }
        pairs = {ALTERNATE: "forget"}
        streams = {
            stream: Stream(stream, [made], pairs.get(stream)) for stream, made in rows.items()
        }
        return cls(method, streams, Steps(streams, "forget", settings.batch, seed=0))

    def batch(self, device: Any, only: str | None = None) -> dict[str, Any]:
        """All streams in one batch, or one alone, padded to its own longest row."""
        source, (slots,) = (
            SlotDataset(self.streams, "forget"),
            self.steps.split_into_micro_batches(0, 0, num_micro_batches=1),
        )
        batch = collate([source[slot] for slot in slots if only in (None, slot.stream)], COLLATOR)
        return {
            key: value.to(device) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }


def ours(work: Work, model: Any) -> Callable[[], Tensor]:
    """What computes the loss of a step unteach's way; tables are computed here, once."""
    needed, seen = work.method.reference(), work.steps.list_seen(1)
    frozen = drop_unused_layers(extend(frozen_copy(model)), needed) if needs_copy(needed) else None
    extend(model)
    tables = {
        stream: compute_table(model, work.streams[stream], seen[stream], COLLATOR, work.steps.size)
        for stream, kind in needed.items()
        if kind == "logprobs"
    }
    setup_method(model, work.method, seed=0, streams=work.streams)
    batch = work.batch(model.device)
    reference, counts = Reference(needed, tables, frozen), count_step_units(work.method, [batch])
    return lambda: micro_batch_loss(model, work.method, batch, reference, counts)[0]


def plain(work: Work, model: Any, loss: PlainLoss) -> Callable[[], Tensor]:
    """What computes the same loss the plain way."""
    frozen = frozen_copy(model) if work.method.reference() else None
    work.method.prepare(Context(0, model.config.get_text_config().hidden_size))
    batches = {stream: work.batch(model.device, only=stream) for stream in work.streams}
    policy, reference = Passes(model, batches), Passes(frozen, batches)
    return lambda: loss(work.method, policy, reference)


def frozen_copy(model: Any) -> Any:
    return copy.deepcopy(model).requires_grad_(False).eval()


@dataclass
class Measured:
    """One optimiser step: seconds, bytes at its peak above what was held before the model was made,
    and for the comparison its loss and the norm of its gradient."""

    seconds: float
    peak: int
    said: tuple[float, float]

    def difference(self, other: "Measured") -> float:
        """The largest relative difference of loss or gradient norm."""
        return max(
            abs(mine - theirs) / abs(mine)
            for mine, theirs in zip(self.said, other.said, strict=True)
        )


class Memory:
    """What this process holds: on the CPU its resident set, on a GPU what torch allocated there."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
        self.before = torch.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        return (torch.cuda.max_memory_allocated() if self.cuda else resident("VmHWM")) - self.before


def resident(line: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at the peak."""
    said = next(
        said for said in Path("/proc/self/status").read_text().splitlines() if said.startswith(line)
    )
    return int(said.split()[1]) * 1024


def measure(settings: Settings, name: str, way: str) -> Iterator[Measured]:
    """One optimiser step after the other: forward, backward, AdamW."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = Memory(device)
    model = new_model(settings).to(device).train()
    work = Work.of(settings, name, model.config.get_text_config())
    loss_of = ours(work, model) if way == "ours" else plain(work, model, CASES[name].plain)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    while True:
        memory.reset()
        started = now(device)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        seconds, peak = now(device) - started, memory.peak()
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        optimizer.zero_grad()
        yield Measured(seconds, peak, (float(loss.detach()), float(norm)))
        del loss, norm


def now(device: torch.device) -> float:
    """The clock, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def apart(settings: Settings, name: str, way: str) -> Iterator[Measured]:
    """The same from a process forked for it alone, which makes a step when it is asked for one and
    waits otherwise."""
    context = torch.multiprocessing.get_context("fork")
    dist, there = context.Pipe()
    child = context.Process(target=serve, args=(there, measure(settings, name, way)), daemon=True)
    child.start()
    there.close()
    try:
        while True:
            dist.send("go")
            yield dist.recv()
    finally:
        child.kill()
        child.join()


def serve(pipe: Any, steps: Iterator[Measured]) -> None:
    while pipe.recv():
        pipe.send(next(steps))


def both(settings: Settings, name: str) -> dict[str, list[Measured]]:
    """The steps of each way, without the first: in turn where other processes may share the
    machine."""
    count = settings.steps + 1
    if torch.cuda.is_available():
        return {way: list(itertools.islice(measure(settings, name, way), count)) for way in WAYS}
    with contextlib.ExitStack() as stack:
        running = {
            way: stack.enter_context(contextlib.closing(apart(settings, name, way))) for way in WAYS
        }
        rounds = [{way: next(steps) for way, steps in running.items()} for _ in range(count)]
    return {way: [turn[way] for turn in rounds] for way in WAYS}


def line(name: str, found: dict[str, list[Measured]]) -> str:
    """A row of the table: the first step of each way is not counted."""
    seconds = {way: statistics.median(step.seconds for step in found[way][1:]) for way in WAYS}
    mib = {way: max(step.peak for step in found[way][1:]) / 2**20 for way in WAYS}
    times = (
        f"{seconds['plain']:.3f} | {seconds['ours']:.3f} | {seconds['plain'] / seconds['ours']:.2f}"
    )
    return (
        f"| {name} | {times} | {mib['plain']:.0f} | {mib['ours']:.0f} | "
        f"{mib['plain'] / mib['ours']:.2f} |"
    )


def machine(settings: Settings) -> str:
    """Where and on what this was measured; the weights of this model are never made."""
    config = config_of(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    count = sum(parameter.numel() for parameter in model.parameters())
    passed = (
        count if text.tie_word_embeddings else count - model.get_input_embeddings().weight.numel()
    )
    head = text.vocab_size * text.hidden_size / passed
    cuda = torch.cuda.is_available()
    where = (
        torch.cuda.get_device_name()
        if cuda
        else f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
    )
    return (
        f"{where}; torch {torch.__version__}; {settings.dtype}\n"
        f"{config.model_type}, {count / 1e6:.1f} M parameters, {text.num_hidden_layers} layers of "
        f"width "
        f"{text.hidden_size}, vocabulary {text.vocab_size} (the head is {head:.0%} of what a token "
        f"goes through)\n"
        f"{settings.batch} rows a stream of {settings.length // 2} to {settings.length} tokens, "
        f"two thirds answer; "
        f"median of {settings.steps} steps"
    )


def main(words: list[str]) -> None:
    settings = read(words)
    print(machine(settings))
    print(
        "\n| method | plain step, s | ours, s | ratio | plain, MiB | ours, MiB | ratio |\n|---|"
        + "---:|" * 6
    )
    differences = {}
    for name in settings.methods:
        found = both(settings, name)
        print(line(name, found), flush=True)
        differences[name] = max(a.difference(b) for a, b in zip(*found.values(), strict=True))
    worst = max(differences, key=lambda name: differences[name])
    print(
        f"\nlargest relative difference of a loss or a gradient norm: {differences[worst]:.1e} "
        f"({worst})"
    )
    if not all(difference < TOLERANCE[settings.dtype] for difference in differences.values()):
        sys.exit(f"the two ways do not compute the same: {differences}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
