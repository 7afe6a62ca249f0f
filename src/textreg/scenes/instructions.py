"""Instructions about scenes: prompts with their right answers, with a picture or as text alone.

Descriptions and questions need the picture (or its text in place of the picture); text instructions are answerable
from their own words, and are the rows of textual regularization.  Three choices are not obvious:

* Answers that a language identifier will judge are full sentences, never the bare phrase.
* ``meaning`` carries what is right apart from the language: the canonical scene, or a canonical short answer.  A
  right answer is any text whose meaning, read by the grammar of the asked language, is that one.
* No language is ever drawn at random: a ``source`` language is given by the caller, so that a language held out of
  the training text stays out.

Use: ``description(scene, "eu", random.Random(0))``.  The tasks are ours.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from textreg.errors import InputError, did_you_mean
from textreg.scenes import languages
from textreg.scenes.grammar import ANSWER_TASKS, grammar, parse_any
from textreg.scenes.languages import QUESTIONS
from textreg.scenes.scene import COLOURS, SHAPES, SIZES, Group, Scene, canonical, flip, from_json, to_json

CAPTION = "caption"
TEXT_TASKS = ("repeat", "compose", "flip", "read", "translate", "describe_text")
LIST_TASKS = ("repeat_list", "translate_list")  # text of another kind: words without a sentence or a scene
READ = "read_"  # a question about a caption: read_colour, read_count, ...


@dataclass(frozen=True)
class Instruction:
    """A prompt in one language and its right answer.

    ``task`` is ``caption``, a question kind, a text task or ``read_`` and a question kind; ``meaning`` is the JSON of
    the canonical scene for sentences and a canonical short answer otherwise ("red", "2", "yes", "above|blue star|1").
    """

    task: str
    language: str
    prompt: str
    answer: str
    meaning: str


def description(scene: Scene, code: str, rng: random.Random) -> Instruction:
    """One of the language's paraphrases of "Describe the image.", answered in a full sentence."""
    prompt = rng.choice(languages.load(code).prompts)
    return Instruction(CAPTION, code, prompt, grammar(code).caption(scene, rng=rng), _meaning(scene))


def question_kinds(scene: Scene) -> tuple[str, ...]:
    """The question kinds that have exactly one right answer for this scene."""
    kinds = ["count", "exist"]
    if _named_by(scene, "shape"):
        kinds.append("colour")
    if _named_by(scene, "colour"):
        kinds.append("shape")
    if scene.relation and canonical(scene).groups[0] in _named_by(scene, "shape"):
        kinds.append("where")
    if scene.count == 2 and {group.size for group in scene.groups} == set(SIZES):
        kinds.append("larger")
    return tuple(kind for kind in QUESTIONS if kind in kinds)


def _named_by(scene: Scene, attribute: str) -> tuple[Group, ...]:
    """Single objects that their shape (or colour) alone tells apart."""
    values = [getattr(group, attribute) for group in scene.groups]
    return tuple(g for g in scene.groups if g.count == 1 and values.count(getattr(g, attribute)) == 1)


def question(scene: Scene, code: str, rng: random.Random, kind: str | None = None) -> Instruction:
    """A question of this kind (by default any that is unambiguous) with its short answer.

    "where" asks for the first group of the canonical scene, so its answer says above or left.  Raises
    :class:`InputError` for a kind that is unknown or has no single answer for this scene.
    """
    kinds = question_kinds(scene)
    kind = kind or rng.choice(kinds)
    if kind not in kinds:
        raise InputError(f"question {kind!r} has no single answer for this scene{did_you_mean(kind, kinds)}")
    language, spell = languages.load(code), grammar(code)
    template = rng.choice(getattr(language.questions, kind))
    answers = language.answers
    if kind == "count":
        return Instruction(kind, code, template, answers.numbers[scene.count][0], str(scene.count))
    if kind == "larger":
        large = next(group for group in scene.groups if group.size == "large")
        return Instruction(kind, code, template, answers.colours[large.colour][0], large.colour)
    if kind == "exist":
        there = rng.random() < 0.5
        group = rng.choice(scene.groups) if there else _absent(scene, rng)
        asked = Group(group.colour, group.shape)
        prompt = _fill(template, object=lambda case: spell.phrase(asked, case))
        answer, meaning = (answers.affirmative[0], "yes") if there else (answers.negative[0], "no")
        return Instruction(kind, code, prompt, answer, meaning)
    if kind == "shape":
        group = rng.choice(_named_by(scene, "colour"))
        prompt = _fill(template, colour=lambda form: language.adjectives[group.colour][form])
        return Instruction(kind, code, prompt, answers.shapes[group.shape][0], group.shape)
    if kind == "where":
        first, second = canonical(scene).groups
        answer = spell.place(canonical(scene).relation, second)
        prompt = _fill(template, definite=lambda case: language.definites[case][first.shape])
        return Instruction(kind, code, prompt, answer, spell.answer_meaning(answer, "where"))
    group = rng.choice(_named_by(scene, "shape"))
    prompt = _fill(template, definite=lambda case: language.definites[case][group.shape])
    return Instruction(kind, code, prompt, answers.colours[group.colour][0], group.colour)


def _absent(scene: Scene, rng: random.Random) -> Group:
    """A coloured shape the scene does not hold; half the time it shares a colour or a shape with one that it does."""
    present = {(group.colour, group.shape) for group in scene.groups}
    while True:
        near = rng.choice(scene.groups)
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        colour, shape = rng.choice(((colour, shape), (colour, shape), (near.colour, shape), (colour, near.shape)))
        if (colour, shape) not in present:
            return Group(colour, shape)


def _fill(template: str, **roles) -> str:
    """Replace ``{role.form}`` by what the role's function says for that form."""
    return languages.PLACEHOLDER.sub(lambda m: roles[m[1].partition(".")[0]](m[1].partition(".")[2]), template)


def text_kinds(scene: Scene, code: str, source: str | None = None) -> tuple[str, ...]:
    """The text tasks this scene allows: ``flip`` needs a relation, ``translate`` a source in another language."""
    left_out = {"flip"} if scene.relation is None else set()
    if source in (None, code):
        left_out.add("translate")
    return tuple(kind for kind in TEXT_TASKS if kind not in left_out)


def text_instruction(
    scene: Scene, code: str, rng: random.Random, kind: str | None = None, source: str | None = None
) -> Instruction:
    """A text-only pair in language ``code``, answerable without any picture.

    ``repeat`` a caption, ``compose`` one from key words, ``flip`` it ("A above B" to "B below A"), ``read`` it and
    answer a question, ``translate`` it or ``describe_text`` from a caption in language ``source`` (default: ``code``,
    which leaves out ``translate``).  Raises :class:`InputError` for a kind that this scene or source does not allow.
    """
    kinds = text_kinds(scene, code, source)
    kind = kind or rng.choice(kinds)
    if kind not in kinds:
        cure = "; it needs a source in another language" if kind == "translate" else did_you_mean(kind, kinds)
        raise InputError(f"text task {kind!r} is not possible here{cure}")
    spell = grammar(code)
    frame = rng.randrange(1, spell.frame_count)
    answer = spell.caption(scene, frame)
    if kind == "read":
        asked = question(scene, code, rng)
        return Instruction(READ + asked.task, code, with_context(answer, asked), asked.answer, asked.meaning)
    template = rng.choice(getattr(languages.load(code).texts, kind))
    if kind == "compose":
        text = key_words(scene, code)
    elif kind in ("translate", "describe_text"):
        text = grammar(source or code).caption(scene, rng=rng)
    else:
        text = answer
    if kind == "flip":
        answer = spell.caption(flip(scene), frame)
    return Instruction(kind, code, template.replace("{text}", text), answer, _meaning(scene))


def list_instruction(code: str, rng: random.Random, kind: str | None = None, source: str | None = None) -> Instruction:
    """A text-only pair about two to five single words: ``repeat_list`` in language ``code``, or ``translate_list``
    from language ``source``.  ``meaning`` is the words' names joined by bars.
    """
    kind = kind or ("repeat_list" if source in (None, code) else "translate_list")
    if kind not in LIST_TASKS or (kind == "translate_list" and source in (None, code)):
        raise InputError(f"list task {kind!r} is not possible here{did_you_mean(kind, LIST_TASKS)}")
    names = rng.sample([*COLOURS, *SHAPES, *SIZES], rng.randint(2, 5))
    template = rng.choice(getattr(languages.load(code).texts, kind.removesuffix("_list")))
    text, answer = (", ".join(_word(name, each) for name in names) for each in (source or code, code))
    return Instruction(kind, code, template.replace("{text}", text), answer, "|".join(names))


def _word(name: str, code: str) -> str:
    """The citation form of a colour, a size or a shape."""
    language = languages.load(code)
    return _first(language.nouns[name], skip="gender") if name in SHAPES else _first(language.adjectives[name])


def answer_in(instruction: Instruction, code: str, rng: random.Random) -> str:
    """The right answer of a description or a question in another language than its own."""
    kind = _answer_kind(instruction.task)
    spell, answers, meaning = grammar(code), languages.load(code).answers, instruction.meaning
    if kind is None:
        return spell.caption(from_json(meaning), rng=rng)
    if kind == "where":
        relation, words, count = meaning.split("|")
        *size, colour, shape = words.split()
        return spell.place(relation, Group(colour, shape, size[0] if size else None, int(count)))
    if kind == "exist":
        return (answers.affirmative if meaning == "yes" else answers.negative)[0]
    if kind == "count":
        return answers.numbers[int(meaning)][0]
    return (answers.shapes if kind == "shape" else answers.colours)[meaning][0]


def word_list(scene: Scene, pick: Callable[[], str]) -> tuple[str, list[str]]:
    """The scene as single words, each in the language that ``pick`` gives, and these languages.

    Number, shape, size and colour of each group, then the relation: the order in which the tower's tokens stand.
    """
    used, parts = [], []
    for group in scene.groups:
        codes = [pick() for _ in range(4 if group.size else 3)]
        number = languages.load(codes[0]).answers.numbers[group.count][0]
        words = [
            _word(name, code)
            for name, code in zip(
                [name for name in (group.shape, group.size, group.colour) if name], codes[1:], strict=True
            )
        ]
        used += codes
        parts.append(" ".join([number, *words]))
    if scene.relation:
        used.append(pick())
        parts.append(grammar(used[-1]).relation_words(scene.relation))
    return "; ".join(parts), used


def key_words(scene: Scene, code: str) -> str:
    """ "circle, small, red; square, large, blue; above": citation forms, so that agreement has to be supplied."""
    language = languages.load(code)
    parts = []
    for group in scene.groups:
        words = [language.answers.numbers[group.count][0]] if group.count > 1 else []
        words += [_word(name, code) for name in (group.shape, group.size, group.colour) if name]
        parts.append(", ".join(words))
    if scene.relation:
        parts.append(grammar(code).relation_words(scene.relation))
    return "; ".join(parts)


def _first(forms: dict[str, str], skip: str = "") -> str:
    return next(form for name, form in forms.items() if name != skip)


def with_context(context: str, instruction: Instruction) -> str:
    """The prompt of the text arm: a text takes the place of the image in front of the same prompt."""
    return f"{context}\n{instruction.prompt}"


# ---------------------------------------------------------------------------------------------------- meaning


def _meaning(scene: Scene) -> str:
    return to_json(canonical(scene))


def _answer_kind(task: str) -> str | None:
    """The question kind of a task with short answers, None for tasks answered by a sentence."""
    kind = task.removeprefix(READ)
    if kind in ANSWER_TASKS:
        return kind
    if task == CAPTION or task in TEXT_TASKS:
        return None
    raise InputError(f"unknown task {task!r}{did_you_mean(task, (CAPTION, *ANSWER_TASKS, *TEXT_TASKS))}")


def is_sentence_task(task: str) -> bool:
    """Whether answers are full sentences, which a language identifier can judge; the others are short answers."""
    return _answer_kind(task) is None


def meaning_in(answer: str, task: str, code: str) -> str | None:
    """What an answer means, read in this language alone; None where its grammar or its answer list rejects it."""
    if task in LIST_TASKS:
        words = {_word(name, code): name for name in (*COLOURS, *SHAPES, *SIZES)}
        names = [words.get(word) for word in answer.split(", ")]
        return "|".join(names) if all(names) else None
    kind = _answer_kind(task)
    if kind:
        return grammar(code).answer_meaning(answer, kind)
    scene = grammar(code).parse(answer)
    return _meaning(scene) if scene else None


def meaning_in_any_language(answer: str, task: str) -> str | None:
    """What an answer means in whichever shipped language accepts it; None if none does or if they disagree."""
    kind = _answer_kind(task)
    if kind:
        found = {grammar(code).answer_meaning(answer, kind) for code in languages.codes()} - {None}
    else:
        found = {_meaning(scene) for scene in parse_any(answer).values()}
    return found.pop() if len(found) == 1 else None
