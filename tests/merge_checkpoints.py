"""Tiny random checkpoints of every layout that merging knows, written by transformers itself."""

from pathlib import Path

VOCABULARY, EXTRA = 40, 3  # the VLM has EXTRA more rows than its backbone: an image token and padding


def text_config(tied: bool = False, layers: int = 2, vocabulary: int = VOCABULARY):
    """A two-layer Llama of width 16."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.3, max_position_embeddings=128,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def write_backbone(folder: Path, seed: int = 0, dtype: str = "float32", shard: str = "50GB", **options) -> Path:
    """A random ``LlamaForCausalLM``."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(text_config(**options)).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def build_vlm(kind: str = "Llava", seed: int = 1, dtype: str = "float32", **options):
    """A random LLaVA, LLaVA-NeXT or LLaVA-OneVision over the same Llama, its vocabulary grown by :data:`EXTRA`."""
    import torch
    import transformers

    vision = transformers.SiglipVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        vision_use_head=False,
    )  # fmt: skip
    text = text_config(vocabulary=options.pop("vocabulary", VOCABULARY + EXTRA), **options)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, text_config=text, tie_word_embeddings=text.tie_word_embeddings,
        image_token_index=VOCABULARY, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).to(getattr(torch, dtype)).eval()


def write_vlm(folder: Path, kind: str = "Llava", shard: str = "50GB", **options) -> Path:
    """Saves :func:`build_vlm`."""
    build_vlm(kind, **options).save_pretrained(folder, max_shard_size=shard)
    return folder


def adapted(model, projector: bool = True, targets=None, save: list[str] | None = None, **options):
    """The model with a random LoRA adapter (on its language model, else on ``targets``) and changed whole modules."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets or r".*language_model\.layers\.\d+\.\w+\.\w+_proj",
        modules_to_save=save or (["multi_modal_projector"] if projector else None), **options,
    )  # fmt: skip
    wrapped = get_peft_model(model, config).eval()
    torch.manual_seed(7)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name or ("modules_to_save" in name and parameter.requires_grad):
            parameter.data = torch.randn_like(parameter) * 0.1
    return wrapped


def stored(folder: Path) -> dict:
    """Every tensor of a checkpoint folder, read by the safetensors library."""
    from safetensors.torch import load_file

    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def text_logits(model, seed: int = 3):
    """Logits [1, 9, vocabulary] of a fixed text."""
    import torch

    ids = torch.randint(VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=ids).logits


def image_logits(model):
    """Logits [1, 8, vocabulary] of a fixed picture (4 patches) and text."""
    import torch

    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(VOCABULARY, (1, 8), generator=generator)
    ids[0, 1:5] = VOCABULARY
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=torch.randn(1, 3, 8, 8, generator=generator)).logits
