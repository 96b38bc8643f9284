"""The configuration beside saved weights: the start's own, in words that older readers know too.

A training sets some of a model's settings for itself; what is saved has those that the model
started with. And transformers 5 spells some settings anew: the dtype, the rotary embeddings, a
tokenizer's class. Older readers do not know the new words, take defaults in their place, and say
nothing, so both spellings are written, with one meaning.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unteach import atomic
from unteach.lazy import transformers
from unteach.models.hub import from_hub

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
WHOLE_TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "tokenizer.model"
SET_BY_TRAINING = ("use_cache", "dtype", "bos_token_id", "eos_token_id", "pad_token_id")
"""What transformers' Trainer and fp32 masters set on a model; `Trainer` takes the ids from a
tokenizer it is given."""
PADDING = "pad_token_id"
"""Is a classifier's own: it finds the last token by it."""
TWO_BASES = ("gemma3_text", "gemma3n_text")
"""Families whose full and sliding layers had a rotary base each, under two names, before
transformers 5."""
NEOX = ("gpt_neox", "gpt_neox_japanese")
"""Families whose rotary settings had names of their own."""
GENERIC = "PreTrainedTokenizerFast"
"""The class of a tokenizer that is all in tokenizer.json, by a name that every version knows."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class StartSettings:
    """What a model was configured with before a run set anything: config.json and
    generation_config.json."""

    config: Settings
    generation: Settings | None

    @classmethod
    def read(cls, model: "PreTrainedModel", path: str | None, **source: object) -> "StartSettings":
        """Read them off a model that was just loaded.

        Its dtype is read off its folder, since masters are of another.

        Args:
            source: what says which files of a repository are read.
        """
        config = _to_settings(model.config)
        if path is not None:
            saved_config = from_hub(transformers.AutoConfig, path, **source)
            _restore(config, _to_settings(saved_config), ("dtype",))
        generation_config = getattr(model, "generation_config", None)
        generation = None if generation_config is None else _to_settings(generation_config)
        return cls(config, generation)

    def restore(self, folder: Path) -> None:
        """Put them back into a folder that a model was saved into."""
        if not (folder / CONFIG).exists():
            return
        saved = _read(folder / CONFIG)
        names = list(SET_BY_TRAINING)
        architectures = saved.get("architectures") or [""]
        if str(architectures[0]).endswith("ForSequenceClassification"):
            names.remove(PADDING)
        _restore(saved, self.config, names)
        _write(folder / CONFIG, saved)
        if self.generation is not None:
            _write(folder / GENERATION, self.generation)


def _to_settings(config: "PretrainedConfig | GenerationConfig") -> Settings:
    settings: Settings = json.loads(config.to_json_string(use_diff=True))
    return settings


def _restore(saved: Settings, start: Settings, names: Sequence[str]) -> None:
    """Give saved settings the values of the start, those of a configuration inside one too."""
    for name in names:
        if name in start:
            saved[name] = start[name]
        else:
            saved.pop(name, None)
    for name, part in _find_parts(saved).items():
        if isinstance(start.get(name), dict):
            _restore(part, start[name], names)


def _find_parts(config: Settings) -> dict[str, Settings]:
    """Find the configurations inside one, such as text_config."""
    parts = {}
    for name, part in config.items():
        if isinstance(part, dict) and "model_type" in part:
            parts[name] = part
    return parts


def add_old_names(folder: Path) -> None:
    """Write the settings of a saved model in their old spelling too."""
    if (folder / CONFIG).exists():
        config = _read(folder / CONFIG)
        _spell_as_before(config)
        _write(folder / CONFIG, config)


def _spell_as_before(config: Settings) -> None:
    """Add the old spelling to a configuration, and to those inside it."""
    if "dtype" in config:
        config["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.update(_spell_rope(rope, config))
    elif isinstance(rope, dict) and config.get("model_type") in TWO_BASES:
        config.update(_spell_rope(rope["full_attention"], config))
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    for part in _find_parts(config).values():
        _spell_as_before(part)


def _spell_rope(rope: Settings, config: Settings) -> Settings:
    """Spell rotary settings as transformers 4 did: base and share beside a mapping of what scales
    them, or null."""
    kind = rope.get("rope_type", "default")
    scaling = dict(rope)
    scaling.pop("rope_theta")
    share = scaling.pop("partial_rotary_factor", 1.0)
    if config.get("model_type") in NEOX:
        spelled: Settings = {"rotary_emb_base": rope["rope_theta"], "rotary_pct": share}
    else:
        spelled = {"rope_theta": rope["rope_theta"]}
        if share != 1.0:
            spelled["partial_rotary_factor"] = share
    if kind == "longrope" and str(config.get("model_type")).startswith("phi3"):
        # This family took three entries and no others, and the length from beside them.
        scaling = {
            "type": kind,
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        }
    spelled["rope_scaling"] = None if kind == "default" else scaling
    return spelled


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Save a tokenizer so that transformers before 5 makes the same one.

    That is the same class, special tokens, template and decoding.
    """
    tokenizer.save_pretrained(folder)
    _copy_sentencepiece(tokenizer, folder)
    path = folder / TOKENIZER
    if not path.exists() or not (folder / WHOLE_TOKENIZER).exists():
        return
    saved = _read(path)
    if "auto_map" not in saved:
        # The class of a family puts a BOS of its own in some versions; this one does what
        # tokenizer.json says.
        saved["tokenizer_class"] = GENERIC
    # A list under the new name is an error of versions 4.47 to 4.57; version 5 reads the old name.
    if isinstance(saved.get("extra_special_tokens"), list):
        saved["additional_special_tokens"] = saved.pop("extra_special_tokens")
    # Defaults of older versions: texts were tidied, and ids of sentence pairs were given, which no
    # decoder takes.
    saved["clean_up_tokenization_spaces"] = bool(tokenizer.clean_up_tokenization_spaces)
    saved.setdefault("model_input_names", list(tokenizer.model_input_names))
    template = tokenizer.chat_template
    if isinstance(template, dict):
        named = [{"name": name, "template": text} for name, text in template.items()]
        saved["chat_template"] = named
    elif template is not None:
        saved["chat_template"] = template
    _write(path, saved)


def _copy_sentencepiece(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Copy the SentencePiece file that a tokenizer was made from, which transformers 5 leaves out.

    llama.cpp's converter reads Gemma's and some others' vocabulary from nowhere else. It does not
    know tokens that were added since: of such a tokenizer the file is left out, so that the
    converter refuses the folder instead of losing them.
    """
    source = _find_file(tokenizer, SENTENCEPIECE)
    whole = _find_file(tokenizer, WHOLE_TOKENIZER)
    saved = folder / WHOLE_TOKENIZER
    if source is None or whole is None or not saved.exists():
        return
    if (folder / SENTENCEPIECE).exists() or _read_vocabulary(saved) != _read_vocabulary(whole):
        return
    with atomic.atomic_write(folder / SENTENCEPIECE) as temporary:
        shutil.copyfile(source, temporary)


def _find_file(tokenizer: "PreTrainedTokenizerBase", name: str) -> Path | None:
    """Find a file of the folder or the cached repository that a tokenizer came from; None where
    that has none, or is gone, or the tokenizer was learned here."""
    if not tokenizer.name_or_path:
        return None
    try:
        found = transformers.utils.cached_file(
            str(tokenizer.name_or_path),
            name,
            local_files_only=True,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return Path(found) if found else None


def _read_vocabulary(path: Path) -> tuple[object, list[tuple[int, str]]]:
    """Read the pieces of a tokenizer.json, and the tokens that were added to them."""
    saved = _read(path)
    added = [(token["id"], token["content"]) for token in saved.get("added_tokens") or ()]
    return saved["model"].get("vocab"), sorted(added)


def _read(path: Path) -> Settings:
    settings: Settings = json.loads(path.read_text(encoding="utf-8"))
    return settings


def _write(path: Path, settings: Settings) -> None:
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    atomic.write_text(path, text + "\n")
