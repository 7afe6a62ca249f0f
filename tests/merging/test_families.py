"""The language model of every family of published VLMs is found in its tree and merged with a backbone of its class.

The oracle is the model itself: at lambda 0 the merged VLM, asked without a picture, speaks like its backbone.
"""

from pathlib import Path

import pytest
import torch
import transformers
from merge_checkpoints import text_config, text_logits
from vlm_families import EYE, FAMILIES, WORDS

from textreg.merging.merge import merge
from textreg.merging.reload import reload_keys

UNLIKE = ("llava", "qwen3_vl", "gemma3", "smolvlm", "mllama")  # whose trees are least like one another
#: Families whose text model has a name of its own in transformers -> the class of the language model it came from.
BACKBONES = {"qwen2_vl": "Qwen2", "qwen2_5_vl": "Qwen2", "qwen3_vl": "Qwen3"}


def mllama(folder: Path) -> None:
    """Layers of cross-attention between those of its backbone, and more rows."""
    kind = {"model_type": "mllama_text_model", "cross_attention_layers": [1], "bos_token_id": 0, "eos_token_id": 0}
    text = text_config(layers=3).to_dict() | kind
    vision = {**EYE, "num_global_layers": 1, "attention_heads": 2, "image_size": 24, "patch_size": 12,
              "vision_output_dim": 32, "intermediate_layers_indices": [0], "max_num_tiles": 1,
              "supported_aspect_ratios": [[1, 1]]}  # fmt: skip
    config = transformers.MllamaConfig(text_config=text, vision_config=vision, image_token_index=40)
    transformers.MllamaForConditionalGeneration(config).save_pretrained(folder)


def write_language_model(family: str, vlm: Path, folder: Path) -> transformers.PreTrainedModel:
    """A random language model of the family's class, of the widths of ``vlm``."""
    text = transformers.AutoConfig.from_pretrained(vlm).text_config
    torch.manual_seed(11)
    if family == "mllama":
        model = transformers.LlamaForCausalLM(text_config())
    elif family in BACKBONES:
        config = getattr(transformers, f"{BACKBONES[family]}Config")(
            vocab_size=text.vocab_size,
            rms_norm_eps=text.rms_norm_eps,
            tie_word_embeddings=True,
            **WORDS,
            **({"head_dim": 8} if "3" in family else {}),
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
    else:
        tied = bool(transformers.AutoConfig.from_pretrained(vlm).tie_word_embeddings)
        text.tie_word_embeddings = tied
        model = transformers.AutoModelForCausalLM.from_config(text)
    model.float().save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    "family", [*UNLIKE, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in UNLIKE)]
)
def test_at_lambda_zero_a_vlm_of_every_family_speaks_like_its_backbone(tmp_path, family):
    FAMILIES.get(family, mllama)(tmp_path / "vlm")
    backbone = write_language_model(family, tmp_path / "vlm", tmp_path / "base")
    report = merge(tmp_path / "vlm", tmp_path / "base", tmp_path / "out", 0.0, check_reload=False)
    told = reload_keys(tmp_path / "out")
    assert told["missing"] == told["unexpected"] == told["mismatched"] == []
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    expected = text_logits(backbone)
    torch.testing.assert_close(text_logits(loaded)[..., : expected.shape[-1]], expected, rtol=0, atol=1e-4)
    assert report.counts()["kept"] > 0 and report.counts()["merged"] + report.counts()["resized"] >= 18
