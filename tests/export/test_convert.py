"""An adapter is taken out of weights by their names, whichever way those were saved."""

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from unteach.export import convert

PEFT_ARGS = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
IDS = torch.arange(3, 13)[None]


def build_base() -> LlamaForCausalLM:
    """A tiny model whose head is a tensor of its own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("is_own_file", [True, False], ids=["own file", "state dict"])
def test_all_modules_that_were_trained_whole_are_found(is_own_file: bool) -> None:
    """An adapter's own file has them under their names in the base; a whole state dict, under
    PEFT's."""
    trained = peft.get_peft_model(build_base(), peft.LoraConfig(**PEFT_ARGS)).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    weights = peft.get_peft_model_state_dict(trained) if is_own_file else trained.state_dict()

    taken = convert.take_adapter(build_base(), weights, PEFT_ARGS, "the base").eval()
    with torch.no_grad():
        assert torch.equal(taken(IDS).logits, trained(IDS).logits)
        assert not torch.allclose(taken(IDS).logits, build_base()(IDS).logits)
