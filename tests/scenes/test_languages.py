import copy

import pytest
import yaml

from textreg.errors import InputError
from textreg.scenes import languages
from textreg.scenes.grammar import Grammar
from textreg.scenes.scene import Group, Scene


@pytest.fixture(scope="module")
def english() -> dict:
    return yaml.safe_load((languages.FOLDER / "en.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path, english):
    """Write a changed copy of the English file and give its path: ``written(lambda data: ...)``."""

    def write(change):
        data = copy.deepcopy(english)
        change(data)
        path = tmp_path / f"{data.get('code', 'en')}.yaml"
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        return path

    return write


def test_fifteen_languages_are_shipped_with_english_first():
    assert languages.codes()[0] == "en"
    assert " ".join(languages.codes()) == "en ca de el es eu fr ga gl it lt pl pt sv uk"


@pytest.mark.parametrize("code", languages.codes())
def test_every_shipped_file_is_complete(code):
    language = languages.load(code)
    assert language.code == code
    assert len(set(language.prompts)) >= 4 and len(set(language.frames)) >= 2
    assert all(len(set(getattr(language.questions, kind))) >= 2 for kind in languages.QUESTIONS)


def test_no_two_languages_share_a_prompt():
    prompts = [prompt for code in languages.codes() for prompt in languages.load(code).prompts]
    assert len(prompts) == len(set(prompts))


def test_an_unknown_language_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"unknown language 'spa'.*'es'|known:"):
        languages.load("spa")


def put(value, *path):
    """Puts a value where the keys lead, or takes away what is there for None."""

    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value
        if value is None:
            del data[path[-1]]

    return change


def drop(*path):
    return put(None, *path)


@pytest.mark.parametrize(
    "change, words",
    [
        (drop("nouns", "circle", "pl"), r"nouns\.circle\.pl: missing"),
        (drop("nouns", "star"), r"nouns\.star: missing"),
        (drop("nouns", "star", "gender"), r"nouns\.star\.gender: missing"),
        (drop("adjectives", "red", "base"), r"adjectives\.red\.base: missing"),
        (drop("adjectives", "large"), r"adjectives\.large: missing"),
        (drop("phrases", "nom", "any", 3), r"phrases\.nom\.any\.3: missing"),
        (drop("relations", "left"), r"relations\.left: missing"),
        (drop("answers", "numbers", 2), r"answers\.numbers\.2: missing"),
        (drop("texts", "translate"), r"texts\.translate: missing"),
        (drop("prompts"), r"prompts: missing"),
        (put("x", "qestions"), r"qestions: unknown key.*'questions'"),
        (put("x", "texts", "repaet"), r"texts\.repaet: unknown key.*'repeat'"),
        (put("x", "nouns", "circel"), r"nouns\.circel"),
        (put(True, "answers", "affirmative"), r"answers\.affirmative.*quotes"),
        (put("DNC", "order"), r"order\.1: 'DNC'"),
        (put(["One {scene.nom}."], "frames"), r"frames: .*at least 2"),
        (put(["{scene.nom} a", "{scene.dat} b"], "frames"), r"frames\.1: unknown placeholder.*scene\.nom"),
        (put(["plain", "{scene.nom} b"], "frames"), r"frames\.0: 'plain' must hold"),
        (put("{first} by {first}", "relations", "left"), r"relations\.left: .* must hold"),
        (put("A picture {scene.nom}", "phrase"), r"phrase: "),
        (put(["Repeat!"], "texts", "repeat"), r"texts\.repeat: 'Repeat!' must hold"),
    ],
)
def test_a_faulty_file_is_refused_by_name_and_key(written, change, words):
    with pytest.raises(InputError, match=words) as caught:
        languages.load_file(written(change))
    assert "en.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a:\n\tb: 1", "- a\n", "", "a: !!python/object/apply:os.system ['true']"]
)
def test_a_file_that_is_no_mapping_in_yaml_is_refused_by_name(tmp_path, text):
    (tmp_path / "xx.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"xx\.yaml") as caught:
        languages.load_file(tmp_path / "xx.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        languages.load_file(tmp_path / "yy.yaml")


def test_the_code_must_be_the_name_of_the_file(written):
    path = written(put("cy", "name"))
    with pytest.raises(InputError, match=r"en\.yaml|cy\.yaml"):
        languages.load_file(path.rename(path.with_name("cy.yaml")))


def test_a_new_language_is_only_a_new_file(written):
    def second_object_first(data):
        data["code"] = "xx"
        data["relations"] = {r: f"{{second.nom}} {r} {{first}}" for r in data["relations"]}
        data["order"] = {1: "SCDN", 2: "DSCN", 3: "DSCN"}

    grammar = Grammar(languages.load_file(written(second_object_first)))
    scene = Scene((Group("red", "star", "large"), Group("blue", "cross", None, 2)), "left")
    assert grammar.caption(scene, 0) == "two blue crosses left large red a star"
    assert grammar.parse("two blue crosses left large red a star") == scene
    assert grammar.place("left", scene.groups[1]) == "two blue crosses left"
