"""Bytes of a hub-scale run beside the GPU: what is downloaded, what lies on disk, what the host's memory must hold.

Counted from shapes (``shapes``), the rows of the profile and the well-known sizes of ``known_sizes.yaml``; a download
of unknown size stands as 0 and is marked.  ``planning`` shows them and ``run_room`` holds them against the free disk.

Try it: ``planned_sizes.facts("floschne/xm3600")["download"]``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from textreg.data import hub
from textreg.runs import shapes
from textreg.runs.shapes import LanguageModel, Tower
from textreg.settings import Align, Evaluate, PrepareData, Training, Tune

PICTURE = 100_000  # bytes of a picture of a data set without known size
UNKNOWN = "size not known here"


@dataclass(frozen=True)
class Size:
    """A download, an output on disk or a need of memory, in bytes (0: not known), with where the number comes from.

    ``stage``: the first stage that needs it.  ``repository``: of a download, as the hub calls it.
    """

    name: str
    size: float
    source: str
    stage: str = ""
    repository: str = ""


def facts(name: str) -> dict[str, Any]:
    """What ``known_sizes.yaml`` says of a data set (or of the configuration that its glob chooses); maybe nothing."""
    parts = hub.parse(name)
    known = hub.known()["datasets"]
    return known.get(f"{parts.base}:{parts.glob}") or known.get(parts.base) or {}


def downloads(align: Align, data: PrepareData, evaluate: Evaluate | None) -> Iterator[Size]:
    """Every hub repository that the profile names, models first.  What is stored already is listed too."""
    for name in sorted({align.vlm} if align.vlm else {align.llm, align.tower}):
        parts = hub.parse(name)
        if not parts.local and name != "shipped":
            yield _download(name, hub.known()["models"].get(parts.base), "align", f"models/{parts.base}")
    for name in dict.fromkeys([data.align_data, *data.visual_data, *data.text_data, data.evaluation_data]):
        parts = hub.parse(name)
        if not parts.local:
            yield _download(name, facts(name), "prepare_data", f"datasets/{parts.base}")
    if evaluate is not None and evaluate.identifier in hub.known()["identifiers"]:
        known = hub.known()["identifiers"][evaluate.identifier]
        model = getattr(evaluate, "identifier_model", "") or known["name"]
        if not model.endswith(".bin") and not hub.parse(model).local:
            yield _download(model, known if model == known["name"] else None, "merge", f"models/{model}")


def _download(name: str, known: dict[str, Any] | None, stage: str, repository: str) -> Size:
    if not known:
        return Size(name, 0, UNKNOWN, stage, repository)
    return Size(name, known["download"], f"{known['mark']}: {known['source']}", stage, repository)


def pictures(data: PrepareData) -> float:
    """Bytes of the pictures in ``images.parquet``; none where they stay in ``image_folder``."""
    asked = (data.validation_images + data.test_images) * facts(data.evaluation_data).get("image_bytes", PICTURE)
    if data.image_folder:
        return asked
    trained = data.align_rows * facts(data.align_data).get("image_bytes", PICTURE)
    trained += data.visual_rows * max(facts(name).get("image_bytes", PICTURE) for name in data.visual_data)
    return trained + asked


def disk(
    data: PrepareData,
    training: Sequence[Training],
    merges: int,
    llm: LanguageModel | Tower | None,
    tower: LanguageModel | Tower | None,
) -> Iterator[Size]:
    """What the run folder will hold; of models of unknown shape only the pictures."""
    yield Size("prepare_data: pictures", pictures(data), "rows times the mean picture", "prepare_data")
    if not isinstance(llm, LanguageModel) or not isinstance(tower, Tower):
        return
    if any(settings.cache_features for settings in training):
        kept = (data.align_rows + data.visual_rows) * tower.feature_bytes
        per_picture = f"{tower.feature_bytes / 1e6:.2f} MB a picture, bf16"
        yield Size("features of the frozen tower", kept, per_picture, "align")
    adapters = sum(4 * llm.adapter(s.rank) for s in training if isinstance(s, Tune))
    adapters += 4 * shapes.projector(tower, llm) * len(training)
    yield Size("adapters and projectors", adapters, "fp32", "tune")
    yield Size(f"{merges} merged checkpoints", merges * checkpoint(llm, tower), "bf16", "merge")
    held = max((12 * llm.adapter(s.rank) for s in training if isinstance(s, Tune)), default=0)
    if any(settings.checkpoint_steps for settings in training):
        how = "adapter and its Adam moments, removed at the end"
        yield Size("checkpoint of the running training", held, how, "tune")


def checkpoint(llm: LanguageModel, tower: Tower, precision: str = "bf16") -> float:
    """Bytes of the whole model; 4-bit weights are exported in bf16."""
    width = 4 if precision == "fp32" else shapes.BF16
    return width * (llm.parameters + tower.parameters + shapes.projector(tower, llm))


def host(
    data: PrepareData,
    training: Sequence[Training],
    merges: int,
    evaluate: Evaluate | None,
    llm: LanguageModel,
    tower: Tower,
) -> Iterator[Size]:
    """Bytes of the host's memory that the largest process needs, and the parts that it is made of."""
    held = pictures(data)
    loaded = max(checkpoint(llm, tower, settings.precision) for settings in training)
    exported = max((checkpoint(llm, tower, s.precision) for s in training if isinstance(s, Tune)), default=0)
    copies = evaluate.workers if evaluate is not None else 1
    needs = [(held + loaded, "loading the model for a training, with the pictures in memory", "align")]
    if merges:
        needs.append((held + exported, "exporting a merge, with the pictures in memory", "merge"))
    if evaluate is not None:
        answering = copies * (held + checkpoint(llm, tower, evaluate.precision))
        workers = f"{copies} worker{'s' if copies > 1 else ''}"
        needs.append((answering, f"loading the model for evaluation in {workers}, with the pictures", "evaluate"))
    size, what, stage = max(needs, key=lambda need: need[0])
    yield Size("largest need", size, what, stage)
    yield Size(
        "of it: the pictures of images.parquet", held, "every stage that reads pictures holds them all", "align"
    )
