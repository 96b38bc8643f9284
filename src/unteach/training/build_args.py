"""Build the TrainingArguments of a run, from what the user set and what its folder, dtype, launch
and the rule of normalisation need."""

import importlib.util
import logging
import math
import os
from pathlib import Path
from typing import Any

from unteach.config import schema, training_args
from unteach.data.streams import Stream
from unteach.distributed import launch_environment
from unteach.distributed.process_context import JoinOptions
from unteach.distributed.process_limits import refuse_too_many
from unteach.errors import UserError, describe_missing_extra
from unteach.lazy import torch, transformers
from unteach.training.parallelism import count_rows_per_step
from unteach.training.turns import find_turns

logger = logging.getLogger(__name__)

LOWER_IS_BETTER = ("perplexity", "mae", "mse", "kl")
"""Values of held-out rows of which the library, that knows only `loss`, would keep the largest."""
DDP_ARGS = (
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
)
"""Arguments that act under data parallelism alone."""
TORCHAO_OPTIMIZERS = ("adamw_torch_8bit", "adamw_torch_4bit")
"""Optimisers of the library's list that torchao brings."""
HALF_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16"}
"""accelerate's names of the dtypes."""


def read_join_options(config: schema.TrainConfig) -> JoinOptions:
    """Read how the processes of a run join."""
    args = config.trainer.args
    timeout = args.get("ddp_timeout") or JoinOptions.timeout
    return JoinOptions(bool(args.get("use_cpu")), args.get("ddp_backend"), timeout)


def build_training_args(
    config: schema.TrainConfig, compute: str, anchor: Stream, run_folder: Path
) -> "transformers.TrainingArguments":
    """Build the TrainingArguments of a run.

    Args:
        config: a run's.
        compute: the dtype that it computes in.
        anchor: the stream whose length is an epoch.
        run_folder: the run's.
    """
    args = _collect_args(config, compute)
    if str(args.get("optim")) in TORCHAO_OPTIMIZERS and not importlib.util.find_spec("torchao"):
        raise UserError(describe_missing_extra("quant", f"trainer.args.optim={args['optim']}"))
    # Set anew for each run: another may have run in this process before.
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_folder / "logs")
    try:
        built = transformers.TrainingArguments(
            output_dir=str(run_folder),
            seed=config.seed,
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            **args,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer.args: {error}") from None
    if built.fp16 and built.device.type == "cpu":  # accelerate would take float32 and say nothing
        raise UserError(
            "float16 (model.model_args.dtype, trainer.args.fp16) needs a GPU; take bfloat16 or "
            "float32"
        )
    _use_one_gpu(config, built)
    _refuse_other_launch(config, compute, built)
    for note in note_idle_optimizer(built):
        logger.info(note)

    warmup_epochs = config.trainer.args.get("warmup_epochs")
    if warmup_epochs is not None:
        steps_per_epoch = math.ceil(len(anchor) / count_rows_per_step(built))
        if turns := find_turns(config.trainer):
            steps_per_epoch = turns.count_steps(steps_per_epoch, turns.find_side(anchor.name))
        built.warmup_steps = int(warmup_epochs * steps_per_epoch)
    return built


def _collect_args(config: schema.TrainConfig, compute: str) -> dict[str, Any]:
    """Collect the user's arguments without our own keys, and our defaults where they differ from
    the library's."""
    args = dict(config.trainer.args)
    refuse_too_many("trainer.args.dataloader_num_workers", args.get("dataloader_num_workers") or 0)
    for consumed in (*training_args.OWN, "do_train", "do_eval", "save_total_limit"):
        args.pop(consumed, None)
    args["run_name"] = args.get("run_name") or config.task_name
    if not torch.cuda.is_available():
        args.setdefault("use_cpu", True)
    # The processes have joined already: the library would join them by a rule of its own.
    if launch_environment.is_launched():
        args["accelerator_config"] = {"use_configured_state": True}
    # The main process logs for all; by default the others would warn too.
    args.setdefault("log_level_replica", "error")
    is_mixed = not config.model.pure_bf16 and "bf16" not in args and "fp16" not in args
    for name, dtype in HALF_PRECISIONS.items():
        if is_mixed and compute == dtype:
            args[name] = True
    if args.get("ddp_find_unused_parameters") is None:
        args["ddp_find_unused_parameters"] = False
    if str(args.get("metric_for_best_model")).removeprefix("eval_") in LOWER_IS_BETTER:
        args.setdefault("greater_is_better", False)
    return args


def _use_one_gpu(config: schema.TrainConfig, built: "transformers.TrainingArguments") -> None:
    """Keep the library from nn.DataParallel, which would split a step by a rule of its own."""
    if built.n_gpu <= 1:
        return
    if not config.model.model_args.get("device_map"):
        logger.info(
            f"{built.n_gpu} GPUs are visible and one process uses one: launch=ddp (or "
            "fsdp2, zero2, zero3) uses all, model.model_args.device_map=auto spreads one "
            "model over them"
        )
    built._n_gpu = 1


def _refuse_other_launch(
    config: schema.TrainConfig, compute: str, built: "transformers.TrainingArguments"
) -> None:
    """Raise UserError where the launch's file contradicts the run; what the file leaves open is the
    run's to set."""
    mode = launch_environment.parallel_mode()
    if mode not in ("one", "ddp"):
        for name in DDP_ARGS:
            if config.trainer.args.get(name) is not None:
                raise UserError(
                    f"trainer.args.{name} is for data parallelism, and this run is {mode}; leave "
                    "it out"
                )
    if mode.startswith("zero") and config.model.pure_bf16:
        raise UserError(
            "model.pure_bf16: DeepSpeed keeps fp32 masters beside weights in bfloat16; leave it out"
        )
    precision = HALF_PRECISIONS.get(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    if precision and precision != compute:
        raise UserError(
            f"the launch file says mixed_precision in {precision}, and this run computes in "
            f"{compute}: set model.model_args.dtype={precision}, or mixed_precision: no in the file"
        )
    if built.deepspeed_plugin is not None:
        built.deepspeed_plugin.hf_ds_config.config.setdefault("gradient_clipping", "auto")


def note_idle_optimizer(args: "transformers.TrainingArguments") -> list[str]:
    """List notes on settings of the optimiser that leave the weights, or nearly, as they are."""
    notes = []
    if args.learning_rate == 0:
        notes.append("trainer.args.learning_rate is 0: nothing is learned")
    if 0 < args.max_steps <= args.warmup_steps:
        steps = f"trainer.args.warmup_steps={args.warmup_steps:g} of max_steps={args.max_steps}"
        notes.append(f"{steps}: the learning rate is never reached")
    return notes
