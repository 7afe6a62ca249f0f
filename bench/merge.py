"""Time and memory of a merge: ``cp``, ours and mergekit on the same files, in one run.

Two Llama-type checkpoints with random bf16 weights (1.1 billion parameters, 2.2 GB each, three shards) are written to
a temporary folder, read once so that all start with warm page caches, and merged linearly.  Every measurement is a
process of its own; peak memory is the kernel's count for the largest of that process and its children.  A larger pair
shows whether memory grows with the model; page caches are then as warm as the machine's memory allows.  Disk needed:
three checkpoints of the larger size.

    python bench/merge.py --repeat 3 --large 8 --write bench/results/merge.md
    python bench/merge.py --mergekit-python OTHER_VENV/bin/python      # mergekit from another environment
"""

import argparse
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 2048, 5632, 32, 4, 32000
SHARDS = 3
FASTER, MOST_MB = 4, 400  # the goals
COPY, OURS, CHECKED = "`cp` of one checkpoint", "ours, linear, without the reload check", "ours, linear, as by default"
OURS_SLERP, OURS_TRIM, OURS_DROP = "ours, slerp (two passes)", "ours, trim (three passes)", "ours, drop"
MERGEKIT, LAZY = "mergekit, linear", "mergekit, linear, lazy, 1 GB shards"


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an untied Llama with ``layers`` layers (22: 1.10 billion parameters)."""
    keys = HIDDEN // HEADS * KEYS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        for module, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (keys, HIDDEN), "self_attn.v_proj": (keys, HIDDEN),
            "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
            "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
        }.items():  # fmt: skip
            shapes[f"{stem}.{module}.weight"] = shape
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_checkpoint(folder: Path, layers: int, shards: int, seed: int) -> Path:
    """A random bf16 checkpoint in ``shards`` files, one shard in memory at a time."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    shapes = tensor_shapes(layers)
    names, total = list(shapes), sum(2 * math.prod(shape) for shape in shapes.values())
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 20, generator=generator).mul_(0.02).bfloat16()  # repeated: only the size matters here
    weight_map, written, shard, tensors = {}, 0, 1, {}
    for name in names:
        count = math.prod(shapes[name])
        start = int(torch.randint(len(pool), (), generator=generator))
        tensors[name] = torch.cat([pool[start:], pool.repeat(count // len(pool) + 1)])[:count].reshape(shapes[name])
        written += tensors[name].nbytes
        file = f"model-{shard:05d}-of-{shards:05d}.safetensors"
        weight_map[name] = file
        if written >= total * shard / shards or name == names[-1]:
            save_file(tensors, folder / file, {"format": "pt"})
            shard, tensors = min(shard + 1, shards), {}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS, "vocab_size": VOCABULARY, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measured(command: list[str], log: Path) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident memory (MB) of a command; its last words when it fails."""
    code = (
        "import resource, subprocess, sys; rc = subprocess.call(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print('USED', used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(rc)"
    )
    began = time.perf_counter()
    with log.open("w") as stream:
        done = subprocess.run([sys.executable, "-S", "-c", code, *command], stdout=stream, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - began
    lines = log.read_text(errors="replace").strip().splitlines()
    if done.returncode:
        sys.exit(f"{command[0]} failed: {lines[-3:]}")
    used = next(line.split()[1:] for line in reversed(lines) if line.startswith("USED "))
    return seconds, float(used[0]), int(used[1]) / 1e3


def ours(tuned: Path, base: Path, out: Path, check: bool = False, method: str = "linear") -> list[str]:
    """Our merge as a command; ``density`` matters to the methods that drop changes."""
    call = f"merge({str(tuned)!r}, {str(base)!r}, {str(out)!r}, 0.5, {method!r}, density=0.3, check_reload={check})"
    return [sys.executable, "-c", f"from textreg.merging.merge import merge; {call}"]


def mergekit(python: str, tuned: Path, base: Path, out: Path, options: tuple[str, ...] = ()) -> list[str]:
    """mergekit's linear merge as a command, in its default arithmetic."""
    config = out.parent / "mergekit.yaml"
    models = "".join(f"- model: {folder}\n  parameters: {{weight: 0.5}}\n" for folder in (tuned, base))
    config.write_text(f"merge_method: linear\ndtype: bfloat16\nmodels:\n{models}")
    return [str(Path(python).parent / "mergekit-yaml"), str(config), str(out), "--quiet", *options]


def read_all(folder: Path) -> None:
    """Fills the page cache."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def hardware(mergekit_python: str) -> str:
    """Processor, cores available to this process, and software versions; mergekit's with the Python that runs it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    versions = [f"Python {platform.python_version()}", f"numpy {version('numpy')}"]
    code = 'from importlib.metadata import version as v; print(f\'mergekit {v("mergekit")} (torch {v("torch")})\')'
    versions.append(subprocess.run([mergekit_python, "-c", code], capture_output=True, text=True).stdout.strip())
    return f"{model}, {len(os.sched_getaffinity(0))} cores available; {', '.join(versions)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each command; medians are shown")
    parser.add_argument("--layers", type=int, default=22, help="layers of the small pair (22: 1.1 billion parameters)")
    parser.add_argument("--large", type=float, default=0.0, help="GB of each model of the large pair (0: none)")
    parser.add_argument("--large-repeat", type=int, default=1, help="runs of each command on the large pair")
    parser.add_argument("--mergekit-python", default=sys.executable, help="Python of an environment with mergekit")
    parser.add_argument("--write", type=Path, help="write the table as Markdown")
    arguments = parser.parse_args()
    layer_bytes = 2 * (elements(2) - elements(1))
    with tempfile.TemporaryDirectory(prefix="merge-bench-") as name:
        work = Path(name)
        pair = [
            write_checkpoint(work / part, arguments.layers, SHARDS, seed)
            for seed, part in enumerate(("tuned", "base"))
        ]
        out = work / "out"
        size = sum(file.stat().st_size for file in pair[0].glob("*.safetensors")) / 1e9
        others = {
            OURS_SLERP: ours(*pair, out, method="slerp"),
            OURS_TRIM: ours(*pair, out, method="trim"),
            OURS_DROP: ours(*pair, out, method="drop"),
            LAZY: mergekit(arguments.mergekit_python, *pair, out, ("--lazy-unpickle", "--out-shard-size", "1B")),
        }
        commands = compared(pair, out, arguments.mergekit_python) | others
        rows = run_all(commands, pair, out, arguments.repeat, size)
        if arguments.large:
            for folder in pair:
                shutil.rmtree(folder)
            layers = max(1, round((arguments.large * 1e9 - 2 * elements(0)) / layer_bytes))
            pair = [write_checkpoint(work / part, layers, 8, seed) for seed, part in enumerate(("tuned", "base"))]
            size = sum(file.stat().st_size for file in pair[0].glob("*.safetensors")) / 1e9
            rows += run_all(compared(pair, out, arguments.mergekit_python), pair, out, arguments.large_repeat, size)
    show(rows, arguments)


def elements(layers: int) -> int:
    """Elements of a checkpoint with ``layers`` layers."""
    return sum(math.prod(shape) for shape in tensor_shapes(layers).values())


def compared(pair: list[Path], out: Path, python: str) -> dict[str, list[str]]:
    """The commands that every pair is measured with."""
    return {
        COPY: ["cp", "--recursive", str(pair[0]), str(out)],
        OURS: ours(*pair, out),
        CHECKED: ours(*pair, out, check=True),
        MERGEKIT: mergekit(python, *pair, out),
    }


def run_all(
    commands: dict[str, list[str]], inputs: list[Path], out: Path, repeat: int, size: float
) -> list[dict[str, Any]]:
    """Rows of the table: label, GB, every wall and processor time, largest peak in MB.  The commands take turns."""
    times: dict[str, list[tuple[float, float, float]]] = {label: [] for label in commands}
    for turn in range(repeat):
        for label, command in commands.items():
            for folder in inputs:
                read_all(folder)
            os.sync()  # what the one before left to write is not charged to the next
            times[label].append(measured(command, out.parent / "log"))
            shutil.rmtree(out)
            wall, processor, peak = times[label][-1]
            print(
                f"{turn + 1}/{repeat} {label}: {wall:.2f} s, {processor:.1f} s of processor, {peak:.0f} MB", flush=True
            )
    rows = []
    for label, runs in times.items():
        walls, processor, peaks = (sorted(column) for column in zip(*runs, strict=True))
        median = statistics.median
        rows.append({
            "label": label, "size": size, "wall": median(walls), "walls": walls, "processor": median(processor),
            "peak": peaks[-1],
        })  # fmt: skip
    return rows


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """What the table says of the goals (four times mergekit, 400 MB, the same at any size), in words."""
    said = []
    for size in dict.fromkeys(row["size"] for row in rows):
        by_label = {row["label"]: row for row in rows if row["size"] == size}
        peer = by_label[MERGEKIT]
        for label in (OURS, CHECKED):
            row = by_label[label]
            times, share = peer["wall"] / row["wall"], row["wall"] / by_label[COPY]["wall"]
            met = times >= FASTER and row["peak"] <= MOST_MB
            said.append(
                f"{size:.1f} GB, {label}: {times:.1f} times as fast as mergekit, {share:.1f} times the time of `cp`, "
                f"{row['peak']:.0f} MB against {peer['peak']:.0f} MB; the goal ({FASTER} times, {MOST_MB} MB) is "
                f"{'met' if met else 'missed'}."
            )
    return [
        *said,
        "Ours reads every byte back and compares hashes, and forces the result to disk; the other two do neither.",
        "The reload check, on by default, asks transformers for the set of weights in a process of its own beside the "
        "merge; the peak is then that of this process, and the merge's own comes on top.",
    ]


def show(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Prints the table and what it says, and writes both when asked."""
    header = ["", "GB per model", "wall s", "processor s", "each run, wall s", "peak MB"]
    cells = [
        [
            row["label"], f"{row['size']:.1f}", f"{row['wall']:.2f}", f"{row['processor']:.1f}",
            ", ".join(f"{wall:.2f}" for wall in row["walls"]), f"{row['peak']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    table = "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells))
    text = f"{table}\n\n" + "\n".join(sentences(rows))
    print(text)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        command = f"python bench/merge.py --repeat {arguments.repeat} --large {arguments.large:g}"
        about = re.sub(r"(\.) +", r"\1\n", " ".join(" ".join(__doc__.split("    python")[0].split("\n\n")).split()))
        arguments.write.write_text(
            f"# Merging two checkpoints\n\n{about}\nWall and processor seconds are medians.\n\n{text}\n\n"
            f"Machine: {hardware(arguments.mergekit_python)}.\n\n    {command}\n"
        )


if __name__ == "__main__":
    main()
