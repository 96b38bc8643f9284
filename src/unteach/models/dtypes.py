"""The precision that passes run in: what the machine and the configuration call for."""

from unteach.errors import UserError
from unteach.lazy import torch
from unteach.wording import quote_value

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
}


def find_compute_dtype(dtype: str | None) -> str:
    """Find the dtype that passes run in; `auto` is bfloat16 on a GPU that has it, float32
    elsewhere."""
    if dtype in (None, "auto"):
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return "bfloat16" if has_bf16 else "float32"
    if dtype not in DTYPES:
        raise UserError(
            f"model.model_args.dtype: must be auto or one of {', '.join(DTYPES)}, got "
            f"{quote_value(dtype)}"
        )
    return DTYPES[str(dtype)]
