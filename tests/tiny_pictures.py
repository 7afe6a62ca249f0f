"""A folder of concepts, and a language model to go with it, small enough to be made in a second."""

import json
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from textreg.pictures.rows import prompts

LANGUAGES = ["en", "de", "ja"]
STYLES = ["flat", "solid", "thin"]
KANA = "アイウエオカキクケコサシスセソタチツテト"


def concepts(count: int = 40) -> list[str]:
    return [f"c{number:02d}" for number in range(count)]


def syllables(number: int, signs: str) -> str:
    """A word for a number, unlike that of any other."""
    return signs[number // 20] + signs[number % 20] + signs[0]


def write_folder(root: Path, count: int = 40, shown: int = 20) -> Path:
    """``count`` concepts in three languages and styles; English and German names of the last one are the same."""
    rows = ["concept,language,name,words"]
    consonants = [f"{sign}{vowel}" for sign in "bdfklmnprs" for vowel in "ai"]
    for number, concept in enumerate(concepts(count)):
        for code, ending, of_words in (("en", "sy", "o"), ("de", "ung", "e"), ("ja", "", "")):
            signs = KANA if code == "ja" else consonants
            told = "taxi" if number == count - 1 and code != "ja" else syllables(number, signs) + ending
            keys = [syllables((number + more) % count, signs) + of_words for more in (1, 2)]
            rows.append(f"{concept},{code},{told},{' | '.join([told, *keys])}")
    root.mkdir(parents=True)
    (root / "names.csv").write_text("\n".join(rows) + "\n", "utf-8")
    for place, style in enumerate(STYLES):
        folder = root / "drawings" / style
        folder.mkdir(parents=True)
        for number, concept in enumerate(concepts(count)):
            Image.new("RGB", (16, 16), (6 * number, 80 * place, 255 - 6 * number)).save(folder / f"{concept}.png")
    (root / "about.json").write_text(json.dumps({"held_out_style": "thin", "picture_concepts": shown}), "utf-8")
    return root


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with bytes to fall back on, as Gemma's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    marks = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def language_model(rows: int) -> Gemma3ForCausalLM:
    """A Gemma 3 of random weights."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=64, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    return Gemma3ForCausalLM(config).eval()


def texts(root: Path) -> list[str]:
    """What the whole vocabulary is made of: more than the folder holds."""
    lines = (root / "names.csv").read_text("utf-8").splitlines()
    return [*lines, *(line.replace(",", " ") for line in lines), *(p for each in prompts().values() for p in each)]


def write_root(root: Path) -> Path:
    """What ``make`` of ``textreg.pictures.backbone`` begins with: the folder, and a base model beside it."""
    write_folder(root / "pictures")
    tokenizer = tokenizer_of(texts(root / "pictures"))
    language_model(len(tokenizer)).save_pretrained(root / "llm")
    tokenizer.save_pretrained(root / "llm")
    return root
