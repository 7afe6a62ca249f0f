"""Chat rendering and the spans that are learnt, on templates of the shapes found on the hub."""

import pytest
from conftest import CHATML, LISTS, tiny_tokenizer

from textreg.errors import InputError
from textreg.vlm.chat import accept_both_styles, content_style, render, scored_spans

FORGETFUL = (
    "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "<image>\nWhat?"},
    {"role": "assistant", "content": "A star."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Nothing."},
]


class Bare:
    """A processor as far as rendering goes."""

    def __init__(self, template):
        self.tokenizer = tiny_tokenizer(template)
        self.chat_template = template


def test_the_style_of_a_template_is_found_by_rendering_it():
    assert (content_style(CHATML), content_style(LISTS)) == ("string", "list")
    assert content_style(accept_both_styles(CHATML)) == "string"


def test_a_template_that_takes_lists_is_left_alone():
    assert accept_both_styles(LISTS) == LISTS


def test_extending_a_template_twice_changes_nothing():
    once = accept_both_styles(CHATML)
    assert accept_both_styles(once) == once


@pytest.mark.parametrize("template", [CHATML, accept_both_styles(CHATML), LISTS])
def test_the_spans_hold_the_answers_and_nothing_else(template):
    ((text, spans),) = scored_spans(Bare(template), [TURNS])
    assert [text[start:end].strip().removesuffix("<|im_end|>") for start, end in spans] == ["A star.", "Nothing."]


def test_the_line_break_after_the_image_belongs_to_a_list_template():
    (text,) = render(Bare(LISTS), [TURNS[:1]], generation_prompt=True)
    assert text == "USER: <image>\nWhat? ASSISTANT:"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    with pytest.raises(InputError, match="rewrites earlier turns"):
        scored_spans(Bare(FORGETFUL), [TURNS])


def test_a_conversation_without_an_answer_is_refused():
    with pytest.raises(InputError, match="row 1 has no assistant turn"):
        scored_spans(Bare(CHATML), [TURNS[:2], TURNS[:1]])


def test_a_template_that_prints_nothing_is_refused():
    with pytest.raises(InputError, match="not a chat template"):
        content_style("nothing")
