"""Tiny random checkpoints of the true classes of published vision-language models, as their hub folders are.

``write(family, folder)`` builds one in a second; each has the special tokens, the chat template (shortened) and the
image processor of its family, so that what a picture takes in a prompt has the family's own form.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import tiny_tokenizer
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

WORDS = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.3,
}  # fmt: skip
EYE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {**EYE, "image_size": 24, "patch_size": 12}
CLIP, SIGLIP = ({"model_type": kind, **PATCHES} for kind in ("clip_vision_model", "siglip_vision_model"))
SLIDING = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]
LLAVA = {"patch_size": 12, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def template(begin: str, picture: str, end: str, prompt: str, *, first: str = "") -> str:
    """A chat template of content lists: ``begin`` role, picture and words, ``end``; ``prompt`` asks for an answer."""
    said = f"{{% if c['type'] == 'image' %}}{{{{ '{picture}' }}}}{{% else %}}{{{{ c['text'] }}}}{{% endif %}}"
    return (
        f"{first}{{% for m in messages %}}{{{{ '{begin}'.replace('ROLE', m['role']) }}}}"
        f"{{% for c in m['content'] %}}{said}{{% endfor %}}{{{{ '{end}' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{prompt}' }}}}{{% endif %}}"
    )


CHATML = ("<|im_start|>ROLE\\n", "<|im_end|>\\n", "<|im_start|>assistant\\n")


def chatml(picture: str, **more: str) -> str:
    begin, end, prompt = CHATML
    return template(begin, picture, end, prompt, **more)


def tokenizer(text: str, special: dict[str, str], plain: tuple[str, ...] = (), begin: str = "") -> Any:
    """The tests' tokenizer with a family's named special tokens (``image_token`` -> ``<image>``) and further ones."""
    made = tiny_tokenizer(text, extra=[*special.values(), *plain, *([begin] if begin else [])], named=special)
    if begin:
        made.bos_token = begin
        made.add_bos_token = True
    return made


def llava(folder: Path) -> None:
    words = tokenizer(
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ c['text'] + ' ' }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        {"image_token": "<image>"},
        begin="<s>",
    )
    parts = {"text_config": {"model_type": "llama", **WORDS}, "vision_config": CLIP}
    parts |= {"image_token_index": words.image_token_id}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    save(folder, "Llava", words, parts, LLAVA | {"image_processor": images})


def onevision(folder: Path) -> None:
    words = tokenizer(chatml("<image>"), {"image_token": "<image>", "video_token": "<video>"})
    parts = {"text_config": {"model_type": "qwen2", **WORDS}, "vision_config": SIGLIP, "tie_word_embeddings": True}
    parts |= {"image_token_index": words.image_token_id, "video_token_index": words.video_token_id}
    parts |= {"image_grid_pinpoints": PINPOINTS}
    images = LlavaOnevisionImageProcessorPil(size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS)
    told = {"num_image_tokens": 4, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9"}
    save(folder, "LlavaOnevision", words, parts, images, **told)


def llava_next(folder: Path) -> None:
    words = tokenizer(chatml("<image>\\n"), {"image_token": "<image>"}, begin="<s>")
    parts = {"text_config": {"model_type": "mistral", **WORDS}, "vision_config": CLIP}
    sizes = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    images = LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=PINPOINTS)
    parts |= {"image_token_index": words.image_token_id, "image_grid_pinpoints": PINPOINTS}
    save(folder, "LlavaNext", words, parts, LLAVA | {"image_processor": images})


QWEN = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
TALL = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32}
SEEING = {
    "Qwen2VL": {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2},
    "Qwen2_5_VL": {**TALL, "window_size": 16, "fullatt_block_indexes": [1]},
    "Qwen3VL": {**TALL, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
}


def qwen(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        marks = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
        words = tokenizer(chatml("<|vision_start|><|image_pad|><|vision_end|>"), QWEN, tuple(marks.values()))
        see = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
        heads = {"head_dim": 8} if name == "Qwen3VL" else {}
        text = {"rope_parameters": dict(ROPE), **WORDS, **heads}
        parts = {"text_config": text, "vision_config": see | SEEING[name], "tie_word_embeddings": True}
        parts |= {"image_token_id": words.image_token_id, "video_token_id": words.video_token_id}
        parts |= {key: words.convert_tokens_to_ids(mark) for key, mark in marks.items()}
        sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
        images = Qwen2VLImageProcessorPil(**sizes, size={"shortest_edge": 64, "longest_edge": 4096})
        save(folder, name, words, parts, images)

    return write


def gemma3(folder: Path) -> None:
    special = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    turn, prompt = "<start_of_turn>ROLE\\n", "<start_of_turn>assistant\\n"
    text = template(turn, "<start_of_image>", "<|im_end|>\\n", prompt, first="{{ bos_token }}")
    words = tokenizer(text, special, ("<start_of_turn>",), begin="<bos>")
    parts = {"text_config": {**SLIDING, **WORDS}, "vision_config": PATCHES, "mm_tokens_per_image": 4}
    parts |= {f"{part}_token_index": getattr(words, f"{part}_token_id") for part in ("image", "boi", "eoi")}
    images = Gemma3ImageProcessorPil(size={"height": 24, "width": 24})
    save(folder, "Gemma3", words, parts, {"image_processor": images, "image_seq_length": 4})


def smolvlm(folder: Path) -> None:
    special = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
    text = (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}{% for c in m['content'] %}"
        "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    words = tokenizer(text, special, tiles)
    pad = {"pad_token_id": words.pad_token_id}
    parts = {"text_config": {"model_type": "llama", **pad, **WORDS}, "vision_config": PATCHES, **pad}
    parts |= {"image_token_id": words.image_token_id, "scale_factor": 2, "tie_word_embeddings": True}
    images = SmolVLMImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    save(folder, "SmolVLM", words, parts, images, image_seq_len=1)


def internvl(folder: Path) -> None:
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(chatml("<IMG_CONTEXT>\\n"), special)
    eye = {**EYE, "image_size": [24, 24], "patch_size": [6, 6]}
    parts = {"text_config": {"model_type": "qwen2", **WORDS}, "vision_config": eye}
    parts |= {"downsample_ratio": 0.5, "image_seq_length": 4, "image_token_id": words.context_image_token_id}
    save(folder, "InternVL", words, parts, tiled(), image_seq_length=4)


def aya(folder: Path) -> None:
    tiles = ("TILE_GLOBAL", *(f"TILE_{number}" for number in range(1, 5)), "TILE")
    marks = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", *tiles)
    special = {"image_token": "<image>"}
    words = tokenizer(chatml("<image>", first="{{ bos_token }}"), special, marks, begin="<BOS_TOKEN>")
    text = {"model_type": "cohere2", "logit_scale": 1.0, **SLIDING, **WORDS}
    parts = {"text_config": text, "vision_config": PATCHES | {"patch_size": 6}, "downsample_factor": 2}
    parts |= {"image_token_index": words.convert_tokens_to_ids("<|IMG_PATCH|>")}
    sizes = {"patch_size": 6, "img_size": 24, "downsample_factor": 2}
    save(folder, "AyaVision", words, parts, {"image_processor": tiled(), **sizes})


def mistral3(folder: Path) -> None:
    text = (
        "{{ bos_token }}{% for m in messages %}{{ '[INST]' if m['role'] == 'user' else '' }}"
        "{% for c in m['content'] %}"
        "{{ '[IMG]' if c['type'] == 'image' else c['text'] }}{% endfor %}"
        "{{ '[/INST]' if m['role'] == 'user' else '<|im_end|>' }}{% endfor %}"
    )
    marks = ("[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    words = tokenizer(text, {"image_token": "[IMG]"}, marks, begin="<s>")
    eye = {"model_type": "pixtral", **EYE, "image_size": 48, "patch_size": 4, "head_dim": 8}
    parts = {"text_config": {"model_type": "mistral", "head_dim": 8, **WORDS}, "vision_config": eye}
    parts |= {"image_token_index": words.image_token_id, "spatial_merge_size": 2}
    images = PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size={"height": 4, "width": 4})
    told = {"processor_class": "PixtralProcessor", "patch_size": 4, "spatial_merge_size": 2}
    save(folder, "Mistral3", words, parts, images, **told)


def tiled() -> GotOcr2ImageProcessorPil:
    size = {"height": 24, "width": 24}
    return GotOcr2ImageProcessorPil(size=size, min_patches=1, max_patches=4, crop_to_patches=True)


def save(folder: Path, name: str, words: Any, parts: dict[str, Any], processor: Any, **told: Any) -> None:
    """Weights, tokenizer and processor files of the classes called ``name``.

    ``processor``: what its class is made of, or, where that class cannot be made without torchvision, the image
    processor alone; ``told`` is then what ``processor_config.json`` says.
    """
    parts["text_config"]["vocab_size"] = len(words)
    config = getattr(transformers, f"{name}Config")(**parts)
    config.eos_token_id = words.eos_token_id
    torch.manual_seed(4)
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = words.eos_token_id, words.pad_token_id
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if isinstance(processor, dict):
        whole = {"tokenizer": words, "chat_template": words.chat_template, **processor}
        getattr(transformers, f"{name}Processor")(**whole).save_pretrained(folder)
    else:
        processor.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": f"{name}Processor", **told}))


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava": llava, "qwen2_5_vl": qwen("Qwen2_5_VL"), "gemma3": gemma3, "smolvlm": smolvlm, "internvl": internvl,
    "llava_onevision": onevision, "llava_next": llava_next, "qwen2_vl": qwen("Qwen2VL"), "qwen3_vl": qwen("Qwen3VL"),
    "mistral3": mistral3, "aya_vision": aya,
}  # fmt: skip
