"""backend=vllm, and vLLM's own server behind backend=openai, for real: `make test-vllm` runs these
where vLLM is."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import read_rows
from tests.doors import infer
from tests.inference.backends.small import language_model, seeing_model
from unteach.errors import RowsFailed, UserError
from unteach.verbs.start import start

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

EAGER = "backend_args.engine_args={enforce_eager: true}"
TOLERANCE = 1e-4
"""Between the log-probs of two engines in float32."""
HALF = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model(tmp_path_factory.mktemp("small"), chat=True)


@pytest.fixture(scope="session")
def adapted(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes what the small model says."""
    import peft
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("adapted")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    model = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(small), config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(small).save_pretrained(folder)
    return folder


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def questions(count: int = 9) -> list[dict[str, Any]]:
    return [
        {
            "input": f"{'Tell me more of it. ' * (i * 7 % 5)}Who wrote book {i}?",
            "answer": "She did. " * (i % 3 + 1),
        }
        for i in range(count)
    ]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def asked(
        backend: str, model: Path, *more: str, rows: list[dict[str, Any]] | None = None
    ) -> list[dict[str, Any]]:
        path, output = (
            table(tmp_path, questions() if rows is None else rows),
            tmp_path / f"{backend}.jsonl",
        )
        new = () if "kind=score" in more or "max_new" in " ".join(more) else ("max_new_tokens=12",)
        eager = (EAGER,) if backend == "vllm" else ()
        given = (
            f"backend={backend}",
            f"model={model}",
            f"input_file={path}",
            f"output_file={output}",
            "resume=never",
        )
        with contextlib.suppress(RowsFailed):
            infer(*given, *new, *eager, *more)
        return read_rows(output)

    return asked


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]], *numbers: str) -> None:
    """The same rows, but for a rounding in `numbers`."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for name in numbers:
            assert one[name] == pytest.approx(other[name], rel=TOLERANCE)
        assert {k: v for k, v in one.items() if k not in numbers} == {
            k: v for k, v in other.items() if k not in numbers
        }


def words_of(rows: list[dict[str, Any]]) -> list[str]:
    """Two letters out of the middle of two of the texts."""
    found = [re.findall("[a-z]{2}", row["output"]) for row in rows]
    return [pairs[len(pairs) // 2] for pairs in found if len(pairs) > 2][:2]


def test_an_audit_finds_what_it_finds_by_transformers(small: Path, tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Where does number {i} live?",
            "answer": place,
            "value": place,
            "kind": "town",
        }
        for i, place in enumerate(
            ("Oslo", "Bergen", "Paris", "Rome", "Lima", "Bonn", "Graz", "Nice")
        )
    ]
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summaries = []
    for backend in ("hf", "vllm"):
        given = [f"model={small}", f"forget={facts}", f"backend={backend}", f"task_name={backend}"]
        given.append("audit.only=[rank,clean,leak_at_k,rtn4]")
        if backend == "vllm":
            given.append(EAGER)
        folder = start("audit", [*given, f"paths.output_dir={tmp_path / backend}"])
        summaries.append(json.loads((Path(folder) / "AUDIT_SUMMARY.json").read_text()))
    hf, vllm = summaries
    for name in ("rank", "clean"):
        assert vllm["attacks"][name]["rate"] == hf["attacks"][name]["rate"]
    assert "rtn4" in vllm["absent"]


@pytest.mark.parametrize("more", [(), ("template=chat",), ("repetition_penalty=1.3",)], ids=str)
def test_greedy_text_and_log_probs_are_those_of_hf(
    small: Path, ask: Callable[..., list[dict[str, Any]]], more: tuple[str, ...]
) -> None:
    found = ask("vllm", small, "perplexity=true", *more)
    assert len({row["output"] for row in found}) == len(found)
    same(found, ask("hf", small, "perplexity=true", *more), "perplexity")


def test_stop_strings_and_ends_are_those_of_hf(
    small: Path, ask: Callable[..., list[dict[str, Any]]]
) -> None:
    stops = f"stop_strings={json.dumps(words_of(ask('hf', small, 'max_new_tokens=80')))}"
    found = ask("vllm", small, stops, "perplexity=true", "max_new_tokens=80")
    assert {"stop", "eos"} <= {row["finish_reason"] for row in found}
    same(found, ask("hf", small, stops, "perplexity=true", "max_new_tokens=80"), "perplexity")


def test_scores_are_those_of_hf(small: Path, ask: Callable[..., list[dict[str, Any]]]) -> None:
    same(ask("vllm", small, "kind=score"), ask("hf", small, "kind=score"), "logprob", "perplexity")


def test_an_adapter_answers_as_in_hf(
    small: Path, adapted: Path, ask: Callable[..., list[dict[str, Any]]]
) -> None:
    found = ask("vllm", adapted, "perplexity=true")
    assert [row["output"] for row in found] != [row["output"] for row in ask("hf", small)]
    same(found, ask("hf", adapted, "perplexity=true"), "perplexity")


def test_what_is_drawn_depends_on_the_row_alone(
    small: Path, ask: Callable[..., list[dict[str, Any]]]
) -> None:
    more = ("temperature=1.0", "top_p=0.95", "top_k=50", "min_p=0.001", "num_return_sequences=2")
    together = ask("vllm", small, *more)
    assert len({text for row in together for text in row["output"]}) > len(together)
    some = [{**row, "id": i} for i, row in enumerate(questions())][2:5]
    whole = ask(
        "vllm",
        small,
        *more,
        "id_column=id",
        rows=[{**row, "id": i} for i, row in enumerate(questions())],
    )
    assert [row["output"] for row in ask("vllm", small, *more, "id_column=id", rows=some)] == [
        row["output"] for row in whole
    ][2:5]


def test_images_are_seen_as_in_hf(tmp_path: Path, ask: Callable[..., list[dict[str, Any]]]) -> None:
    seeing = seeing_model(tmp_path / "seeing")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (40, 50 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    images: list[Any] = ["0.png", "1.png", ["1.png", "2.png"], "absent.png", "2.png"]
    rows = [
        {"input": f"What is it? {'And why? ' * i}", "image": image}
        for i, image in enumerate(images)
    ]
    found = ask("vllm", seeing, "modality=vlm", "perplexity=true", rows=rows)
    assert [row["error"] is None for row in found] == [True, True, True, False, True]
    expected = ask("hf", seeing, "modality=vlm", "perplexity=true", rows=rows)
    answered = [i for i, row in enumerate(found) if row["error"] is None]
    same([found[i] for i in answered], [expected[i] for i in answered], "perplexity")
    assert found[3]["error"] == expected[3]["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("num_beams=2", "num_beams: backend=vllm cannot do it; these can: backend=hf"),
        ("kind=classify", "kind=classify: backend=vllm cannot do it"),
        ("model.model_args.attn_implementation=eager", "has its own attention"),
        ("quantization=4bit", "quantised already"),
        (
            "backend_args.engine_args={dtype: float16}",
            "engine_args.dtype: is set by model.model_args.dtype",
        ),
        (
            "backend_args.engine_args={max_num_batched_token: 9}",
            "did you mean max_num_batched_tokens",
        ),
        ("backend_args.tensor_parallel_size=0", "must be 1 or more"),
        ("backend_args.engine_args={max_num_batched_tokens: -5}", "vLLM cannot start"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    small: Path, tmp_path: Path, more: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        infer(
            "backend=vllm",
            f"model={small}",
            f"input_file={table(tmp_path, questions())}",
            "max_new_tokens=9",
            more,
        )


@pytest.fixture(scope="module")
def served(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's own server of the small model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--model",
        str(small),
        "--served-model-name",
        "small",
        "--dtype",
        "float32",
        "--enforce-eager",
    ]
    words += [
        "--max-model-len",
        "256",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--generation-config",
        "vllm",
    ]
    log = tmp_path_factory.mktemp("served") / "log"
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": "the-key"}
    with log.open("w") as written:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
        server = subprocess.Popen(
            command, env=environment, stdout=written, stderr=subprocess.STDOUT
        )
    try:
        while True:
            if server.poll() is not None:
                pytest.fail(log.read_text()[-3000:])
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2),
            ):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def plainly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without half a character at the end, which the server holds back."""
    return [{**row, "output": row["output"].rstrip(HALF)} for row in rows]


@pytest.mark.parametrize("template", ["raw", "chat"])
def test_its_server_answers_as_hf_does(
    small: Path,
    ask: Callable[..., list[dict[str, Any]]],
    served: str,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    more = (f"template={template}", "perplexity=true", "max_new_tokens=80")
    where = f"backend_args.base_url={served}"
    plain = ask("hf", small, *more)
    found = ask("openai", Path("small"), where, *more)
    assert {"eos", "length"} == {row["finish_reason"] for row in found}
    same(plainly(found), plainly(plain), "perplexity")
    stops = f"stop_strings={json.dumps(words_of(plain))}"
    found = ask("openai", Path("small"), where, *more, stops)
    assert "stop" in {row["finish_reason"] for row in found}
    expected = ask("hf", small, *more, stops)
    assert [row["output"] for row in plainly(found)] == [row["output"] for row in plainly(expected)]
    # where tokens can be told by their text
    whole = [i for i, row in enumerate(found) if HALF not in row["output"]]
    same([found[i] for i in whole], [expected[i] for i in whole], "perplexity")


def test_its_server_refuses_a_wrong_key_and_a_wrong_name(
    small: Path,
    ask: Callable[..., list[dict[str, Any]]],
    served: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with pytest.raises(UserError, match="HTTP 401"):
        ask("openai", Path("small"), f"backend_args.base_url={served}")
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    with pytest.raises(UserError, match=r"HTTP 404[\s\S]*must be a name that the server knows"):
        ask("openai", Path("large"), f"backend_args.base_url={served}")
    rows = [{"input": "Who? " * 300}, {"input": "Who?"}]
    told = ask("openai", Path("small"), f"backend_args.base_url={served}", rows=rows)
    assert "HTTP 400" in told[0]["error"] and told[1]["output"]
