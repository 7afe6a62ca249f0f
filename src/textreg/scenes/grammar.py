"""The grammar: scenes to captions in any language and back, from the language files alone.

All noun phrases of a language are spelled out once (a few hundred per case) and kept in two tables, so that writing a
caption is two look-ups and parsing is their exact inverse: wrong agreement, a word of another language or anything
left over is simply not in the table.  Three choices are not obvious:

* :func:`parse` forgives letter case, repeated spaces, the typographic apostrophe and a missing final stop, and nothing
  else.  A text longer than any caption is refused before it is looked at, so the cost is bounded.
* Frame 0 is the bare phrase; frames 1 and up are full sentences, the only ones a language identifier can judge.
* Short answers accept every inflected form of a colour, the answer tables and the definite names of a shape.

Use: ``caption(scene, "eu", frame=1)``, ``parse(text, "eu")``; ``Grammar(load_file("cy.yaml"))`` for a language outside
the package.  The grammar and the exclusive share are ours.
"""

import random
import re
import unicodedata
from collections.abc import Iterable
from functools import cache

from textreg.errors import InputError, did_you_mean
from textreg.scenes import languages
from textreg.scenes.languages import COUNTS, Language
from textreg.scenes.scene import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, SIZES, Group, Scene

ANSWER_TASKS = ("colour", "shape", "count", "where", "larger", "exist")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


def _tidy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).replace("’", "'").split())


def _key(text: str) -> str:
    """The form texts are compared in: NFC, lower case, single spaces, no final stop."""
    text = _tidy(text).lower()
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


class Grammar:
    """Captions, place phrases and short answers of one :class:`~textreg.scenes.languages.Language`, and their
    inverses.

    Raises :class:`InputError` if two different groups would be written the same, since no parser could then tell them
    apart.
    """

    def __init__(self, language: Language):
        self.language = language
        self._phrases, self._groups = {}, {}  # case -> group -> text; case -> key -> group
        for case in language.phrases:
            self._spell_out(case)
        self._relations = {r: _relation(t) for r, t in language.relations.items()}
        self._frames = [_frame(t) for t in (language.phrase, *language.frames)]
        self._between, self._last = language.conjunction.between, language.conjunction.last
        self._endings = [  # what parse looks for: case, words before and after, and the number they agree with
            (case, before.lower(), after.rstrip(".").lower(), None if one is several else number == 1)
            for case, (one, several) in self._frames[::-1]  # the bare phrase, which fits any text, comes last
            for number, (before, after) in enumerate((one,) if one is several else (one, several))
        ]
        self._places = {
            _key(self.place(relation, group)): f"{relation}|{_group_meaning(group)}"
            for relation in RELATIONS
            for group in self._phrases[self._relations[relation].case]
        }
        self._answers = {task: self._answer_table(task) for task in ANSWER_TASKS}
        longest = max(len(text) for table in self._phrases.values() for text in table.values())
        around = max(len(t) for t in (*language.relations.values(), self._between, self._last))
        self._limit = 2 * (MAX_OBJECTS * longest + 2 * around + max(map(len, language.frames)))

    def _spell_out(self, case: str) -> None:
        language = self.language
        written, read = {}, {}
        for shape in SHAPES:
            noun = language.nouns[shape]
            for count in COUNTS:
                cell = language.phrases[case][noun["gender"]][count]
                for colour in COLOURS:
                    for size in (None, *SIZES):
                        order = [slot for slot in language.order[count] if slot != "S" or size]
                        last = [slot for slot in order if slot in "SC"][-1]
                        words = {"D": cell.determiner, "N": noun[cell.noun]}
                        for slot, word in (("C", colour), ("S", size)):
                            form = cell.last_adjective if slot == last and cell.last_adjective else cell.adjective
                            words[slot] = language.adjectives[word][form] if word else ""
                        group = Group(colour, shape, size, count)
                        text = " ".join(words[slot] for slot in order if words[slot])
                        written[group] = text
                        if read.setdefault(_key(text), group) != group:
                            raise InputError(f"{language.code}.yaml: {text!r} ({case}) stands for two groups")
        self._phrases[case], self._groups[case] = written, read

    def phrase(self, group: Group, case: str) -> str:
        """The noun phrase of one group in a case of the language file."""
        return self._phrases[case][group]

    @property
    def frame_count(self) -> int:
        """The bare phrase and the sentence frames together."""
        return len(self._frames)

    def caption(self, scene: Scene, frame: int | None = None, rng: random.Random | None = None) -> str:
        """The scene in words. ``frame`` 0 is the bare phrase; None a sentence, drawn by ``rng`` or the first one."""
        if frame is None:
            frame = rng.randrange(1, len(self._frames)) if rng else 1
        case, pieces = self._frames[frame]
        before, after = pieces[self._plural(scene)]
        return before + self._body(scene, case) + after

    def _body(self, scene: Scene, case: str) -> str:
        phrases = self._phrases[case]
        if scene.relation:
            relation = self._relations[scene.relation]
            return relation.join(phrases[scene.groups[0]], self._phrases[relation.case][scene.groups[1]])
        parts = [phrases[group] for group in scene.groups]
        return parts[0] if len(parts) == 1 else self._between.join(parts[:-1]) + self._last + parts[-1]

    def _plural(self, scene: Scene) -> bool:
        if scene.relation or self.language.agreement == "first" or len(scene.groups) == 1:
            return scene.groups[0].count > 1
        return True

    def place(self, relation: str, group: Group) -> str:
        """Where something stands that is in this relation to the group: "above a large blue square"."""
        spec = self._relations[relation]
        return " ".join(spec.join("", self._phrases[spec.case][group]).split())

    def relation_words(self, relation: str) -> str:
        """The words of a relation alone, as key words: "above", "to the left of"."""
        return " ".join(self._relations[relation].join("", "").split())

    def parse(self, text: str) -> Scene | None:
        """The scene whose caption, in any frame, is exactly this text; None for every other string."""
        if len(text) > self._limit:
            text = text.strip()
            if len(text) > self._limit:
                return None
        key = _key(text)
        for case, before, after, plural in self._endings:
            if key.startswith(before) and key.endswith(after) and len(key) > len(before) + len(after):
                scene = self._parse_body(key[len(before) : len(key) - len(after)], case)
                if scene and (plural is None or self._plural(scene) == plural):
                    return scene
        return None

    def _parse_body(self, key: str, case: str) -> Scene | None:
        groups = self._groups[case]
        if key in groups:
            return Scene((groups[key],))
        for name, relation in self._relations.items():
            for first, second in relation.split(key):
                a, b = groups.get(first), self._groups[relation.case].get(second)
                if a and b and a.count + b.count <= MAX_OBJECTS:
                    return Scene((a, b), name)
        head, last, tail = key.rpartition(self._last.lower())
        if not last:
            return None
        found = [groups.get(part) for part in (*head.split(self._between.lower()), tail)]
        if all(found) and sum(group.count for group in found) <= MAX_OBJECTS:
            return Scene(tuple(found))
        return None

    def _answer_table(self, task: str) -> dict[str, str]:
        """Accepted short answer -> canonical meaning."""
        answers, language = self.language.answers, self.language
        if task == "where":
            return self._places
        if task == "exist":
            pairs = [("yes", answers.affirmative), ("no", answers.negative)]
        elif task == "count":
            pairs = [(str(number), words) for number, words in answers.numbers.items()]
        elif task == "shape":
            named = {s: tuple(forms[s] for forms in language.definites.values()) for s in SHAPES}
            pairs = [(s, (*answers.shapes[s], *named[s])) for s in SHAPES]
        else:
            pairs = [(c, (*answers.colours[c], *language.adjectives[c].values())) for c in COLOURS]
        table = {}
        for meaning, words in pairs:
            for word in words:
                if table.setdefault(_key(word), meaning) != meaning:
                    raise InputError(f"{language.code}.yaml: the answer {word!r} ({task}) has two meanings")
        return table

    def answers(self, task: str) -> dict[str, str]:
        """All accepted short answers of a task (lower case, no stop), each with its canonical meaning."""
        if task not in self._answers:
            raise InputError(f"unknown question {task!r}{did_you_mean(task, ANSWER_TASKS)}")
        return self._answers[task]

    def answer_meaning(self, text: str, task: str) -> str | None:
        """ "rojo" -> "red", "dos" -> "2", a place phrase -> "above|large blue square|1"; None for anything else."""
        table = self.answers(task)
        return None if len(text) > self._limit else table.get(_key(text))

    def words(self) -> frozenset[str]:
        """Every word (lower case) that a caption or a short answer of this language can hold."""
        texts = [text for table in self._phrases.values() for text in table.values()]
        texts += [self.relation_words(relation) for relation in RELATIONS]
        texts += [piece for _, pieces in self._frames for pair in pieces for piece in pair]
        texts += [self._between, self._last, *(word for table in self._answers.values() for word in table)]
        return frozenset(word for text in texts for word in split_words(text))


class _Relation:
    """A relation template cut at its two places: literal words around the first and the second noun phrase."""

    def __init__(self, before: str, between: str, after: str, case: str, swapped: bool):
        self.before, self.between, self.after, self.case, self.swapped = before, between, after, case, swapped
        self._lower = (before.lower(), between.lower(), after.lower())

    def join(self, first: str, second: str) -> str:
        a, b = (second, first) if self.swapped else (first, second)
        return self.before + a + self.between + b + self.after

    def split(self, key: str):
        """Every way to read a text as this relation: (first, second)."""
        before, between, after = self._lower
        if not (key.startswith(before) and key.endswith(after)):
            return
        core = key[len(before) : len(key) - len(after)]
        at = core.find(between)
        while at >= 0:
            a, b = core[:at], core[at + len(between) :]
            yield (b, a) if self.swapped else (a, b)
            at = core.find(between, at + 1)


def _relation(template: str) -> _Relation:
    before, one, between, two, after = re.fullmatch(r"(.*?)\{(.*?)\}(.*?)\{(.*?)\}(.*)", template).groups()
    swapped = one.startswith("second")
    return _Relation(before, between, after, (one if swapped else two).partition(".")[2], swapped)


def _frame(template: str) -> tuple[str, tuple[tuple[str, str], tuple[str, str]]]:
    """Case of the scene, and the words before and after it for one object and for several."""
    pieces = []
    for number in (1, 2):
        text = re.sub(r"\[(.*?)\|(.*?)\]", rf"\{number}", template)
        before, case, after = re.fullmatch(r"(.*)\{scene\.(.*)\}(.*)", text).groups()
        pieces.append((before, after))
    one, several = pieces
    return case, (one, one if one == several else several)


def _group_meaning(group: Group) -> str:
    return " ".join(w for w in (group.size, group.colour, group.shape) if w) + f"|{group.count}"


@cache
def grammar(code: str) -> Grammar:
    """The grammar of a shipped language, built once."""
    return Grammar(languages.load(code))


def caption(scene: Scene, code: str, frame: int | None = None, rng: random.Random | None = None) -> str:
    """See :meth:`Grammar.caption`."""
    return grammar(code).caption(scene, frame, rng)


def frame_count(code: str) -> int:
    """Number of frames, the bare phrase (0) included."""
    return grammar(code).frame_count


def parse(text: str, code: str) -> Scene | None:
    """See :meth:`Grammar.parse`; never raises on a string."""
    return grammar(code).parse(text)


def parse_any(text: str, codes: Iterable[str] | None = None) -> dict[str, Scene]:
    """Every language (of ``codes``, by default all) whose grammar accepts the text, with the scene it reads."""
    found = {code: parse(text, code) for code in (languages.codes() if codes is None else codes)}
    return {code: scene for code, scene in found.items() if scene is not None}


def place(relation: str, group: Group, code: str) -> str:
    """See :meth:`Grammar.place`."""
    return grammar(code).place(relation, group)


def short_answers(code: str, task: str) -> frozenset[str]:
    """Accepted short answers to a question kind (lower case, no stop), for scoring by membership."""
    return frozenset(grammar(code).answers(task))


def answer_meaning(text: str, code: str, task: str) -> str | None:
    """See :meth:`Grammar.answer_meaning`."""
    return grammar(code).answer_meaning(text, task)


@cache
def words(code: str) -> frozenset[str]:
    """See :meth:`Grammar.words`."""
    return grammar(code).words()


def split_words(text: str) -> list[str]:
    """Lower-case words: runs of letters, with apostrophes and hyphens inside a word ("d'un", "au-dessus")."""
    return [word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", text).replace("’", "'"))]


def exclusive_share(text: str, code: str, rival: str = "en") -> float | None:
    """Of the words that only one of two languages has, the share the asked one has: 0..1, or None if there is none.

    Words both lists hold ("a", "no") count for neither, so a native caption scores 1 and an English one 0.  None too
    where the language is its own rival.  Ours.
    """
    own, other = words(code), words(rival)
    found = split_words(text)
    mine = sum(word in own and word not in other for word in found)
    theirs = sum(word in other and word not in own for word in found)
    return mine / (mine + theirs) if mine + theirs else None
