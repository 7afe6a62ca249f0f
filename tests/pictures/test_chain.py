"""The notebooks from rows to figures at pictures scale, with a tower and a language model of random weights."""

import forks
import pandas as pd
import pytest
import real_chain
import tiny_chain
import tiny_pictures
import torch

from textreg.data.rows import read_rows
from textreg.pictures.backbone import Instruct, make
from textreg.pictures.tower import LiteConfig, LiteTower, convert

PROFILE = """
name: miniature
scale: pictures
stages: [prepare_data, align, tune, merge, evaluate, figures]
prepare_data: {{image_folder: {root}/pictures, languages: [en, de, ja], text_languages: [de], held_out: [ja],
  align_rows: 16, visual_rows: 16, text_rows: 8, validation_images: 2, test_images: 2, arm_images: 1,
  validation_questions: 0, test_questions: 1}}
align: {{llm: {root}/backbone, tower: {root}/tower, name_steps: 3, steps: 1, batch_size: 4, log_steps: 1}}
tune: {{steps: 1, batch_size: 4, log_steps: 1, rank: 2}}
merge: {{lambdas: [0.5, 1.0], batch_size: 8, max_new_tokens: 3}}
evaluate: {{systems: [backbone, BM, TR, TR+M], arms: [image, blank, text, text_en], frontier_lambdas: [],
  max_new_tokens: 3, bootstrap: 20, workers: 1}}
arms:
  - {{arm: BM, text: none}}
  - {{arm: TR, merge: true}}
"""


@pytest.mark.slow
def test_the_notebooks_of_every_scale_run_on_concepts(tmp_path):
    root = tiny_pictures.write_root(tmp_path / "emoji")
    make(root, Instruct(languages=tiny_pictures.LANGUAGES, steps=2, batch_size=4))
    torch.save(LiteTower(LiteConfig()).state_dict(), tmp_path / "lite0.pth")
    convert(tmp_path / "lite0.pth", root / "tower")
    (tmp_path / "miniature.yaml").write_text(PROFILE.format(root=root))
    assert forks.ended(tiny_chain.run_here, real_chain.ROOT, tmp_path / "miniature.yaml", tmp_path / "run") == 0
    answers = pd.read_parquet(tmp_path / "run" / "evaluate" / "answers.parquet")
    asked = read_rows(tmp_path / "run" / "prepare_data" / "requests.parquet")
    assert len(answers) == 4 * (asked["split"] == "test").sum()
    assert {"said", "read"} <= set(answers)
    assert set(answers["system"]) == {"backbone", "BM", "TR", "TR+M"}
