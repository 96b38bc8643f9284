"""What `unteach check` says of memory, against what a run takes.

    python benchmarks/memory.py [widths=256,384,512,768] [dtypes=float32,bfloat16]
                                [folder=saves/memory]

Random Llamas of 12 layers and 8,192 entries are trained for three steps of GradDiff on 8 rows to
forget and 8 to keep, of up to 128 tokens, on the CPU: the largest resident memory of the process,
less that of a run of a model of a thousand parameters, which is what Python and its libraries take.
In bfloat16 the weights themselves are in it (model.pure_bf16), and torch's AdamW keeps its moments
so.
"""

import json
import random
import re
import sys
import time
from pathlib import Path

from children import run_unteach

SRC = Path(__file__).parents[1] / "src"
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Has what was freed given back, so that the peak is what was held at once."""
STEPS = [
    "trainer=GradDiff",
    "eval=null",
    "trainer.args.max_steps=3",
    "trainer.args.per_device_train_batch_size=8",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.save_strategy=no",
    "resume=never",
]


def write_rows(file: Path, seed: int) -> None:
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    with file.open("w") as lines:
        for number in range(16):
            words = ["".join(rng.choices(letters, k=4)) for _ in range(24)]
            lines.write(
                json.dumps({"question": f"{seed} {number}?", "answer": " ".join(words)}) + "\n"
            )


def make_model(folder: Path, width: int, num_layers: int) -> None:
    import tokenizers
    import transformers
    from tokenizers import models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    entries = {"<|end|>": 0, **{letter: number for number, letter in enumerate(alphabet, 1)}}
    bytes_alone = tokenizers.Tokenizer(models.BPE(vocab=entries, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone, eos_token="<|end|>", pad_token="<|end|>"
    )
    config = transformers.LlamaConfig(
        vocab_size=8192 if width > 16 else 512,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        intermediate_size=width * 4,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(given: dict[str, str]) -> None:
    folder = Path(given.get("folder", "saves/memory")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("forget", "retain")):
        write_rows(folder / f"{name}.jsonl", seed)
    rows = ["forget=forget.jsonl", "retain=retain.jsonl", "task_name=run"]
    make_model(folder / "nothing", 16, 1)
    nothing = ["unlearn", "model=./nothing", *rows, *STEPS]
    before = run_unteach(nothing, folder, SRC, **ONE_ARENA).peak
    print(f"Python and its libraries: {before:,.0f} MiB ({time.strftime('%Y-%m-%d')})")
    print("| parameters | dtype | check says, MiB | measured, MiB | check / measured |")
    print("|---:|---|---:|---:|---:|")
    for width in map(int, given.get("widths", "256,384,512,768").split(",")):
        model = folder / f"llama-{width}"
        if not model.exists():
            make_model(model, width, 12)
        for dtype in given.get("dtypes", "float32,bfloat16").split(","):
            words = [f"model=./{model.name}", *rows, *STEPS, f"model.model_args.dtype={dtype}"]
            if dtype == "bfloat16":
                words.append("model.pure_bf16=true")
            said = run_unteach(["check", "unlearn", *words], folder, SRC).said
            match = re.search(r"about ([\d.e+-]+) GiB", said)
            count = re.search(r"([\d,]+) parameters", said)
            assert match and count
            told = float(match[1]) * 1024
            found = run_unteach(["unlearn", *words], folder, SRC, **ONE_ARENA).peak - before
            print(f"| {count[1]} | {dtype} | {told:,.0f} | {found:,.0f} | {told / found:.2f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
