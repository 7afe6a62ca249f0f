"""What the frozen tower alone can tell: concepts of the pictures scale in a drawing style that nothing was fitted to.

A drawing of the held-out style is given the name of the nearest mean over the training styles, among all picture
concepts.  No language model takes part, so this bounds from the side of seeing what the gate of book/pictures.md asks.

    python bench/pictures_seeing.py runs/emoji --out results/pictures
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from textreg.fidelity.intervals import share_bounds
from textreg.pictures import folder, gather, splits
from textreg.runs.manifest import processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/pictures"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    concepts = folder.read(asked.root / "pictures")
    roles = splits.roles_of(concepts)
    shown = sorted(each for each, role in roles.items() if role in splits.SHOWN)
    began, seen = time.process_time(), {}
    for style, files in concepts.styles.items():
        found = gather.features(asked.root / "tower", [files[each] for each in shown], 32)
        seen[style] = gather.unit(found - found.mean(0))
        print(style, flush=True)
    held_out = seen.pop(concepts.held_out_style)
    near = held_out @ gather.unit(np.mean(list(seen.values()), axis=0)).T
    rank = (near > near.diagonal()[:, None]).sum(1)
    rows = []
    for name, hits in (("nearest", rank == 0), ("among the nearest five", rank < 5)):
        low, high = share_bounds(hits.sum(), len(hits))
        rows.append((name, len(hits), 1 / len(hits), hits.mean(), float(low), float(high)))
    table = pd.DataFrame(rows, columns=["found", "concepts", "chance", "share", "low", "high"])
    asked.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(asked.out / "seeing.csv", index=False, float_format="%.4f")
    made = {
        "command": "python bench/pictures_seeing.py runs/emoji",
        "hardware": f"{processor()}, one thread",
        "processor seconds": round(time.process_time() - began),
        "training styles": ", ".join(sorted(seen)),
        "held-out style": concepts.held_out_style,
    }
    (asked.out / "seeing.json").write_text(json.dumps(made, indent=1) + "\n", "utf-8")
    print(table.to_string())


if __name__ == "__main__":
    main()
