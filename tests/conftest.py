"""Shared fixtures: tiny checkpoints with the layouts of the hub, and what is made once for a whole test run."""

import gc
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

# Before PyTorch is loaded: a pool of OpenMP's threads does not outlive a fork, and its first use there waits for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: A template that takes the content of a turn as a list of parts.
LISTS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CORPUS = (
    "Describe the image in one sentence. A small red square above a large blue circle. Describe la imagen. "
    "Un cuadrado rojo pequeño. What colour is the circle? Blue. Ein kleines gelbes Quadrat. Πράσινος κύκλος. "
    "user assistant system Translate into English: yes no left right below star cross triangle"
)


#: Files of minutes, the longest first: a process that began one last would leave the other idle.
LONG = ("test_chain", "test_kills", "test_hub_chain", "test_runner", "test_train")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file stays."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """What collecting imported is never garbage; without this every training would go through it at its end."""
    gc.freeze()


def tiny_tokenizer(template: str | None = CHATML, *, pad: bool = True, image: bool = False, extra=(), named=None):
    """A byte-level BPE tokenizer of a few hundred tokens, with ChatML specials, those of ``extra``, and ``named``
    ones (``image_token`` -> ``<image>``).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"] + (["<image>"] if image else []) + list(extra)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([CORPUS] * 3, trainer)
    options = {"pad_token": "<|pad|>"} if pad else {}
    named = {"image_token": "<image>"} if image else named
    options |= {"extra_special_tokens": named} if named else {}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"], **options
    )
    wrapped.chat_template = template
    return wrapped


def write_llm(
    folder: Path, kind: str = "llama", *, tied: bool = True, spare: int = 0, begin: str = "", **options
) -> Path:
    """A tiny random causal model of one architecture with its tokenizer; ``spare`` unused embedding rows, ``begin``: a
    token that the tokenizer puts in front; ``options`` of the tokenizer, or of the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {key: options.pop(key) for key in ("template", "pad", "image") if key in options}
    tokenizer = tiny_tokenizer(**own, extra=[begin] if begin else [])
    if begin:
        tokenizer.bos_token, tokenizer.add_bos_token = begin, True
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer) + spare,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(shape | options))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tower(
    folder: Path, kind: str = "siglip", *, head: bool = False, side: int = 24, processor_side: int = 0
) -> Path:
    """A tiny random SigLIP or CLIP vision tower with its image processor; 4 patches."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(1)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 12,
    }
    size = processor_side or side
    if kind == "siglip":
        SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=head)).save_pretrained(folder)
        SiglipImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    else:
        CLIPVisionModel(CLIPVisionConfig(**shape)).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
            folder
        )
    return folder


def pixel_inputs(processor, side=24):
    """A red picture and a question about it, as the model takes them."""
    from PIL import Image

    return processor(images=Image.new("RGB", (side, side), "red"), text="<image>\nWhat?", return_tensors="pt")


def disturbed(model):
    """An adapter far from zero."""
    import torch

    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


class Placeholders:
    """Features as far as tokenising goes: a picture takes ``count`` tokens."""

    def __init__(self, count=4):
        self.count = count

    def words(self, image_id):
        return "<image>" * self.count


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)``: the folder that ``make(folder)`` fills, once for all processes of a test run.

    It is shared, so a test that spoils what is in it works on a copy.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name, make) -> Path:
        place = root / f"once-{name}"
        with FileLock(root / f"once-{name}.lock"):
            if not (place / ".whole").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place)
                (place / ".whole").touch()
        return place

    return folder


@pytest.fixture(scope="session")
def chain(made_once) -> Path:
    """A finished run of the repository's own notebooks at miniature size; see ``real_chain.py``."""
    import real_chain

    return made_once("chain", real_chain.run) / "run"


@pytest.fixture(scope="session")
def results(made_once):
    """What figures and the book read of a small run; see ``result_folders.py``."""
    from result_folders import write_run

    from textreg.figures.tables import load_results

    return load_results(made_once("results", write_run))


@pytest.fixture(scope="session")
def tiny_llm(made_once) -> Path:
    """Tied Llama without an image token."""
    return made_once("llama-tied", lambda folder: write_llm(folder / "llm")) / "llm"


@pytest.fixture(scope="session")
def tiny_tower(made_once) -> Path:
    """SigLIP without a pooling head, as the shipped tower."""
    return made_once("siglip", lambda folder: write_tower(folder / "tower")) / "tower"


@pytest.fixture
def tiny_vlm(tiny_llm, tiny_tower):
    """A freshly assembled model and its processor."""
    from textreg.vlm.assembly import assemble

    return assemble(str(tiny_llm), str(tiny_tower), seed=0)


def image_table():
    """Eight pictures of different colours."""
    import io

    from PIL import Image

    from textreg.data.images import ImageTable

    encoded = {}
    for number in range(8):
        buffer = io.BytesIO()
        Image.new("RGB", (24, 24), (30 * number, 255 - 30 * number, 128)).save(buffer, "PNG")
        encoded[f"image-{number}"] = buffer.getvalue()
    return ImageTable(encoded, {}, Path(), blank_side=24)


def row_table():
    """Sixteen rows in several languages, twelve with an image; the text-only ones are long or short."""
    import pandas as pd

    answers = ["A small red square.", "Un cuadrado rojo.", "Blue", "Ein kleines gelbes Quadrat above a large circle."]
    rows = []
    for number in range(16):
        image = f"image-{number % 8}" if number % 4 else None
        prompt = ("<image>\n" if image else "") + ["Describe the image.", "What colour is the circle?"][number % 2]
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answers[number // 4]}]
        rows.append({"row_id": f"row-{number}", "image_id": image, "messages": messages})
    return pd.DataFrame(rows)


@pytest.fixture
def tiny_images():
    """Pictures ``image-0`` to ``image-7``."""
    return image_table()


@pytest.fixture
def tiny_rows():
    """A row file of sixteen rows."""
    return row_table()


def write_prepared(run: Path, **tables) -> None:
    """``prepare_data`` of a run: the rows and pictures above, and ``tables``: a name, then its schema and rows."""
    from textreg.data.rows import IMAGES, ROWS, RowWriter

    rows = [row | {"source": "tiny", "task": "caption", "language": "en"} for row in row_table().to_dict("records")]
    shown = [row for row in rows if isinstance(row["image_id"], str)]
    text = [row | {"image_id": None} for row in rows if row not in shown]
    whole = {"split": "train", "scene": None}
    pictures = [
        {"image_id": name, "image": {"bytes": data, "path": None}, **whole}
        for name, data in image_table().encoded.items()
    ]
    known = {"align": (ROWS, shown), "visual": (ROWS, shown), "text": (ROWS, text), "images": (IMAGES, pictures)}
    for name, (schema, content) in (known | tables).items():
        with RowWriter(run / "prepare_data" / f"{name}.parquet", schema) as writer:
            writer.write_many(content)


def write_tuned(run: Path, llm: Path, tower: Path, arm: str = "TR", *, alpha: int = 4):
    """An untrained aligned model and an adapter of rank 2, far from zero, in a run."""
    from textreg.vlm import adapters, assembly

    base = assembly.Base(str(llm), str(tower))
    model, _ = assembly.load_base(base)
    assembly.save_aligned(model, run / "align", base)
    tuned = disturbed(adapters.attach(model, rank=2, alpha=alpha))
    adapters.save_adapter(tuned, run / "tune" / arm / "adapter")
