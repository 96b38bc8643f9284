"""Naming a decoder's layers, and the modules inside them, the same way in every family.

`layers.7` is the eighth layer, `layers.25%` the layer a quarter down the model's depth,
`layers.7.mlp` a module of a layer, whatever the family calls its list of layers and its MLP.
`embedding` is what the first layer gets, `last` what the head gets. A regex of the library's own
names, or of these, may name one or several.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unteach.errors import UserError
from unteach.lazy import torch

if TYPE_CHECKING:
    from torch.nn import Module, ModuleList
    from transformers import PreTrainedModel

EMBEDDING = "embedding"
"""Names the hidden states that the first layer gets."""
LAST = "last"
"""Names the last hidden states, as the head gets them: behind the final norm."""
LAYERS = "layers"
"""What the list of a decoder's layers is called in every family."""
MLP = "mlp"
"""What a layer's MLP, or its mixture of experts, is called in every family."""
DEFAULT_LAYER = "layers.25%"
"""Where a method takes states that is not told otherwise: layer 7 of 32, as in most papers."""
ALL_LAYERS = r"layers\.\d+"
"""Names every layer."""

_LIST_NAMES = ("layers", "h", "blocks")
"""Names that families give to their list of layers."""
_MLP_NAMES = (MLP, "feed_forward", "block_sparse_moe", "ffn", "mlp_block", "fc2")
"""Names that families give to the MLP of a layer."""
_OTHER_MODALITIES = ("vision", "visual", "audio", "image", "speech")
_PERCENT = re.compile(r"layers\\?\.(\d+(?:\.\d+)?)%")
_NUMBER = re.compile(r"layers\\?\.(\d+)(?![\d.]*%)")
_DEPTH = "_unteach_depth"


@dataclass(frozen=True)
class LayerAddress:
    """Where a layer is: in which list, and which module has that list under which name."""

    owner: Any
    list_path: str
    index: int

    @property
    def list_name(self) -> str:
        return self.list_path.rpartition(".")[2]

    @property
    def layers(self) -> "ModuleList":
        """The list of layers that it is in."""
        layers: ModuleList = getattr(self.owner, self.list_name)
        return layers

    @property
    def name(self) -> str:
        """The layer's own name in this model."""
        return f"{self.list_path}.{self.index}"


@dataclass(frozen=True)
class ModuleAddress:
    """Whose output is meant.

    Attributes:
        name: what it is called in every family, or else the module's own name.
        layer: the layer that it is or lies in; of `embedding` the first one, of `last` None.
        inner: the module's name inside its layer; "" for the layer itself.
    """

    name: str
    layer: LayerAddress | None
    inner: str = ""


def find_layer_lists(causal: "PreTrainedModel") -> "dict[str, ModuleList]":
    """Find the outermost lists of modules, by name: a layer may have lists of its own inside."""
    lists = {}
    for name, module in causal.named_modules():
        if isinstance(module, torch.nn.ModuleList):
            lists[name] = module
    outermost = {}
    for name, module in lists.items():
        if not any(name.startswith(f"{other}.") for other in lists):
            outermost[name] = module
    return outermost


def find_main_list(lists: "dict[str, ModuleList]") -> str | None:
    """Find which list holds the layers of the language model; None where several may."""
    candidates = []
    for path in lists:
        is_of_text = not any(word in path for word in _OTHER_MODALITIES)
        if is_of_text and path.rpartition(".")[2] in _LIST_NAMES:
            candidates.append(path)
    if len(candidates) == 1:
        return candidates[0]
    return next(iter(lists)) if len(lists) == 1 else None


def count_layers(causal: "PreTrainedModel") -> int:
    """Count the layers of a model, those that were taken away from it included."""
    lists = find_layer_lists(causal)
    main_list = find_main_list(lists)
    length = len(lists[main_list]) if main_list is not None else 0
    return int(getattr(causal, _DEPTH, length))


def remember_depth(causal: "PreTrainedModel") -> None:
    """Note how many layers a model has before some are taken away: names by depth go by that."""
    setattr(causal, _DEPTH, count_layers(causal))


def count_named_layers(patterns: Iterable[str]) -> int:
    """Count the layers that a model needs for these names to be there; 0 where any will do."""
    most = 0
    for pattern in patterns:
        for number in _NUMBER.findall(pattern):
            most = max(most, int(number) + 1)
    return most


def name_in_every_family(name: str, main_list: str | None) -> str:
    """Turn the name of a parameter of a layer into the one of every family, such as
    `layers.7.mlp.down_proj.weight`; others stay as they are."""
    if main_list is None or not name.startswith(f"{main_list}."):
        return name
    return LAYERS + name.removeprefix(main_list)


def _replace_percent(causal: "PreTrainedModel", pattern: str) -> str:
    """Put the number of a layer in the place of a percentage of the depth.

    p % of n layers end with layer n p / 100, rounded down, and at least with the first.
    """

    def find_number(match: re.Match[str]) -> str:
        percent = float(match.group(1))
        if percent > 100:
            raise UserError(f"the layer {pattern!r}: a model has no layer beyond 100%")
        # Rounded first: 29 % of 100 layers are 29, not the 28.999… of a product of floats.
        num_layers = int(round(count_layers(causal) * percent / 100, 6))
        index = max(0, num_layers - 1)
        return rf"layers\.{index}"

    return _PERCENT.sub(find_number, pattern)


def _matches(pattern: str, names: Iterable[str]) -> bool:
    try:
        return any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise UserError(f"the layer {pattern!r} is no regular expression ({error})") from None


def find_layer(causal: "PreTrainedModel", pattern: str) -> LayerAddress:
    """Find the one layer that a name means: `layers.7`, `layers.25%`, or a regex of the library's
    own name, such as `model\\.layers\\.7` in Llama and `transformer\\.h\\.7` in GPT-2."""
    matches = _find_layers(causal, pattern)
    if len(matches) != 1:
        raise _build_refusal(causal, pattern, len(matches))
    return matches[0]


def _find_layers(causal: "PreTrainedModel", pattern: str) -> list[LayerAddress]:
    """Find all layers whose name a regex matches."""
    lists = find_layer_lists(causal)
    main_list = find_main_list(lists)
    own_pattern = _replace_percent(causal, pattern)
    matches = []
    for list_path, layers in lists.items():
        owner = causal.get_submodule(list_path.rpartition(".")[0])
        for index in range(len(layers)):
            names = [f"{list_path}.{index}"]
            if list_path == main_list:
                names.append(f"{LAYERS}.{index}")
            if _matches(own_pattern, names):
                matches.append(LayerAddress(owner, list_path, index))
    return matches


def _build_refusal(causal: "PreTrainedModel", pattern: str, num_matches: int) -> UserError:
    lists = find_layer_lists(causal)
    main_list = find_main_list(lists)
    ranges = [f"{name}.0 to {name}.{len(layers) - 1}" for name, layers in lists.items()]
    problem = f"matches {num_matches} layers" if num_matches else "matches no layer"
    short = ""
    if main_list is not None:
        last = len(lists[main_list]) - 1
        short = f" (layers.0 to layers.{last} for short, or by depth, such as layers.25%)"
    return UserError(
        f"the layer {pattern!r} {problem} of this model; it must match one of "
        f"{', '.join(ranges)}{short}"
    )


def find_modules(causal: "PreTrainedModel", pattern: str) -> list[ModuleAddress]:
    """Find the modules of layers that a name or a regex means, in the order of the layers.

    Raises:
        UserError: there is none.
    """
    lists = find_layer_lists(causal)
    main_list = find_main_list(lists)
    if pattern == LAST:
        return [ModuleAddress(LAST, None)]
    if pattern == EMBEDDING:
        if main_list is None:
            raise UserError(
                f"{EMBEDDING!r}: this model has several lists of layers ({', '.join(lists)}), and "
                "which is the first is not known; name layers by regex"
            )
        owner = causal.get_submodule(main_list.rpartition(".")[0])
        return [ModuleAddress(EMBEDDING, LayerAddress(owner, main_list, 0))]
    layers = _find_layers(causal, pattern)
    if layers:
        return [ModuleAddress(_name_layer(layer, main_list), layer) for layer in layers]
    inner = _find_inner_modules(causal, pattern, lists, main_list)
    if inner:
        return inner
    layer_pattern, _, module_name = pattern.rpartition(".")
    for layer in _find_layers(causal, layer_pattern.rstrip("\\")):
        children = [name for name, _ in layer.layers[layer.index].named_children()]
        raise UserError(
            f"{pattern!r}: {layer.name} has no module {module_name!r}; it has {', '.join(children)}"
        )
    raise _build_refusal(causal, pattern, 0)


def list_own_names(causal: "PreTrainedModel", patterns: Iterable[str]) -> list[str]:
    """List what the modules that are meant are called in this model."""
    names: dict[str, None] = {}
    for pattern in patterns:
        for address in find_modules(causal, pattern):
            name = address.name
            if address.layer is not None and name != EMBEDDING:
                name = ".".join(filter(None, [address.layer.name, address.inner]))
            names[name] = None
    return list(names)


def _name_layer(layer: LayerAddress, main_list: str | None) -> str:
    return f"{LAYERS}.{layer.index}" if layer.list_path == main_list else layer.name


def _find_inner_modules(
    causal: "PreTrainedModel",
    pattern: str,
    lists: "dict[str, ModuleList]",
    main_list: str | None,
) -> list[ModuleAddress]:
    """Find the modules inside layers whose name a regex matches."""
    own_pattern = _replace_percent(causal, pattern)
    matches = []
    for list_path, layers in lists.items():
        owner = causal.get_submodule(list_path.rpartition(".")[0])
        for index, layer in enumerate(layers):
            address = LayerAddress(owner, list_path, index)
            layer_name = _name_layer(address, main_list)
            mlp = _find_mlp(layer)
            for inner, _ in layer.named_modules():
                if not inner:
                    continue
                name = f"{layer_name}.{inner}"
                names = [name, f"{address.name}.{inner}"]
                if inner == mlp:
                    name = f"{layer_name}.{MLP}"
                    names.append(name)
                if _matches(own_pattern, names):
                    matches.append(ModuleAddress(name, address, inner))
    return matches


def _find_mlp(layer: "Module") -> str | None:
    """Find what a layer's MLP is called; None where it has none."""
    children = dict(layer.named_children())
    return next((name for name in _MLP_NAMES if name in children), None)


def find_end(causal: "PreTrainedModel", patterns: Iterable[str]) -> LayerAddress | None:
    """Find the highest of the layers that hold these modules; None where `last` is among them.

    Raises:
        UserError: they lie in several lists, of which none is above the other.
    """
    highest: LayerAddress | None = None
    for pattern in patterns:
        for address in find_modules(causal, pattern):
            if address.layer is None:
                return None
            if highest is not None and highest.list_path != address.layer.list_path:
                raise UserError(
                    f"the layers {highest.name} and {address.layer.name} are of different lists; "
                    "a pass ends in one"
                )
            if highest is None or address.layer.index > highest.index:
                highest = address.layer
    return highest
