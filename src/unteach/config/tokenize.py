"""What `unteach tokenize` is told."""

from dataclasses import dataclass, field
from typing import Any, Literal

from unteach.config.files import Source
from unteach.config.schema import TemplateArgs
from unteach.errors import UserError


@dataclass(frozen=True)
class TokenizeConfig:
    """What `unteach tokenize` is told. kind: null is by the columns, prompts with answers unless
    there is only text."""

    input_file: Source
    output_file: str
    """the folder that the tokens are written to"""
    tokenizer_path: str
    """a model's folder, a run's folder, or a hub id"""
    max_length: int = 2048
    too_long: Literal["truncate_right", "truncate_left", "drop", "split"] | None = None
    """what becomes of a longer row; null: truncate_right, and split for text, which training cuts
    into rows"""
    kind: Literal["answers", "text"] | None = None
    template: Literal["raw", "chat", "qa"] | None = None
    """null: by the columns"""
    columns: dict[str, str] = field(default_factory=dict)
    """what a column is for -> its name: columns.input=Frage"""
    pretrain_with_output: bool | None = None
    """kind=text: whether the output column is text too; null: true"""
    txt: Literal["document", "line"] | None = None
    num_proc: int | None = None
    """processes; null: one for each processor"""
    template_args: TemplateArgs = field(default_factory=TemplateArgs)
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    added_tokens: list[str] = field(default_factory=list)
    """special tokens that the tokenizer does not have yet; training gets the same as
    model.added_tokens"""

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise UserError(f"max_length must be at least 2, got {self.max_length}")
        if self.num_proc is not None and self.num_proc < 1:
            raise UserError(f"num_proc must be at least 1, got {self.num_proc}")
