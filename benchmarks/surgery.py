"""Surgery and SAM: unteach's step of two gradients, against the plain way.

    python benchmarks/surgery.py [batch=4] [accumulation=2] [length=128] [steps=4] [layers=8]
    [width=256] [vocab=16000]

GradDiff with pcgrad (global), with SAM, with both, and with neither. Both ways start from the same
random Llama and take the same steps on the same rows (an SGD step of rate 1e-3, so that gradients
can be compared from step to step). Each has a process of its own, and they take a step in turn. The
gradients of each step are compared.
"""

import dataclasses
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unteach.config.environment import prepare_environment

prepare_environment()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

from unteach.data.batches import Batch, collate  # noqa: E402
from unteach.data.collators import DataCollatorForSupervisedDataset  # noqa: E402
from unteach.data.steps import Slot  # noqa: E402
from unteach.methods.unlearn.grad_diff import GradDiff  # noqa: E402
from unteach.methods.wrap.perturb import SAM  # noqa: E402
from unteach.methods.wrap.surgery import PCGrad  # noqa: E402
from unteach.models.forward import IGNORED, extend  # noqa: E402
from unteach.models.reference import Reference  # noqa: E402
from unteach.training.gradient_vectors import GradientVectors  # noqa: E402
from unteach.training.step import count_step_units, micro_batch_loss  # noqa: E402
from unteach.training.two_gradients import StepInputs, TwoGradients  # noqa: E402

RHO = 0.1
LEARNING_RATE = 1e-3
TOLERANCE = 1e-4
CASES = ("neither", "pcgrad", "SAM", "SAM and pcgrad")
WAYS = ("plain", "ours")
COLLATOR = DataCollatorForSupervisedDataset(SimpleNamespace(pad_token_id=0))
Batches = list[Batch]


@dataclasses.dataclass
class Settings:
    batch: int = 4
    accumulation: int = 2
    length: int = 128
    steps: int = 4
    layers: int = 8
    width: int = 256
    vocab: int = 16000


def build_model(settings: Settings) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=settings.vocab,
        hidden_size=settings.width,
        intermediate_size=settings.width * 11 // 4,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def draw_batches(settings: Settings, step: int) -> Batches:
    """The micro-batches of a step: rows of half to all of `length`, a third of them prompt."""
    noise = torch.Generator().manual_seed(step)
    batches = []
    for _ in range(settings.accumulation):
        items = []
        for stream in ("forget", "retain"):
            for row in range(settings.batch):
                size = int(
                    torch.randint(settings.length // 2, settings.length, (), generator=noise)
                )
                # Frequent tokens are frequent on both sides: their gradients conflict.
                skewed = torch.rand(size, generator=noise) ** 4
                ids = (3 + skewed * (settings.vocab - 3)).long()
                labels = ids.clone()
                labels[: size // 3] = IGNORED
                example: Any = {"input_ids": ids, "labels": labels}
                items.append((Slot(stream, row, 0, weight=1.0), example))
        batches.append(collate(items, COLLATOR))
    return batches


class Plain:
    """What published code does: the library's forward for each side, with its full logits; whole
    gradients joined into vectors, and a copy of all weights."""

    def __init__(self, model: Any, case: str):
        self.model = model
        self.case = case

    def compute(self, batches: Batches) -> None:
        if self.case == "neither":
            self.run("forget", batches)
            self.run("retain", batches)
            return
        self.run("forget", batches)
        if self.case != "pcgrad":
            forget = self.take()
            copies = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.move(RHO * forget / forget.square().sum().sqrt())
            self.run("forget", batches)
            self.model.load_state_dict(copies)
        forget = self.take()
        self.run("retain", batches)
        retain = self.take()
        if "pcgrad" in self.case:
            conflict = (forget * retain).sum().clamp(max=0) / retain.square().sum()
            forget = forget - conflict * retain
        self.give(forget + retain)

    def run(self, stream: str, batches: Batches) -> None:
        sign = -1.0 if stream == "forget" else 1.0
        sides = []
        for batch in batches:
            start, stop = batch["rows"][stream]
            sides.append(slice(start, stop))
        count = sum(
            int((batch["labels"][side][:, 1:] != IGNORED).sum())
            for batch, side in zip(batches, sides, strict=True)
        )
        for batch, side in zip(batches, sides, strict=True):
            logits = self.model(
                input_ids=batch["input_ids"][side],
                attention_mask=batch["attention_mask"][side],
                use_cache=False,
            ).logits.float()
            labels = batch["labels"][side]
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
            )
            (sign * loss / count).backward()

    def take(self) -> torch.Tensor:
        gradients = torch.cat([p.grad.flatten() for p in self.model.parameters()])
        self.model.zero_grad()
        return gradients

    @torch.no_grad()
    def move(self, offset: torch.Tensor) -> None:
        for parameter, part in self.split(offset):
            parameter.add_(part)

    def give(self, gradient: torch.Tensor) -> None:
        for parameter, part in self.split(gradient):
            parameter.grad = part.clone()

    def split(self, vector: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor]]:
        start = 0
        for parameter in self.model.parameters():
            stop = start + parameter.numel()
            yield parameter, vector[start:stop].view_as(parameter)
            start = stop


class Ours:
    """unteach's step of two gradients; with neither, its plain step."""

    def __init__(self, model: Any, case: str):
        self.model = extend(model)
        self.method = GradDiff()
        self.reference = Reference({})
        self.two: TwoGradients | None = None
        if case != "neither":
            self.two = TwoGradients(
                self.method,
                model,
                self.reference,
                PCGrad(per="global") if "pcgrad" in case else None,
                SAM(rho=RHO) if "SAM" in case else None,
                seed=0,
            )
        self.vectors = GradientVectors(model, "one", 1)

    def compute(self, batches: Batches) -> None:
        counts = {unit: n.float() for unit, n in count_step_units(self.method, batches).items()}
        if self.two is None:
            for batch in batches:
                loss, _ = micro_batch_loss(self.model, self.method, batch, self.reference, counts)
                loss.backward()
            return

        def ignore(batch: Batch, loss: torch.Tensor, shares: Any) -> None:
            return

        inputs = StepInputs(0, lambda: batches, counts, ignore, ignore)
        self.two.compute(self.vectors, inputs)


@dataclasses.dataclass
class Told:
    """One step: seconds of the clock and of the process, bytes at the peak above those before the
    first step, and some of the gradient."""

    wall: float
    cpu: float
    peak: int
    gradient: Any


def work(way: str, case: str, settings: Settings, pipe: Any) -> None:
    """Take a step whenever the parent asks for one."""
    torch.set_num_threads(1)
    model = build_model(settings)
    compute: Callable[[Batches], None] = (Plain if way == "plain" else Ours)(model, case).compute
    before = read_resident("VmRSS")
    for step in range(settings.steps + 1):
        batches = draw_batches(settings, step)
        pipe.recv()
        Path("/proc/self/clear_refs").write_text("5")
        began = (time.perf_counter(), time.process_time())
        compute(batches)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        peak = read_resident("VmHWM") - before
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        pipe.send(Told(wall, cpu, peak, gradient.numpy()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=LEARNING_RATE)
        del gradient
        model.zero_grad()


def read_resident(line: str) -> int:
    """Bytes that Linux counts for this process: VmRSS now, VmHWM at the peak."""
    for said in Path("/proc/self/status").read_text().splitlines():
        if said.startswith(line):
            return int(said.split()[1]) * 1024
    raise LookupError(line)


def measure(case: str, settings: Settings) -> tuple[dict[str, list[Told]], float]:
    """Both ways of a case, a step in turn; without the first step. And how far their gradients are
    apart, at most."""
    context = multiprocessing.get_context("fork")
    pipes, children = {}, []
    for way in WAYS:
        pipes[way], theirs = context.Pipe()
        children.append(context.Process(target=work, args=(way, case, settings, theirs)))
        children[-1].start()
    told: dict[str, list[Told]] = {way: [] for way in WAYS}
    apart = 0.0
    for step in range(settings.steps + 1):
        made = {}
        for way in WAYS if step % 2 else reversed(WAYS):
            pipes[way].send(None)
            made[way] = pipes[way].recv()
        plain, ours = (torch.from_numpy(made[way].gradient) for way in WAYS)
        apart = max(apart, float((plain - ours).norm() / plain.norm()))
        for way in WAYS:
            made[way].gradient = None
            if step:
                told[way].append(made[way])
    for child in children:
        child.join()
    return told, apart


def main(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words)
    settings = Settings(**{name: int(value) for name, value in given.items()})
    torch.set_num_threads(1)
    num_weights = sum(p.numel() for p in build_model(settings).parameters())
    print(f"{num_weights:,} weights ({num_weights * 4 / 2**20:.0f} MiB), {settings}\n")
    print(
        "| | s a step, plain | ours | ours / plain | CPU s, ours / plain | times our plain step "
        "| peak MiB, plain | ours | ours / plain | gradients apart |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    worst, base = 0.0, 0.0
    for case in CASES:
        told, apart = measure(case, settings)
        worst = max(worst, apart)
        median = {
            (way, key): statistics.median(getattr(one, key) for one in told[way])
            for way in WAYS
            for key in ("wall", "cpu", "peak")
        }
        base = base or median["ours", "cpu"]
        pairs = list(zip(told["ours"], told["plain"], strict=True))
        wall = statistics.median(ours.wall / plain.wall for ours, plain in pairs)
        cpu = statistics.median(ours.cpu / plain.cpu for ours, plain in pairs)
        peaks = [median[way, "peak"] / 2**20 for way in WAYS]
        print(
            f"| {case} | {median['plain', 'wall']:.2f} | {median['ours', 'wall']:.2f} "
            f"| {wall:.2f} | {cpu:.2f} | {median['ours', 'cpu'] / base:.2f} "
            f"| {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] / peaks[0]:.2f} | {apart:.0e} |",
            flush=True,
        )
    print(f"\nlargest relative difference of a gradient: {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
