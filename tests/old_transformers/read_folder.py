"""Runs under an old transformers, and on nothing else: what a model's folder says there, as JSON on
the last line.

python read_folder.py FOLDER TEXTS.json
"""

import json
import sys
from pathlib import Path

import torch
import transformers

folder, texts = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
found = {
    "version": transformers.__version__,
    "dtype": str(model.config.torch_dtype),
    "use_cache": model.config.use_cache,
}
rows = []
for text in texts:
    batch = tokenizer(text, return_tensors="pt")
    ids = batch.input_ids
    with torch.no_grad():
        logits = model(**batch).logits[0]
        written = model.generate(**batch, max_new_tokens=6, do_sample=False)
    rows.append(
        {
            "ids": ids[0].tolist(),
            "text": tokenizer.decode(ids[0]),
            "logits": logits.tolist(),
            "greedy": written[0].tolist(),
        }
    )
found["rows"] = rows
found["stops"] = model.generation_config.eos_token_id
found["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
if tokenizer.chat_template:
    found["chat"] = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
print(json.dumps(found))
