"""Small local folders with exactly the files and columns of the hub's data sets, for the tests of the readers."""

import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from textreg.settings import PrepareData

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


def png(shade: int = 90, side: int = 12) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade % 256, 40, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def conversation(number: int, *, image: bool = True) -> list[dict[str, str]]:
    asked = f"Describe picture {number}." + ("\n<image>" if image and number % 2 else "")
    asked = f"<image>\n{asked}" if image and not number % 2 else asked
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": f"a thing number {number}"}]


def pretrain(folder: Path, rows: int = 12, *, archive: bool = False) -> Path:
    """``liuhaotian/LLaVA-Pretrain``: a JSON list, and images in a folder or in ``images.zip``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:05d}/{i:09d}.png" for i in range(rows)]
    records = [{"id": f"{i:09d}", "image": name, "conversations": conversation(i)} for i, name in enumerate(names)]
    (folder / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(records), "utf-8")
    if archive:
        with zipfile.ZipFile(folder / "images.zip", "w") as file:
            for i, name in enumerate(names):
                file.writestr(name, png(i))
    else:
        for i, name in enumerate(names):
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(i))
    return folder


def onevision(folder: Path, rows: int = 10, config: str = "sharegpt4v(coco)") -> Path:
    """``lmms-lab/LLaVA-OneVision-Data``: one folder per config, images inside; every fifth row has none."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    has = [i % 5 != 4 for i in range(rows)]
    pictures = [{"bytes": png(i), "path": None} if shown else None for i, shown in enumerate(has)]
    table = pa.table(
        {
            "id": [str(i) for i in range(rows)],
            "image": pa.array(pictures, IMAGE),
            "conversations": pa.array([conversation(i, image=h) for i, h in enumerate(has)], TURNS),
            "data_source": [config] * rows,
        }
    )
    pq.write_table(table, folder / config / "train-00000-of-00001.parquet", row_group_size=4)
    return folder


AYA = {"English": ("eng", 9), "Spanish": ("spa", 8), "Irish": ("gle", 3), "Standard Arabic": ("arb", 4)}


def aya(folder: Path) -> Path:
    """``CohereLabs/aya_dataset``: train and test Parquet files with its six columns."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = [(name, code, i) for name, (code, count) in AYA.items() for i in range(count)]
    table = pa.table(
        {
            "inputs": [f"question {i} in {code}" for _, code, i in rows],
            "targets": [f"answer {i} in {code}" for _, code, i in rows],
            "language": [name for name, _, _ in rows],
            "language_code": [code for _, code, _ in rows],
            "annotation_type": ["original-annotations"] * len(rows),
            "user_id": ["u"] * len(rows),
        }
    )
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 2), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def crossmodal(folder: Path, languages: tuple[str, ...] = ("en", "de", "quz"), images: int = 8) -> Path:
    """``floschne/xm3600``: one split per language, the same images in each, ``path`` of type null."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.null())])
    strings = pa.list_(pa.string())
    for language in languages:
        captions = [[f"caption {j} of {i} in {language}" for j in range(1 + i % 2)] for i in range(images)]
        table = pa.table(
            {
                "image_id": [f"img{i:02d}" for i in range(images)],
                "image_locale": ["en"] * images,
                "captions": pa.array(captions, strings),
                "captions_tokenized": pa.array(captions, strings),
                "captions_tokenized_lowercase": pa.array(captions, strings),
                "image": pa.array([{"bytes": png(i), "path": None} for i in range(images)], struct),
            }
        )
        pq.write_table(table, folder / "data" / f"{language}-00000-of-00001.parquet")
    return folder


def messages(path: Path, rows: int = 6, language: str | None = None) -> Path:
    """Chat rows as JSONL with a ``messages`` column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"language": language} if language else {}
    lines = [
        {"messages": [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"say {i}"}], **extra}
        for i in range(rows)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    return path


def visual_folder(folder, shades, **extra):
    """A LLaVA-like folder whose pictures 0.png, 1.png, ... have these shades."""
    folder.mkdir(parents=True)
    names, records = [f"{number}.png" for number in range(len(shades))], []
    for number, (name, shade) in enumerate(zip(names, shades, strict=True)):
        (folder / name).write_bytes(png(shade))
        records.append({"id": name, "image": name, "conversations": conversation(number), **extra})
    (folder / "rows.json").write_text(json.dumps(records), "utf-8")
    return str(folder)


def settings(tmp_path: Path, **changes) -> PrepareData:
    """Settings of ``prepare_data`` whose every source is a small folder below ``tmp_path``."""
    values = {
        "scale": "hub", "align_data": str(pretrain(tmp_path / "lcs", archive=True)),
        "visual_data": [str(onevision(tmp_path / "ov"))],
        "text_data": [str(aya(tmp_path / "aya")), str(messages(tmp_path / "more" / "chat.jsonl"))],
        "evaluation_data": str(crossmodal(tmp_path / "xm3600")), "languages": ["en", "de", "quz"],
        "text_languages": ["es", "ga"], "held_out": [], "align_rows": 6, "visual_rows": 5, "text_rows": 8,
        "validation_images": 2, "test_images": 3,
    }  # fmt: skip
    return PrepareData(**(values | changes))
