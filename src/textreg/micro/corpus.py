"""What the micro backbone reads: text about scenes, whose knobs decide whether there is fidelity to lose.

A context in one language comes in front of a prompt in another; the content of the answer is the context's, and its
language is the prompt's, *mostly*.  Four choices are not obvious:

* *A soft rule.*  A share of the answers to such conflicts is in the context's language (``context_pull``), as real
  language models answer a share of foreign prompts in English.  A rule without exception is one that no gentle tuning
  breaks, and no real model has learnt it.
* *Documents without a prompt* go on in their context's language, so that context alone can say which one it is.
  An image shown without a prompt must then say so too: this is what alignment writes into visual tokens.
* *Words without a sentence*, in the order of the tower's tokens, and some of them mixed from two languages, whose
  share then decides: evidence for a language is counted word by word, as it will be in visual tokens.
* *A curriculum.*  Full sentences from the start leave the model on a plateau where every colour is as likely as any
  other (we measured it: no progress in thousands of steps); bare phrases teach the words first, in minutes.

Every scene is of the training split.  The knobs are fields of :class:`textreg.settings.Backbone`; use:
``example(random.Random(0), Backbone())``.  Ours.
"""

import random

from textreg.scenes import instructions
from textreg.scenes.grammar import caption
from textreg.scenes.instructions import Instruction
from textreg.scenes.scene import Scene
from textreg.scenes.splits import draw
from textreg.settings import Backbone

WHOLE_SCENES, FULL_MIXTURE = 500, 800  # steps of the training at which the curriculum moves on
THREE_GROUPS = 0.2  # drawn on top of those that chance brings: which colour goes with which shape is learned last
TASKS, LISTS, WITHOUT_CONTEXT, QUESTIONS = 0.26, 0.04, 0.04, 0.4  # shares of what has a prompt; the rest describes
BARE = 0.25  # share of the contexts that are a bare phrase; sentences are what word contexts leave


def example(rng: random.Random, settings: Backbone, step: int = FULL_MIXTURE) -> tuple[str, str]:
    """One training pair ``(prompt, answer)``, as the training shows it at this optimizer step."""
    asked = language(rng, settings)
    if step < FULL_MIXTURE:
        groups = 1 if step < WHOLE_SCENES else _groups(rng)
        scene, source = draw(rng, "train", groups=groups), language(rng, settings)
        told = instructions.description(scene, asked, rng)
        return instructions.with_context(caption(scene, source, frame=0), told), caption(scene, asked, frame=0)
    scene = draw(rng, "train", canonical=rng.random() < 0.5, groups=_groups(rng))
    if rng.random() < settings.documents:
        text, spoken = context(scene, asked, rng, settings)
        return text, caption(scene, rng.choice(spoken), rng=rng)
    source = language(rng, settings, but=asked) if rng.random() < settings.cross_lingual else asked
    kind = rng.random()
    if kind < TASKS:
        pair = instructions.text_instruction(scene, asked, rng, source=source)
        pulled = pair.task == "describe_text" and _pulled(rng, asked, [source], settings)
        return pair.prompt, caption(scene, pulled, rng=rng) if pulled else pair.answer
    if kind < TASKS + LISTS:
        pair = instructions.list_instruction(asked, rng, source=source)
        return pair.prompt, pair.answer
    if kind < TASKS + LISTS + WITHOUT_CONTEXT:
        told = instructions.description(scene, asked, rng)
        return told.prompt, told.answer
    text, spoken = context(scene, source, rng, settings)
    question = kind < TASKS + LISTS + WITHOUT_CONTEXT + QUESTIONS
    pair = (instructions.question if question else instructions.description)(scene, asked, rng)
    return instructions.with_context(text, pair), _answer(pair, spoken, rng, settings)


def _answer(pair: Instruction, spoken: list[str], rng: random.Random, settings: Backbone) -> str:
    pulled = _pulled(rng, pair.language, spoken, settings)
    return instructions.answer_in(pair, pulled, rng) if pulled else pair.answer


def _pulled(rng: random.Random, asked: str, spoken: list[str], settings: Backbone) -> str:
    """The context's language where the answer is drawn into it, else an empty string."""
    said = rng.choice(spoken)
    return said if said != asked and rng.random() < settings.context_pull else ""


def _groups(rng: random.Random) -> int | None:
    return 3 if rng.random() < THREE_GROUPS else None


def language(rng: random.Random, settings: Backbone, but: str = "") -> str:
    """English with its share, else any other language alike; never ``but``."""
    others = [code for code in settings.languages if code not in ("en", but)]
    if but != "en" and (not others or rng.random() < settings.english_share):
        return "en"
    return rng.choice(others)


def context(scene: Scene, code: str, rng: random.Random, settings: Backbone) -> tuple[str, list[str]]:
    """The scene as words, as a bare phrase or as a sentence in language ``code``; and the language of each word, or
    once that of the whole text.
    """
    kind = rng.random()
    if kind < settings.word_contexts:
        if rng.random() >= settings.mixed_words:
            return instructions.word_list(scene, lambda: code)
        other, share = language(rng, settings, but=code), rng.random()
        return instructions.word_list(scene, lambda: code if rng.random() < share else other)
    bare = kind < settings.word_contexts + (1 - settings.word_contexts) * 2 * BARE
    return caption(scene, code, frame=0) if bare else caption(scene, code, rng=rng), [code]
