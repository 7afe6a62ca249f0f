"""Chat templates: one rendering for string contents and for content lists, and the spans of a conversation that are
scored.

Our rows hold plain strings with the literal ``<image>``; language models expect strings, published vision-language
models expect lists of parts.  The spans come from the *prefix property* (the rendered conversation up to a turn, with
the generation prompt, is a prefix of the longer rendering): it needs no cooperation from the template.  A turn of
which it does not hold (templates that think rewrite earlier turns) is not learnt, a conversation that the template
refuses has no span.  What a template says of its own accord is settled when it is loaded (:func:`settled`): training,
evaluation and the exported model say the same, on every day.  Run: ``python -m pytest tests/vlm/test_chat.py``.
"""

import json
import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from textreg.errors import InputError

IMAGE_TOKEN = "<image>"  # in our rows; the templates of published models print their own
TODAY = date(2026, 1, 1)  # of templates that tell the date
CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
QUIET = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
MARK = "{#- both content styles -#}"
BOTH_STYLES = (
    MARK
    + """{%- set turns = namespace(all=[]) -%}
{%- for turn in messages -%}
{%- if turn['content'] is string -%}
{%- set turns.all = turns.all + [turn] -%}
{%- else -%}
{%- set words = namespace(all='') -%}
{%- for part in turn['content'] -%}
{%- if part['type'] == 'image' -%}{%- set words.all = words.all + '<image>\\n' -%}
{%- elif part['type'] == 'text' -%}{%- set words.all = words.all + part['text'] -%}{%- endif -%}
{%- endfor -%}
{%- set turns.all = turns.all + [dict(turn, content=words.all)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = turns.all %}"""
)


class Refused(InputError):
    """A conversation that the template refuses, such as one with a system turn where there can be none."""


def settled(template: str) -> str:
    """The template with ``TODAY`` in place of the clock, and without thinking where it can be told not to.

    A prompt that changes at midnight would make a checkpoint stale, and rows without thoughts would teach to think
    nothing.
    """
    template = CLOCK.sub(lambda found: json.dumps(TODAY.strftime(found[2])), template)
    return QUIET + template if "enable_thinking" in template and QUIET not in template else template


def accept_both_styles(template: str) -> str:
    """Extend a language model's template to content lists: an image part becomes ``<image>`` and a line break.

    A template that already takes lists is returned unchanged.
    """
    if MARK in template or content_style(template) == "list":
        return template
    return BOTH_STYLES + template


@lru_cache(maxsize=64)
def content_style(template: str) -> str:
    """``string`` or ``list``: what kind of content the template prints, found out by rendering a probe."""
    for content, style in (("probe", "string"), ([{"type": "text", "text": "probe"}], "list")):
        try:
            turns, tokens = [{"role": "user", "content": content}], {"bos_token": "", "eos_token": ""}
            text = _render(template, [turns], False, tokens)[0]
        except Refused:
            continue
        if "probe" in text and "'type'" not in text:
            return style
    raise InputError("the chat template prints neither string contents nor content lists: it is not a chat template")


def as_parts(content: str) -> list[dict[str, str]]:
    """``"<image>\\nWhat?"`` -> an image part and a text part; the line break belongs to the template then."""
    before, image, after = content.partition(IMAGE_TOKEN)
    parts = [{"type": "text", "text": before}] if before else []
    if image:
        parts.append({"type": "image"})
    after = after.removeprefix("\n") if image else after
    return parts + ([{"type": "text", "text": after}] if after else [])


def render(
    processor: Any,
    conversations: Sequence[list[dict[str, str]]],
    pictures: Sequence[str | None] | None = None,
    *,
    generation_prompt: bool,
) -> list[str]:
    """Render conversations of string contents through the processor's template, each to one string.

    ``pictures``: per conversation the words that its picture takes (:class:`textreg.vlm.features.Features`), which are
    put in the place of the template's placeholder, or None for a text-only one.

    Raises:
        InputError: the template refuses a conversation; it does not show its picture exactly once.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    template = processor.chat_template or tokenizer.chat_template
    if content_style(template) == "list":
        conversations = [
            [{"role": turn["role"], "content": as_parts(turn["content"])} for turn in turns] for turns in conversations
        ]
    texts = _render(template, conversations, generation_prompt, tokenizer.special_tokens_map)
    token = getattr(processor, "image_token", IMAGE_TOKEN)
    for place, words in enumerate(pictures or ()):
        if texts[place].count(token) != (words is not None):
            raise InputError(
                f"{texts[place][:60]!r} holds {texts[place].count(token)} placeholders {token}, with "
                f"{'no' if words is None else 'one'} picture: a row shows its picture once, a text-only row none"
            )
        if words is not None:
            texts[place] = texts[place].replace(token, words)
    return texts


def _render(
    template: str, conversations: Sequence[list[dict[str, Any]]], generation_prompt: bool, tokens: dict[str, Any]
) -> list[str]:

    try:
        return render_jinja_template(
            conversations=list(conversations),
            chat_template=template,
            add_generation_prompt=generation_prompt,
            **tokens,
        )[0]
    except TemplateError as error:
        raise Refused(f"the chat template refuses a conversation ({error}): check the roles and their order") from None


def scored_spans(
    processor: Any, conversations: Sequence[list[dict[str, str]]], pictures: Sequence[str | None]
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Rendered text of each conversation and the character spans (start, end) that the assistant wrote.

    A span starts where the generation prompt ends and ends where the rendering up to that turn ends, so it holds the
    end of the turn.  A conversation of which nothing can be located or rendered has no spans.  ``pictures`` and errors
    as in :func:`render`.
    """
    texts = _rendered(processor, conversations, pictures, generation_prompt=False)
    places = [
        (number, at)
        for number, turns in enumerate(conversations)
        for at, turn in enumerate(turns)
        if turn["role"] == "assistant" and texts[number] is not None
    ]
    inner = [(number, at) for number, at in places if at + 1 < len(conversations[number])]

    def until(wanted: Sequence[tuple[int, int]], generation_prompt: bool) -> list[str | None]:
        cut = [conversations[number][: at + (not generation_prompt)] for number, at in wanted]
        shown = [pictures[number] for number, _ in wanted]
        return _rendered(processor, cut, shown, generation_prompt=generation_prompt)

    ends = dict(zip(inner, until(inner, False), strict=True))
    spans: list[list[tuple[int, int]]] = [[] for _ in conversations]
    for (number, at), start in zip(places, until(places, True), strict=True):
        text = texts[number] or ""
        end = ends.get((number, at), text)
        if start is not None and end is not None and end.startswith(start) and text.startswith(end):
            spans[number].append((len(start), len(end)))
    return [(text or "", found) for text, found in zip(texts, spans, strict=True)]


def _rendered(
    processor: Any,
    conversations: Sequence[list[dict[str, str]]],
    pictures: Sequence[str | None],
    *,
    generation_prompt: bool,
) -> list[str | None]:
    """Like :func:`render`, with None for a conversation that the template refuses."""
    try:
        return list(render(processor, conversations, pictures, generation_prompt=generation_prompt))
    except Refused:
        if len(conversations) == 1:
            return [None]
        each = zip(conversations, pictures, strict=True)
        return [_rendered(processor, [t], [p], generation_prompt=generation_prompt)[0] for t, p in each]
