"""Asks llama.cpp, through xllamacpp, for greedy tokens and their log-probs; prints JSON.

    python ask_llama_cpp.py MODEL.gguf ADAPTER.gguf|- COUNT ID…

A process of its own: where llama.cpp is not content with a file it ends the process.
"""

import json
import sys

import xllamacpp


def ask(model: str, adapter: str, count: int, ids: list[int]) -> list[list[tuple[int, float]]]:
    """The likeliest tokens and their log-probs, for each token that is generated, best first."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 256
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.verbosity = 0
    # As exact as it can be: half precision is the default of the cache.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter != "-":
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server = xllamacpp.Server(params)
    answer = server.handle_completions(
        {"prompt": ids, "max_tokens": count, "temperature": 0, "logprobs": 20}
    )
    steps = []
    for token in answer["choices"][0]["logprobs"]["content"]:
        steps.append([(top["id"], top["logprob"]) for top in token["top_logprobs"]])
    return steps


if __name__ == "__main__":
    model, adapter, count, *ids = sys.argv[1:]
    print(json.dumps(ask(model, adapter, int(count), list(map(int, ids)))))
