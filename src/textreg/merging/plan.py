"""What a merge will do to every tensor, decided before a byte is written.

The plan has one step per tensor of the output: *merged* with its counterpart, *resized* (merged as far as the smaller
vocabulary reaches, the rest kept), *kept* (not language, put in by the model, or asked for), or *replaced* (kept, from
the adapter).  Choices: a tensor without a counterpart on either side is an error; a head that one side ties to its
embedding is matched with that embedding, and the plan says so in a note; a tuned model that ties its head can be given
one of its own (``untie``) where the backbone has one; rows of an embedding are merged by number, so two vocabularies
must number their tokens alike; several tuned models give their language part only, everything else is the first's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path

from textreg.errors import InputError, did_you_mean
from textreg.merging.methods import Recipe
from textreg.merging.tensors import FLOATS, Checkpoint, Entry, TextConfig
from textreg.merging.tree import Tree
from textreg.merging.weights import Weights
from textreg.vlm.layouts import EMBEDDING, HEAD, is_buffer, matches

ROWS = {EMBEDDING, HEAD, "lm_head.bias"}  # tensors whose first dimension is the vocabulary
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
MOST_RENAMED = 0.1  # share of rows with another name above which it is another vocabulary


@dataclass(frozen=True)
class Step:
    """One tensor of the output.

    ``key`` is its canonical name; ``target`` has the shape and dtype of the output (those of the first tuned model);
    ``base`` is the counterpart in the backbone, ``tuned`` the stored name in each tuned model; elements from
    ``merged`` on are the first tuned model's.
    """

    name: str
    key: str
    action: str
    target: Entry
    lam: float = 1.0
    base: Entry | None = None
    tuned: tuple[str, ...] = ()
    merged: int = 0


@dataclass(frozen=True)
class MergePlan:
    """The steps in stored order, remarks that belong in the report, and whether the output gets a head of its own."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    untied: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all output tensors."""
        return sum(step.target.nbytes for step in self.steps)


def plan_merge(
    tuned: Sequence[Weights], base: Checkpoint, recipe: Recipe, keep: Sequence[str] = (), untie: bool = False
) -> MergePlan:
    """Matches every tensor; ``keep`` are patterns of tensors whose tuned values stay, whatever the backbone has.

    Raises :class:`InputError` for a tensor without a counterpart, a shape or dtype that cannot be merged, a pattern of
    ``keep`` or of the recipe that matches nothing, models of different architecture, or tokenizers that number the
    merged rows differently.
    """
    recipe.check_models(len(tuned))
    first, notes = tuned[0], recipe.remarks(len(tuned))
    backbone = Tree.of(base)
    trees = [Tree.of(weights.checkpoint, backbone) for weights in tuned]
    if not trees[0].names:
        raise InputError(f"{first.source} holds no language model, only {len(first.checkpoint.tensors)} other tensors")
    for weights, tree in zip(tuned, trees, strict=True):
        refuse_quantised(weights.checkpoint, tree)
    refuse_quantised(base, backbone)
    for weights, tree in zip(tuned, trees, strict=True):
        refuse_other_models(weights, tree, base, backbone)
    indexes, other = [dict(tree.names) for tree in trees], dict(backbone.names)
    notes += tie_heads(indexes, other, tuned, base, keep, untie)
    for weights, tree, index in zip(tuned, trees, indexes, strict=True):
        if tree.inserted:
            notes.append(f"{len(tree.inserted)} tensors in layers that {weights.source} adds to its backbone: kept")
        if weights is not first:
            refuse_differences(indexes[0], index, first.source, weights.source, keep)
    refuse_differences(indexes[0], other, first.source, str(base.folder), keep)
    key_of = {name: key for key, name in indexes[0].items() if name in first.checkpoint.tensors}
    untied = untie and HEAD in indexes[0] and indexes[0][HEAD] == indexes[0][EMBEDDING]
    targets = [(name, key_of.get(name, name), entry) for name, entry in first.checkpoint.tensors.items()]
    if untied:
        embedding = first.checkpoint.tensors[indexes[0][EMBEDDING]]
        outer = trees[0].root.removesuffix("model.") if trees[0].root.endswith(".model.") else ""
        key_of[embedding.name] = EMBEDDING
        targets = [(name, EMBEDDING if name == embedding.name else key, entry) for name, key, entry in targets]
        targets.append((f"{outer}{HEAD}", HEAD, replace(embedding, name=f"{outer}{HEAD}")))
    steps = []
    apart = {*trees[0].outside, *trees[0].inserted}
    for name, key, entry in targets:
        if name in apart or is_buffer(name) or is_kept(name, key, keep):
            steps.append(Step(name, key, "replaced" if name in first.replaced else "kept", entry, tuned=(name,)))
            continue
        names = tuple(index[key] for index in indexes)
        others = [weights.checkpoint.tensors[n] for weights, n in zip(tuned, names, strict=True)]
        counterpart = base.tensors[other[key]]
        merged = shared_elements(key, [entry, *others, counterpart])
        if counterpart.shape != entry.shape:
            rows, wanted = counterpart.shape[0], entry.shape[0]
            more = "fewer" if rows < wanted else "more"
            notes.append(f"{key}: the backbone has {rows} rows, {more} than the {wanted} of the tuned model")
        action = "merged" if merged == entry.count else "resized"
        steps.append(Step(name, key, action, entry, recipe.at(key), counterpart, names, merged))
    refuse_idle_patterns(steps, recipe, keep)
    merged_rows = [step.merged // (step.target.row or 1) for step in steps if step.base and step.key in ROWS]
    for weights in tuned if merged_rows else ():
        notes += compare_vocabularies(weights, base.folder, max(merged_rows))
    return MergePlan(tuple(steps), tuple(notes), untied)


def refuse_other_models(weights: Weights, tree: Tree, base: Checkpoint, backbone: Tree) -> None:
    """Raises :class:`InputError` for arguments in the wrong order and for a backbone of another architecture."""
    if backbone.outside and not tree.outside:
        raise InputError(
            f"{base.folder} sees pictures ({backbone.outside[0]}) and {weights.source} does not: TUNED comes first, "
            "then BASE"
        )
    kinds = []
    for config, own, other in ((weights.checkpoint.config, tree, backbone), (base.config, backbone, tree)):
        alone = not own.outside and own.names.keys() - {HEAD} <= other.names.keys()
        spoken = config.text_config or (config if alone else TextConfig())  # a whole model's own name says less
        kind = spoken.model_type.removesuffix("_model").removesuffix("_text")
        kinds.append(kind.removesuffix("_vl").replace("_", ""))
    if all(kinds) and kinds[0] not in kinds[1] and kinds[1] not in kinds[0]:
        raise InputError(
            f"{weights.source} speaks through a {kinds[0]} and {base.folder} is a {kinds[1]}: not the same "
            "architecture; is it really the backbone of this model?"
        )


def refuse_quantised(checkpoint: Checkpoint, tree: Tree) -> None:
    """Raises :class:`InputError` for a language model whose weights are packed."""
    for entry in map(checkpoint.tensors.__getitem__, tree.names.values()):
        if entry.dtype not in FLOATS and entry.name.endswith(("weight", "weight_packed", "_blocks")):
            raise InputError(f"{entry.file}: {entry.name} is {entry.dtype}; merge the unquantised checkpoint")


def is_kept(name: str, key: str, keep: Sequence[str]) -> bool:
    """Whether a pattern of ``keep`` matches the stored or the canonical name."""
    return any(matches(name, pattern) or matches(key, pattern) for pattern in keep)


def tie_heads(
    indexes: Sequence[dict[str, str]],
    backbone: dict[str, str],
    tuned: Sequence[Weights],
    base: Checkpoint,
    keep: Sequence[str],
    untie: bool,
) -> list[str]:
    """Gives each side the head it lacks, or takes the one nobody uses; returns the notes."""
    notes = []
    for weights, index in zip(tuned, indexes, strict=True):
        embedding = index.get(EMBEDDING, "")
        if HEAD not in index and {embedding} & (set(weights.replaced) | set(weights.changes)):
            raise InputError(
                f"{weights.source} changes an embedding that its base ties to the head; untie the base and save both, "
                "or merge the adapter with peft first"
            )
    sides = [(weights.source, weights.checkpoint, index) for weights, index in zip(tuned, indexes, strict=True)]
    sides.append((str(base.folder), base, backbone))
    if not any(HEAD in index for _, _, index in sides) or is_kept(HEAD, HEAD, keep):
        return notes
    if untie and HEAD not in indexes[0] and EMBEDDING in indexes[0]:
        indexes[0][HEAD] = indexes[0][EMBEDDING]
        notes.append(f"{tuned[0].source} ties head and embedding: the output gets a head of its own")
    wanted = HEAD in indexes[0]
    for source, checkpoint, index in sides:
        if wanted and HEAD not in index and EMBEDDING in index:
            if checkpoint.config.tied is False:
                raise InputError(
                    f"{source} has no {HEAD}, though its config does not tie it; --keep {HEAD} keeps the tuned head"
                )
            index[HEAD] = index[EMBEDDING]
            notes.append(f"{source} ties head and embedding: the head is matched with its embedding")
        elif not wanted and HEAD in index:
            if not checkpoint.config.tied:
                raise InputError(
                    f"{tuned[0].source} ties head and embedding but {source} has a head of its own; --untie gives the "
                    f"merge a head as well, --keep {HEAD} leaves the other head out"
                )
            del index[HEAD]
            notes.append(f"{source} stores a head that its config ties to the embedding: not used")
    return notes


def refuse_differences(
    tuned: dict[str, str], other: dict[str, str], tuned_source: str, other_source: str, keep: Sequence[str]
) -> None:
    """Raises :class:`InputError` when one side has language tensors that the other lacks."""
    lacking = [name for key, name in tuned.items() if key not in other and not is_kept(name, key, keep)]
    if lacking:
        raise InputError(
            f"{len(lacking)} tensor(s) of {tuned_source} match nothing in {other_source}: {shown(lacking)}; "
            f"if they are no part of the language model, keep them with --keep PATTERN"
        )
    extra = [name for key, name in other.items() if key not in tuned and not is_kept(name, key, keep)]
    if extra:
        raise InputError(
            f"{len(extra)} tensor(s) of {other_source} match nothing in {tuned_source}: {shown(extra)}; "
            f"is it really the backbone of this model?"
        )


def shown(words: Sequence[str]) -> str:
    """The first three."""
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def shared_elements(key: str, entries: Sequence[Entry]) -> int:
    """How many leading elements all entries share; raises :class:`InputError` when they cannot be merged."""
    for entry in entries:
        if entry.dtype not in FLOATS:
            raise InputError(f"{entry.file}: {entry.name} is {entry.dtype}; merge the unquantised checkpoint")
    first = entries[0]
    if all(entry.shape == first.shape for entry in entries):
        return first.count
    if key not in ROWS or any(entry.shape[1:] != first.shape[1:] for entry in entries):
        shapes = " and ".join(str(list(entry.shape)) for entry in entries if entry.shape != first.shape)
        raise InputError(
            f"{key} is {list(first.shape)} in the tuned model and {shapes} beside it: not the same architecture"
        )
    return min(entry.shape[0] for entry in entries) * first.row


def refuse_idle_patterns(steps: Sequence[Step], recipe: Recipe, keep: Sequence[str]) -> None:
    """Raises :class:`InputError` for a pattern that matches no tensor: a typing error would pass unseen."""
    for pattern in recipe.patterns:
        if not any(step.base and is_kept(step.name, step.key, [pattern]) for step in steps):
            near = did_you_mean(pattern, [step.key for step in steps if step.base])
            raise InputError(f"pattern {pattern!r} matches no tensor of the language model{near}")
    for pattern in keep:
        if not any(is_kept(step.name, step.key, [pattern]) for step in steps) and not matches(HEAD, pattern):
            raise InputError(f"--keep {pattern!r} matches no tensor{did_you_mean(pattern, [s.name for s in steps])}")


def compare_vocabularies(weights: Weights, base: Path, rows: int) -> list[str]:
    """Notes on the first ``rows`` token numbers of two tokenizers.

    Raises :class:`InputError` when a token has another number in the backbone, when the two have little in common, or
    when one cannot be read.  A row that only changed its name (a spare token that became ``<image>``) is a note.
    """
    places = [[next((f / name for f in at if (f / name).is_file()), None) for name in TOKENIZERS]
              for at in (weights.folders, (base,))]  # fmt: skip
    if any(one and two and cmp(one, two, shallow=False) for one, two in zip(*places, strict=True)):
        return []
    if not (places[0][0] and places[1][0]):
        lacking = weights.source if places[0][0] is None else base
        return [f"vocabularies were not compared: {lacking} has no {TOKENIZERS[0]}"]
    one, other = (_vocabulary(files[0]) for files in places)
    moved = sorted(
        (token for token, row in one.items() if other.get(token, row) != row and min(row, other[token]) < rows),
        key=one.__getitem__,
    )
    names = {row: token for token, row in other.items() if row < rows}
    renamed = [f"{names[row]!r} is now {token!r}" for token, row in one.items() if names.get(row, token) != token]
    if moved or len(renamed) > MOST_RENAMED * rows:
        told = shown([f"{token!r} is {one[token]} and {other[token]}" for token in moved])
        what = f"{len(moved)} token(s) have another number in {base} than in {weights.source} ({told})"
        if not moved:
            what = f"{len(renamed)} of {rows} tokens of {weights.source} are others in {base}"
        raise InputError(
            f"{what}, so rows of unlike tokens would be merged; give the backbone that the model was tuned from, or "
            f"leave the vocabulary as tuned with --keep embed_tokens.weight --keep lm_head.weight"
        )
    if not renamed:
        return []
    return [
        f"{len(renamed)} row(s) of the vocabulary changed their name and are merged all the same: {shown(renamed)}"
    ]


def _vocabulary(file: Path) -> dict[str, int]:
    """Token -> number, added tokens included."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{file} is not a readable tokenizer ({error}); download or save it again") from error
