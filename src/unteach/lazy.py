"""Libraries that take seconds to import, imported when something of them is first used.

A configuration is checked, and `--help` answered, before any of them is. This is the one place that
puts an import off; elsewhere they are named at the top of a file: `from unteach.lazy import torch`.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import accelerate.commands.launch as accelerate_launch_command
    import accelerate.state as accelerate_state
    import accelerate.utils as accelerate_utils
    import bitsandbytes.functional as bitsandbytes_functional
    import cryptography.hazmat.primitives.serialization as key_serialization
    import datasets as datasets
    import gguf as gguf
    import huggingface_hub.errors as huggingface_errors
    import hydra.core.override_parser.overrides_parser as hydra_parser
    import hydra.errors as hydra_errors
    import in_toto_attestation.v1.resource_descriptor as in_toto_resource
    import in_toto_attestation.v1.statement as in_toto_statement
    import numpy as np
    import peft as peft
    import pyarrow as pyarrow
    import scipy.stats as scipy_stats
    import securesystemslib.dsse as dsse
    import securesystemslib.exceptions as securesystemslib_exceptions
    import securesystemslib.signer as securesystemslib_signer
    import sklearn.metrics as sklearn_metrics
    import tokenizers as tokenizers
    import torch as torch
    import transformers as transformers
    from rouge_score import rouge_scorer as rouge_scorer
    from safetensors import torch as safetensors_torch
    from torch.distributed import fsdp as fsdp
    from torch.distributed import tensor as distributed_tensor
    from torch.nn import functional as F
else:

    class _LazyModule:
        """Stand for a module and pass on whatever is asked of it."""

        def __init__(self, name: str):
            self.module_name = name

        def __getattr__(self, name: str) -> Any:
            # Not import_module alone: it takes ten times as long where the module is there already.
            module = sys.modules.get(self.module_name) or importlib.import_module(self.module_name)
            return getattr(module, name)

    accelerate_launch_command = _LazyModule("accelerate.commands.launch")
    accelerate_state = _LazyModule("accelerate.state")
    accelerate_utils = _LazyModule("accelerate.utils")
    bitsandbytes_functional = _LazyModule("bitsandbytes.functional")
    datasets = _LazyModule("datasets")
    dsse = _LazyModule("securesystemslib.dsse")
    gguf = _LazyModule("gguf")
    huggingface_errors = _LazyModule("huggingface_hub.errors")
    hydra_errors = _LazyModule("hydra.errors")
    hydra_parser = _LazyModule("hydra.core.override_parser.overrides_parser")
    in_toto_resource = _LazyModule("in_toto_attestation.v1.resource_descriptor")
    in_toto_statement = _LazyModule("in_toto_attestation.v1.statement")
    key_serialization = _LazyModule("cryptography.hazmat.primitives.serialization")
    np = _LazyModule("numpy")
    peft = _LazyModule("peft")
    pyarrow = _LazyModule("pyarrow")
    rouge_scorer = _LazyModule("rouge_score.rouge_scorer")
    scipy_stats = _LazyModule("scipy.stats")
    securesystemslib_exceptions = _LazyModule("securesystemslib.exceptions")
    securesystemslib_signer = _LazyModule("securesystemslib.signer")
    sklearn_metrics = _LazyModule("sklearn.metrics")
    tokenizers = _LazyModule("tokenizers")
    torch = _LazyModule("torch")
    transformers = _LazyModule("transformers")
    safetensors_torch = _LazyModule("safetensors.torch")
    fsdp = _LazyModule("torch.distributed.fsdp")
    distributed_tensor = _LazyModule("torch.distributed.tensor")
    F = _LazyModule("torch.nn.functional")
