"""What the form of a request's rows allows: a question can have a wrong answer beside it, a chat or
a document cannot."""

from unteach.config.schema import AuditConfig
from unteach.data.handlers.chat import ChatDataset
from unteach.data.handlers.text import PretrainingDataset


def can_have_wrong_answers(look: AuditConfig) -> bool:
    """Whether a wrong answer can stand beside each row to forget.

    Args:
        look: the audit before anything is changed, with a dataset for each of the user's files.
    """
    parts = look.data.streams.get("forget", {}).values()
    return not any(issubclass(part.cls, ChatDataset | PretrainingDataset) for part in parts)
