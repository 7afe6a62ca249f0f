"""Chat templates: one rendering for string contents and for content lists, and the spans of a conversation that are
scored.

Our rows hold plain strings with the literal ``<image>``; language models expect strings, published vision-language
models expect lists of parts.  The spans come from the *prefix property* (the rendered conversation up to a turn, with
the generation prompt, is a prefix of the longer rendering): it needs no cooperation from the template, and a template
that breaks it is refused instead of being scored in the wrong place.  Run: ``python -m pytest
tests/vlm/test_chat.py``.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from textreg.errors import InputError

IMAGE_TOKEN = "<image>"
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
        text = _render(template, [[{"role": "user", "content": content}]], False, {"bos_token": "", "eos_token": ""})[
            0
        ]
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


def render(processor: Any, conversations: Sequence[list[dict[str, str]]], *, generation_prompt: bool) -> list[str]:
    """Render conversations of string contents through the processor's template, each to one string."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = processor.chat_template or tokenizer.chat_template
    if content_style(template) == "list":
        conversations = [
            [{"role": turn["role"], "content": as_parts(turn["content"])} for turn in turns] for turns in conversations
        ]
    return _render(template, conversations, generation_prompt, tokenizer.special_tokens_map)


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
        raise InputError(
            f"the chat template refuses a conversation ({error}): check the roles and their order"
        ) from None


def scored_spans(
    processor: Any, conversations: Sequence[list[dict[str, str]]]
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Rendered text of each conversation and the character spans (start, end) that the assistant wrote.

    A span starts where the generation prompt ends and ends where the rendering up to that turn ends, so it holds the
    end of the turn.

    Raises:
        InputError: the template breaks the prefix property, or a conversation has no assistant turn.
    """
    texts = render(processor, conversations, generation_prompt=False)
    prompts, whole, places = [], [], []
    for number, turns in enumerate(conversations):
        for position, turn in enumerate(turns):
            if turn["role"] == "assistant":
                prompts.append(turns[:position])
                whole.append(turns[: position + 1])
                places.append(number)
    starts = render(processor, prompts, generation_prompt=True)
    last = [len(turns) == len(conversations[number]) for turns, number in zip(whole, places, strict=True)]
    inner = iter(
        render(processor, [turns for turns, end in zip(whole, last, strict=True) if not end], generation_prompt=False)
    )
    ends = [texts[number] if end else next(inner) for number, end in zip(places, last, strict=True)]
    spans: list[list[tuple[int, int]]] = [[] for _ in conversations]
    for number, start, end in zip(places, starts, ends, strict=True):
        if not (end.startswith(start) and texts[number].startswith(end)):
            raise InputError(
                "the chat template rewrites earlier turns when a conversation grows, so the assistant's words cannot "
                "be located: use a template without that, or single-turn rows"
            )
        spans[number].append((len(start), len(end)))
    empty = next((number for number, found in enumerate(spans) if not found), None)
    if empty is not None:
        raise InputError(f"row {empty} has no assistant turn, so there is nothing to learn from it: remove the row")
    return list(zip(texts, spans, strict=True))
