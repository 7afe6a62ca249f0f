"""Language files: the words a language needs to caption scenes, one YAML file each, checked on reading.

A file lists every form written out in full, so that a contributor edits plain words and no rules; the engine in
:mod:`textreg.scenes.grammar` knows no language.  ``language_files/en.yaml`` is the one to copy.  Everything is checked
here, once: a missing form, an unknown key or an unknown placeholder is one :class:`~textreg.errors.InputError` that
names the file and the key, never a crash in the middle of a run.

Use: ``load("eu").prompts``; ``load_file("my/cy.yaml")`` for a language outside the package.  A file
``<code>.yaml`` put beside the others is a language of the project from then on.
"""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from textreg.errors import InputError, did_you_mean
from textreg.scenes.scene import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, SIZES

FOLDER = Path(__file__).with_name("language_files")
QUESTIONS = ("colour", "shape", "count", "where", "larger", "exist")
COUNTS = tuple(range(1, MAX_OBJECTS + 1))
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


# A string, or a list of them: paraphrases of a prompt, or accepted answers of which the first is given.
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Identifiers(_Checked):
    """The language's labels in the identification libraries; ``lingua`` is null where it has no model."""

    py3langid: str
    lingua: str | None = None
    glotlid: Strings


class Cell(_Checked):
    """One cell of the noun phrase: a determiner or number, and the forms that follow it."""

    determiner: str = ""
    adjective: str
    last_adjective: str | None = None  # where only the last word of the phrase is inflected
    noun: str


class Conjunction(_Checked):
    """What stands between the groups of a list, and before its last one."""

    between: str
    last: str


class Questions(_Checked):
    """Paraphrases of each question; placeholders ``{definite.x}``, ``{colour.x}``, ``{object.x}``."""

    colour: Strings
    shape: Strings
    count: Strings
    where: Strings
    larger: Strings
    exist: Strings


class Answers(_Checked):
    """Short answers; of a list the first is given, all are accepted."""

    affirmative: Strings
    negative: Strings
    numbers: dict[int, Strings]
    colours: dict[str, Strings]
    shapes: dict[str, Strings]


class Texts(_Checked):
    """Prompts of the text-only tasks; ``{text}`` is a caption, or key words for ``compose``."""

    repeat: Strings
    compose: Strings
    flip: Strings
    translate: Strings
    describe_text: Strings


class Language(_Checked):
    """One language, complete: every form that its templates can ask for exists."""

    code: str
    name: str
    english_name: str
    script: str  # ISO 15924
    identifiers: Identifiers
    order: Annotated[dict[int, str], BeforeValidator(lambda v: dict.fromkeys(COUNTS, v) if isinstance(v, str) else v)]
    nouns: dict[str, dict[str, str]]
    adjectives: dict[str, dict[str, str]]
    phrases: dict[str, dict[str, dict[int, Cell]]]
    relations: dict[str, str]
    conjunction: Conjunction
    agreement: Literal["all", "first"]
    phrase: str
    frames: Annotated[tuple[str, ...], Field(min_length=2)]
    prompts: Annotated[tuple[str, ...], Field(min_length=4)]
    definites: dict[str, dict[str, str]]
    questions: Questions
    answers: Answers
    texts: Texts


@cache
def codes() -> tuple[str, ...]:
    """Codes of the shipped languages: English first, the others in alphabetical order."""
    found = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return tuple(sorted(found, key=lambda code: code != "en"))


@cache
def load(code: str) -> Language:
    """The shipped language of this code; an unknown one is an :class:`InputError` with a suggestion."""
    if code not in codes():
        raise InputError(f"unknown language {code!r}{did_you_mean(code, codes())}")
    return load_file(FOLDER / f"{code}.yaml")


def load_file(path: str | Path) -> Language:
    """Read and check one language file.

    Raises :class:`InputError` naming the file, the key and the cure when the file cannot be read, holds an unknown
    key, lacks a form, or names a form, case or placeholder that does not exist.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 text file ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: a language file is a mapping of keys; copy en.yaml")
    try:
        language = Language.model_validate(_lists_as_tuples(data))
    except ValidationError as error:
        raise InputError(f"{path.name}: {_first_problem(error)}") from None
    problem = next(_problems(language), None)
    if problem:
        raise InputError(f"{path.name}: {problem}")
    if path.stem != language.code:
        raise InputError(f"{path.name}: code: {language.code!r} differs from the file; call it {language.code}.yaml")
    return language


def _lists_as_tuples(data):
    """YAML knows lists only; the models hold tuples so that a loaded language cannot change."""
    if isinstance(data, dict):
        return {key: _lists_as_tuples(value) for key, value in data.items()}
    return tuple(_lists_as_tuples(value) for value in data) if isinstance(data, list) else data


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent = first["loc"][:-1]
        return f"{where}: unknown key{did_you_mean(first['loc'][-1], _fields(parent))}"
    if first["type"] == "missing":
        return f"{where}: missing; en.yaml shows what belongs there"
    hint = "; put the word in quotes" if isinstance(first["input"], (bool, int, float)) else ""
    return f"{where}: {first['msg']}{hint}"


def _fields(parent: tuple) -> tuple[str, ...]:
    models = {"questions": Questions, "answers": Answers, "texts": Texts, "identifiers": Identifiers}
    models |= {"conjunction": Conjunction, "phrases": Cell}
    return tuple((models[parent[0]] if parent else Language).model_fields)  # type: ignore[attr-defined]


def _problems(language: Language):
    """Everything a schema cannot say: complete tables, and templates that ask only for what the tables hold."""
    yield from _keys("nouns", language.nouns, SHAPES)
    yield from _keys("adjectives", language.adjectives, COLOURS + SIZES)
    yield from _keys("relations", language.relations, RELATIONS)
    yield from _keys("order", language.order, COUNTS)
    yield from _keys("answers.numbers", language.answers.numbers, COUNTS)
    yield from _keys("answers.colours", language.answers.colours, COLOURS)
    yield from _keys("answers.shapes", language.answers.shapes, SHAPES)
    for count, order in language.order.items():
        if sorted(order) != sorted("DNCS"):
            yield f"order.{count}: {order!r} must hold each of D, N, C and S once"
    yield from _phrase_problems(language)
    cases = tuple(language.phrases)
    for case, forms in language.definites.items():
        yield from _keys(f"definites.{case}", forms, SHAPES)
    for relation, template in language.relations.items():
        yield from _template(f"relations.{relation}", template, {"first": None, "second": cases})
    for key, template in [("phrase", language.phrase), *((f"frames.{i}", f) for i, f in enumerate(language.frames))]:
        yield from _template(key, template, {"scene": cases})
        if template.count("[") > 1 or template.count("[") != len(re.findall(r"\[[^\[\]|]*\|[^\[\]|]*\]", template)):
            yield f"{key}: at most one pair of brackets, [one|several]; found {template!r}"
    if PLACEHOLDER.sub("", language.phrase):
        yield "phrase: the bare phrase is one placeholder, such as {scene.nom}"
    forms = tuple(language.adjectives["red"])
    holds = {"colour": {"definite": tuple(language.definites)}, "where": {"definite": tuple(language.definites)}}
    holds |= {"shape": {"colour": forms}, "exist": {"object": cases}}
    for kind in QUESTIONS:
        for template in getattr(language.questions, kind):
            yield from _template(f"questions.{kind}", template, holds.get(kind, {}))
    for kind in Texts.model_fields:
        for template in getattr(language.texts, kind):
            yield from _template(f"texts.{kind}", template, {"text": None})
    for template in language.prompts:
        yield from _template("prompts", template, {})


def _keys(where: str, table: dict, wanted: tuple):
    for key in wanted:
        if key not in table:
            yield f"{where}.{key}: missing; needed are {', '.join(map(str, wanted))}"
    for key in table:
        if key not in wanted:
            yield f"{where}.{key}: unknown key{did_you_mean(key, map(str, wanted))}"


def _phrase_problems(language: Language):
    for shape, noun in language.nouns.items():
        if "gender" not in noun:
            yield f"nouns.{shape}.gender: missing; languages without gender write the same word for every noun"
            return
    for case, genders in language.phrases.items():
        for shape, noun in language.nouns.items():
            if noun["gender"] not in genders:
                yield f"phrases.{case}.{noun['gender']}: missing; it is the gender of nouns.{shape}"
                return
        for gender, cells in genders.items():
            yield from _keys(f"phrases.{case}.{gender}", cells, COUNTS)
            for count, cell in cells.items():
                where = f"phrases.{case}.{gender}.{count}"
                for form in {cell.adjective, cell.last_adjective or cell.adjective}:
                    for word, table in language.adjectives.items():
                        if form not in table:
                            yield f"adjectives.{word}.{form}: missing; {where} needs it"
                for shape, noun in language.nouns.items():
                    if noun["gender"] == gender and (cell.noun == "gender" or cell.noun not in noun):
                        yield f"nouns.{shape}.{cell.noun}: missing; {where} needs it"


def _template(where: str, template: str, roles: dict[str, tuple[str, ...] | None]):
    """A template holds each role exactly once, with a form the tables have (None: the role takes no form)."""
    found = []
    for name in PLACEHOLDER.findall(template):
        allowed = [r if forms is None else f"{r}.{f}" for r, forms in roles.items() for f in (forms or ("",))]
        if name not in allowed:
            yield f"{where}: unknown placeholder {{{name}}}{did_you_mean(name, allowed)}"
        found.append(name.partition(".")[0])
    if sorted(found) != sorted(roles):
        wanted = ", ".join("{%s}" % (r if forms is None else f"{r}.CASE") for r, forms in roles.items())
        yield f"{where}: {template!r} must hold {wanted or 'no placeholder'} exactly once"
