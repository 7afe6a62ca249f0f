"""What a merge will do to every tensor, decided before a byte is written.

The plan has one step per tensor of the tuned model: *merged* with its counterpart, *resized* (merged as far as the
smaller vocabulary reaches, the rest kept), *kept* (not language, or asked for), or *replaced* (kept, from the
adapter).  Choices: a tensor without a counterpart on either side is an error; a head that one side ties to its
embedding is matched with that embedding, and the plan says so in a note; several tuned models give their language part
only, everything else is the first's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from textreg.errors import InputError, did_you_mean
from textreg.merging.methods import Recipe
from textreg.merging.tensors import FLOATS, Checkpoint, Entry
from textreg.merging.vocabularies import compare_vocabularies
from textreg.merging.weights import Weights
from textreg.vlm.layouts import EMBEDDING, HEAD, by_canonical, canonical, is_buffer, is_language, matches

ROWS = {EMBEDDING, HEAD, "lm_head.bias"}  # tensors whose first dimension is the vocabulary


@dataclass(frozen=True)
class Step:
    """One tensor of the output.

    ``target`` has the shape and dtype of the output (those of the first tuned model); ``base`` is the counterpart in
    the backbone, ``tuned`` the stored name in each tuned model; elements from ``merged`` on are the first tuned
    model's.
    """

    name: str
    action: str
    target: Entry
    lam: float = 1.0
    base: Entry | None = None
    tuned: tuple[str, ...] = ()
    merged: int = 0


@dataclass(frozen=True)
class MergePlan:
    """The steps in stored order, and remarks that belong in the report."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(step.target.nbytes for step in self.steps)


def plan_merge(tuned: Sequence[Weights], base: Checkpoint, recipe: Recipe, keep: Sequence[str] = ()) -> MergePlan:
    """Matches every tensor; ``keep`` are patterns of tensors whose tuned values stay, whatever the backbone has.

    Raises :class:`InputError` for a tensor without a counterpart, a shape or dtype that cannot be merged, a pattern of
    ``keep`` or of the recipe that matches nothing, or tokenizers that number the merged rows differently.
    """
    recipe.check_models(len(tuned))
    first, notes = tuned[0], []
    indexes = [language_index(weights.checkpoint) for weights in tuned]
    backbone = language_index(base)
    if not indexes[0]:
        raise InputError(f"{first.source} holds no language model, only {len(first.checkpoint.tensors)} other tensors")
    notes += tie_heads(indexes, backbone, tuned, base, keep)
    for weights, index in zip(tuned[1:], indexes[1:], strict=True):
        refuse_differences(indexes[0], index, first.source, weights.source, keep)
    refuse_differences(indexes[0], backbone, first.source, str(base.folder), keep)
    steps = []
    for name, entry in first.checkpoint.tensors.items():
        key = canonical(name)
        if not is_language(name) or is_buffer(name) or is_kept(name, keep):
            steps.append(Step(name, "replaced" if name in first.replaced else "kept", entry))
            continue
        names = tuple(index[key] for index in indexes)
        others = [weights.checkpoint.tensors[n] for weights, n in zip(tuned, names, strict=True)]
        counterpart = base.tensors[backbone[key]]
        merged = shared_elements(key, [entry, *others, counterpart], base)
        action = "merged" if merged == entry.count else "resized"
        if counterpart.shape != entry.shape:
            rows, wanted = counterpart.shape[0], entry.shape[0]
            more = "fewer" if rows < wanted else "more"
            notes.append(f"{key}: the backbone has {rows} rows, {more} than the {wanted} of the tuned model")
        steps.append(Step(name, action, entry, recipe.at(name), counterpart, names, merged))
    refuse_idle_patterns(steps, recipe, keep)
    notes += shared_vocabulary(steps, tuned, base)
    return MergePlan(tuple(steps), tuple(notes))


def shared_vocabulary(steps: Sequence[Step], tuned: Sequence[Weights], base: Checkpoint) -> list[str]:
    """Notes on the tokens whose rows are merged; raises :class:`InputError` when they are not the same tokens."""
    merged = [step for step in steps if step.base and canonical(step.name) in ROWS]
    rows = max((step.merged // (step.target.row or 1) for step in merged), default=0)
    notes: list[str] = []
    for weights in tuned if rows else ():
        folders = [folder for folder in (weights.adapter, weights.checkpoint.folder) if folder]
        notes += compare_vocabularies(folders, [base.folder], rows, weights.source, str(base.folder))
    return notes


def is_kept(name: str, keep: Sequence[str]) -> bool:
    """Whether a pattern of ``keep`` matches."""
    return any(matches(name, pattern) for pattern in keep)


def language_index(checkpoint: Checkpoint) -> dict[str, str]:
    """Canonical -> stored name of the language tensors, position buffers left out."""
    names = [name for name in checkpoint.tensors if is_language(name) and not is_buffer(name)]
    return by_canonical(names, str(checkpoint.folder))


def tie_heads(
    indexes: Sequence[dict[str, str]],
    backbone: dict[str, str],
    tuned: Sequence[Weights],
    base: Checkpoint,
    keep: Sequence[str],
) -> list[str]:
    """Gives each side the head it lacks, or takes the one nobody uses; returns the notes."""
    notes = []
    sides = [(weights.source, weights.checkpoint, index) for weights, index in zip(tuned, indexes, strict=True)]
    sides.append((str(base.folder), base, backbone))
    if not any(HEAD in index for _, _, index in sides) or is_kept(HEAD, keep):
        return notes
    wanted = HEAD in indexes[0]
    for source, checkpoint, index in sides:
        if wanted and HEAD not in index and EMBEDDING in index:
            if checkpoint.tied is False:
                raise InputError(
                    f"{source} has no {HEAD}, though its config does not tie it; --keep {HEAD} keeps the tuned head"
                )
            index[HEAD] = index[EMBEDDING]
            notes.append(f"{source} ties head and embedding: the head is matched with its embedding")
        elif not wanted and HEAD in index:
            if not checkpoint.tied:
                raise InputError(
                    f"{tuned[0].source} ties head and embedding but {source} has a head of its own; "
                    f"untie the tuned model, or --keep {HEAD} to leave the other head out"
                )
            del index[HEAD]
            notes.append(f"{source} stores a head that its config ties to the embedding: not used")
    return notes


def refuse_differences(
    tuned: dict[str, str], other: dict[str, str], tuned_source: str, other_source: str, keep: Sequence[str]
) -> None:
    """Raises :class:`InputError` when one side has language tensors that the other lacks."""
    lacking = [name for key, name in tuned.items() if key not in other and not is_kept(name, keep)]
    if lacking:
        raise InputError(
            f"{len(lacking)} tensor(s) of {tuned_source} match nothing in {other_source}: {shown(lacking)}; "
            f"if they are no part of the language model, keep them with --keep PATTERN"
        )
    extra = [name for key, name in other.items() if key not in tuned and not is_kept(name, keep)]
    if extra:
        raise InputError(
            f"{len(extra)} tensor(s) of {other_source} match nothing in {tuned_source}: {shown(extra)}; "
            f"is it really the backbone of this model?"
        )


def shown(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def shared_elements(key: str, entries: Sequence[Entry], base: Checkpoint) -> int:
    """How many leading elements all entries share; raises :class:`InputError` when they cannot be merged."""
    for entry in entries:
        if entry.dtype not in FLOATS:
            raise InputError(f"{entry.file}: {entry.name} is {entry.dtype}; merge the unquantised checkpoint")
    first, rows = entries[0], [entry.shape[:1] for entry in entries]
    if all(entry.shape == first.shape for entry in entries):
        return first.count
    if key not in ROWS or any(entry.shape[1:] != first.shape[1:] for entry in entries):
        shapes = " and ".join(str(list(entry.shape)) for entry in entries if entry.shape != first.shape)
        raise InputError(
            f"{key} is {list(first.shape)} in the tuned model and {shapes} beside it: not the same architecture"
        )
    return min(row[0] for row in rows) * first.row


def refuse_idle_patterns(steps: Sequence[Step], recipe: Recipe, keep: Sequence[str]) -> None:
    """Raises :class:`InputError` for a pattern that matches no tensor: a typing error would pass unseen."""
    for pattern in recipe.patterns:
        if not any(step.base and matches(step.name, pattern) for step in steps):
            names = [canonical(step.name) for step in steps if step.base]
            raise InputError(
                f"pattern {pattern!r} matches no tensor of the language model{did_you_mean(pattern, names)}"
            )
    for pattern in keep:
        if not any(matches(step.name, pattern) for step in steps) and not matches(HEAD, pattern):
            raise InputError(f"--keep {pattern!r} matches no tensor{did_you_mean(pattern, [s.name for s in steps])}")
