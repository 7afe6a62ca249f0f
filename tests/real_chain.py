"""The repository's own notebooks, from scenes to figures, on the shipped model at miniature size."""

from pathlib import Path

import tiny_chain

from textreg.files import HashCache
from textreg.runs import runner

ROOT = Path(__file__).parents[1]
PROFILE = """
name: miniature
scale: scenes
seed: 5
prepare_data:
  languages: [en, es]
  text_languages: [es]
  held_out: []
  align_rows: 8
  visual_rows: 8
  text_rows: 8
  validation_images: 2
  arm_images: 2
  validation_questions: 2
  test_questions: 2
  test_images: 3
align: {steps: 4, batch_size: 4, checkpoint_steps: 2}
tune: {steps: 4, batch_size: 4, log_steps: 1, checkpoint_steps: 2}
merge: {lambdas: [0.5, 1.0], max_new_tokens: 8}
evaluate:
  systems: [BM, TR, TR+M]
  frontier_lambdas: []
  arms: [image, text]
  max_new_tokens: 8
  bootstrap: 20
  workers: 1
mechanism: {arms: [TR], probe_images: 4}
arms:
  - {arm: BM, text: none}
  - {arm: TR, merge: true}
"""


def run(folder: Path, jobs: int = 2) -> Path:
    """Through the runner and papermill, as many units side by side; returns the run folder."""
    (folder / "miniature.yaml").write_text(PROFILE)
    runner.run(folder / "miniature.yaml", folder / "run", root=ROOT, jobs=jobs, report=tiny_chain.quiet())
    return folder / "run"


def run_here(folder: Path, *, only: str = "", without: str = "", **options) -> None:
    """One unit after the other in this process, a fork: of one stage only, or of all but one."""
    stages = ["prepare_data", "align", "tune", "merge", "evaluate", "figures", "mechanism"]
    (folder / "miniature.yaml").write_text(f"{PROFILE}stages: [{', '.join(s for s in stages if s != without)}]\n")
    chosen = [only] if only else []
    tiny_chain.run_here(ROOT, folder / "miniature.yaml", folder / "run", only=chosen, **options)


def results(run: Path) -> dict[str, str]:
    """File -> hash of all that the stages left."""
    other = ("notebooks", "logs", "run.json", "profile.yaml")
    return {path: value for path, value in HashCache().folder(run).items() if path.partition("/")[0] not in other}
