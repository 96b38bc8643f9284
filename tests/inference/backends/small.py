"""Small models of the tests: random weights, wide enough that no two tokens are as likely as each
other."""

from pathlib import Path
from typing import Any

CHAT = (
    "{% for message in messages %}{{ 'Q: ' if message.role == 'user' else 'A: ' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in "
    "message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}{{ '\\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


def learn() -> Any:
    from unteach.data.synthetic import authors
    from unteach.models.model_handlers import learn_tokenizer

    return learn_tokenizer(
        [f"{row['question']} {row['answer']}" for row in authors.build_rows("full")], 400
    )


def text_config(tokenizer: Any) -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=256,
        initializer_range=0.2,
    )


def language_model(folder: Path, chat: bool = False) -> Path:
    """A Llama whose heads are as wide as vLLM's attention on a CPU needs them."""
    import torch
    import transformers

    tokenizer = learn()
    if chat:
        tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(text_config(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 1.5  # so that some texts end by themselves
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seeing_model(folder: Path) -> Path:
    """A LLaVA of a CLIP tower and a Llama, 2 layers each, with its processor; an image is 4
    tokens."""
    import safetensors.torch
    import torch
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = learn()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    torch.manual_seed(0)
    tower = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=64,
    )
    config = transformers.LlavaConfig(
        text_config=text_config(tokenizer),
        vision_config=tower,
        vision_feature_layer=-1,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    weights = folder / "model.safetensors"
    held = safetensors.torch.load_file(weights)
    published = {
        name.replace("vision_tower.", "vision_tower.vision_model."): held[name] for name in held
    }
    # the names that the hub's models have
    safetensors.torch.save_file(published, weights, metadata={"format": "pt"})
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder
