"""The statement of an audit: what it found, bound to the files of the model that it was of."""

import importlib.util
from pathlib import Path
from typing import Any

from unteach import run_dir
from unteach.audits.signing_keys import load_signer
from unteach.audits.statement import EXTRA, build_statement, write_statement
from unteach.audits.subjects import Subject, list_subjects
from unteach.config.schema import PATH, AuditConfig
from unteach.errors import EXTRA_MODULES, UserError, describe_missing_extra

STATEMENT = run_dir.AUDIT_STATEMENT


class Evidence:
    """Records what the audited model consists of, before and after it was audited.

    Build it before anything is measured: a key that cannot be read is refused then.

    Attributes:
        reason: why there is no statement; empty: there is one.
    """

    def __init__(self, config: AuditConfig):
        self.config = config
        self.signer = None
        self.subjects: list[Subject] = []
        self.reason = self._find_reason()
        if not self.reason:
            if config.audit.sign_key is not None:
                self.signer = load_signer(Path(config.audit.sign_key))
            self.subjects = self._list_subjects()

    def _find_reason(self) -> str:
        if self.config.backend is not None:
            return "an endpoint shows no files of its model"
        if not self.config.model.model_args.get(PATH):
            return "the model has no files"
        is_missing = any(
            importlib.util.find_spec(module) is None for module in EXTRA_MODULES[EXTRA]
        )
        # With a key to sign with, what is missing is an error.
        if is_missing and self.config.audit.sign_key is None:
            return describe_missing_extra(EXTRA, "a statement about an audit")
        return ""

    def _list_subjects(self) -> list[Subject]:
        model = self.config.model
        return list_subjects(
            str(model.model_args[PATH]),
            base_path=model.base_path,
            tokenizer_path=model.tokenizer_args.get(PATH),
            revision=model.model_args.get("revision"),
            cache_dir=model.model_args.get("cache_dir"),
        )

    def write(self, folder: Path, summary: dict[str, Any]) -> None:
        """Write the statement about a summary.

        Raises:
            UserError: the model's files changed while they were audited.
        """
        if self._list_subjects() != self.subjects:
            raise UserError(
                "the model's files changed while it was audited, so that nothing can be said of "
                "them; audit it again, and let nothing write there meanwhile"
            )
        write_statement(folder / STATEMENT, build_statement(self.subjects, summary), self.signer)
