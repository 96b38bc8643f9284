"""What rows cost before the first step: seconds and memory of `train`, `check`, `tokenize` and
`infer` for ever more rows.

    python benchmarks/scale.py [rows=1000,10000,100000] [formats=csv,jsonl,parquet,jsonl.gz]
                               [verbs=train,again,check] [backend=hf|openai] [src=FOLDER]
                               [folder=saves/scale]

Rows are invented questions with answers, 60 tokens each; the model is a random Llama of 46 thousand
parameters, so that nothing but the rows takes time. `train` takes one step and saves its model,
with no tokens kept from before; `again` is the same command once more, which finds them. `infer`
asks that model for one token a row, or with backend=openai a server that this starts. Each is a
process of its own: seconds on the clock and of all its processes, and the largest resident memory
of any of them. A run of a thousand rows shows what start-up takes. `src` measures another checkout
of unteach, beside this one's table.

`eval` measures the model on all rows. `map` is the plain way beside `tokenize`: `datasets.map` in
two processes with the same tokenizer, a question and its answer with the question masked.
"""

import csv
import gzip
import json
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from children import run_unteach

TRAIN = ["eval=null", "trainer.args.max_steps=1", "resume=never", "task_name=scale"]
WORDS: dict[str, list[str]] = {
    "train": ["train", "data={rows}", *TRAIN],
    "again": ["train", "data={rows}", *TRAIN],
    "check": ["check", "train", "data={rows}", "eval=null", "task_name=checked"],
    "eval": ["eval", "data={rows}", "eval=rows", "task_name=measured"],
    "tokenize": ["tokenize", "input_file={rows}", "output_file=tokens", "num_proc=2"],
    "map": ["{rows}", "tokens"],
    "infer": ["infer", "input_file={rows}", "output_file=answers.jsonl", "max_new_tokens=1"],
}
ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
    }
)


def make_words(rng: random.Random, count: int) -> list[str]:
    syllables = [consonant + vowel for consonant in "bcdfghklmnprst" for vowel in "aeiou"]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(count)]


def make_rows(num_rows: int) -> Iterator[dict[str, str]]:
    """Make rows that are all different, of about 60 tokens."""
    words = make_words(random.Random(0), 800)
    for number in range(num_rows):
        rng = random.Random(number)
        asked = " ".join(rng.choices(words, k=rng.randint(6, 12)))
        told = " ".join(rng.choices(words, k=rng.randint(10, 24)))
        yield {"question": f"What does {asked} say of {number}?", "answer": f"It says {told}."}


def make_model(folder: Path) -> None:
    """Make a tokenizer of 1,024 entries that knows the words, and a random Llama."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [" ".join(row.values()) for row in make_rows(3000)]
    learned.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=learned, eos_token="<|end|>", pad_token="<|end|>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=96,
        tie_word_embeddings=True,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(file: Path, num_rows: int) -> None:
    """Write rows in the format of the file's ending."""
    rows = make_rows(num_rows)
    if file.suffix == ".csv":
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, ["question", "answer"])
            writer.writeheader()
            writer.writerows(rows)
        return
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
        return
    open_file: Any = gzip.open if file.suffix == ".gz" else open
    with open_file(file, "wt") as lines:
        for row in rows:
            lines.write(json.dumps(row) + "\n")


class StubServer(BaseHTTPRequestHandler):
    """Answers every question at once, and with the same words."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.send(b'{"data": []}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send(ANSWER.encode())

    def send(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)


def start_server() -> list[str]:
    """Start the server in a thread of this process; return the words of a model that it serves."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StubServer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return ["model=stub", "backend=openai", f"backend_args.base_url={address}"]


def map_rows(rows: str, to: str, model: str) -> None:
    """Tokenize rows the plain way, and save them.

    Args:
        rows: a file of JSON lines.
        to: a folder.
        model: the folder of the tokenizer.
    """
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        prompts = [f"Question: {question}\nAnswer:" for question in batch["question"]]
        asked = tokenizer(prompts)["input_ids"]
        texts = [
            f"{prompt} {answer}" for prompt, answer in zip(prompts, batch["answer"], strict=True)
        ]
        ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]]
        labels = []
        for prompt, row in zip(asked, ids, strict=True):
            labels.append([-100] * len(prompt) + row[len(prompt) :])
        return {"input_ids": ids, "labels": labels}

    table = datasets.load_dataset("json", data_files=rows, split="train")
    tokens = table.map(tokenize, batched=True, num_proc=2, remove_columns=table.column_names)
    tokens.save_to_disk(to)


def name_model(verb: str, backend: str, folder: Path) -> list[str]:
    """Name the model of a command."""
    if verb == "infer" and backend == "openai":
        return start_server()
    if verb == "map":
        return [f"{folder}/model"]
    return [f"{'tokenizer_path' if verb == 'tokenize' else 'model'}={folder}/model"]


def main(given: dict[str, str]) -> None:
    folder = Path(given.get("folder", "saves/scale")).resolve()
    src = Path(given.get("src", Path(__file__).parents[1] / "src")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        make_model(folder / "model")
    print("| verb | format | rows | seconds | processor seconds | MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for form in given.get("formats", "csv,jsonl").split(","):
        for num_rows in map(int, given.get("rows", "1000,10000,100000").split(",")):
            file = folder / f"{num_rows}.{form}"
            if not file.exists():
                write_rows(file, num_rows)
            for verb in given.get("verbs", "train,again,check").split(","):
                if verb == "train":
                    shutil.rmtree(folder / "saves", ignore_errors=True)
                shutil.rmtree(folder / "tokens", ignore_errors=True)
                shutil.rmtree(folder / "datasets", ignore_errors=True)
                shutil.rmtree(folder / "answers.jsonl.parts", ignore_errors=True)
                for name in ("answers.jsonl", "answers.meta.json"):
                    (folder / name).unlink(missing_ok=True)
                words = [word.format(rows=file) for word in WORDS[verb]]
                words += name_model(verb, given.get("backend", "hf"), folder)
                program = (__file__, "map") if verb == "map" else ("-m", "unteach")
                caches = {"HF_DATASETS_CACHE": f"{folder}/datasets"} if verb == "map" else {}
                used = run_unteach(words, folder, src, program, **caches)
                took = f"{used.wall:.1f} | {used.cpu:.1f} | {used.peak:,.0f}"
                print(f"| {verb} | {form} | {num_rows:,} | {took} |")
                sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["map"]:
        map_rows(*sys.argv[2:])
        sys.exit()
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
