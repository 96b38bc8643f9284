"""Special tokens that are written in somebody's text: they are text there, and tokens only where a
template puts them.

A text is hidden before a template shows it: each special token in it becomes a mark. Every special
token that then stands in what the template shows is the template's own.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import tokenizers, transformers

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

# Noncharacters of Unicode, which no text holds. One of them and a private character are one special
# token.
HIDDEN = "\ufdd0"
OWN = "\ufdd1"
FIRST = 0x100000
_HIDDEN_TOKEN = re.compile(f"{HIDDEN}(.)", re.DOTALL)


class SpecialText:
    """The special tokens of a tokenizer, and how their text is told apart from themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.added: list[tuple[int, AddedToken]] = []
        """(id, token) of each special token"""
        for token_id, token in tokenizer.added_tokens_decoder.items():
            if token.special:
                self.added.append((token_id, token))
        self._index: dict[str, int] = {}
        """index of a special token in `added`, by its text"""
        for index, (_, token) in enumerate(self.added):
            self._index[token.content] = index
        # The longest of those that begin at one place is read, as a tokenizer does.
        longest_first = sorted(self._index, key=len, reverse=True)
        any_token = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(any_token or "(?!)")

    def hide(self, text: str) -> str:
        """Mark every special token that is written in a text, so that it stays text."""
        return self._replace(text, HIDDEN)

    def _replace(self, text: str, prefix: str) -> str:
        """Replace every special token in a text by a prefix and a character of its own."""

        def write_mark(match: re.Match[str]) -> str:
            index = self._index[match[0]]
            return prefix + chr(FIRST + index)

        return self._pattern.sub(write_mark, text)

    def hide_all(self, value: object) -> Any:
        """Hide every text in a mapping, a list or a text."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {key: self.hide_all(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_all(inner) for inner in value]
        return value

    def stands_in(self, value: object) -> bool:
        """Whether a special token is written in any text of a mapping, a list or a text."""
        if isinstance(value, str):
            return self._pattern.search(value) is not None
        if isinstance(value, dict):
            return any(self.stands_in(inner) for inner in value.values())
        if isinstance(value, list | tuple):
            return any(self.stands_in(inner) for inner in value)
        return False

    def reveal(self, text: str) -> str:
        """Show a text with marks as it was written."""
        if HIDDEN not in text:
            return text

        def write_token(match: re.Match[str]) -> str:
            index = ord(match[1]) - FIRST
            _, token = self.added[index]
            return token.content

        return _HIDDEN_TOKEN.sub(write_token, text)

    def find(self, text: str, start: int = 0) -> list[tuple[int, int, int]]:
        """Find the special tokens in a text that are not hidden.

        Returns:
            (id, start, stop) of each.
        """
        tokens = []
        for match in self._pattern.finditer(text, start):
            index = self._index[match[0]]
            token_id, _ = self.added[index]
            tokens.append((token_id, match.start(), match.end()))
        return tokens

    def encode(self, text: str, add_special_tokens: bool = False) -> tuple[int, ...]:
        """Tokenise a text in which hidden special tokens are text, and all others tokens."""
        if HIDDEN not in text:
            backend = self._backend
            # Whoever asked the tokenizer for rows of one length left that in its backend.
            if backend is not None and backend.truncation is None and backend.padding is None:
                encoding = backend.encode(text, add_special_tokens=add_special_tokens)
                return tuple(encoding.ids)
            batch = self.tokenizer(
                text,
                add_special_tokens=add_special_tokens,
                return_attention_mask=False,
            )
            return tuple(batch["input_ids"])
        if not self.tokenizer.is_fast:
            start = text.index(HIDDEN)
            token = self.reveal(text[start : start + 2])
            raise UserError(
                f"a row holds the text of the special token {token}, and this tokenizer cannot "
                "read it as text; write it in another way, or set "
                "model.template_args.special_tokens=tokens"
            )
        # The template's own tokens get names that the splitter knows; what is hidden is text again.
        text = self.reveal(self._replace(text, OWN))
        encoding = self._splitter.encode(text, add_special_tokens=add_special_tokens)
        own_ids = []
        for token_id in encoding.ids:
            own_ids.append(self._own_ids.get(token_id, token_id))
        return tuple(own_ids)

    @cached_property
    def _backend(self) -> Tokenizer | None:
        """The Rust tokenizer behind a fast one that adds nothing to it: it takes half the time."""
        kind = type(self.tokenizer)
        fast = transformers.PreTrainedTokenizerFast
        if not issubclass(kind, fast):
            return None
        for method in ("__call__", "_encode_plus", "_batch_encode_plus"):
            if getattr(kind, method, None) is not getattr(fast, method, None):
                return None
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        splits = bool(getattr(self.tokenizer, "split_special_tokens", False))
        return backend if backend.encode_special_tokens == splits else None

    @cached_property
    def _splitter(self) -> tokenizers.Tokenizer:
        """A copy of the tokenizer that reads special tokens as text, and as tokens only by names of
        their own."""
        copy = tokenizers.Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        for index, (_, token) in enumerate(self.added):
            # Those that are no special tokens are never split.
            own_token = tokenizers.AddedToken(
                OWN + chr(FIRST + index),
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
            )
            copy.add_tokens([own_token])
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _own_ids(self) -> dict[int, int]:
        """The id that the splitter gives a special token -> the tokenizer's own id of it."""
        own_ids = {}
        for index, (token_id, _) in enumerate(self.added):
            splitter_id = self._splitter.token_to_id(OWN + chr(FIRST + index))
            if splitter_id is not None:
                own_ids[splitter_id] = token_id
        return own_ids
