"""Chat rendering and the spans that are learnt, on templates of the shapes found on the hub."""

import pytest
from conftest import CHATML, LISTS, tiny_tokenizer

from textreg.errors import InputError
from textreg.vlm.chat import IMAGE_TOKEN, accept_both_styles, content_style, render, scored_spans, settled

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


@pytest.mark.parametrize("template", [LISTS, accept_both_styles(CHATML)])
def test_a_template_that_takes_lists_is_left_alone(template):
    assert accept_both_styles(template) == template


@pytest.mark.parametrize("template", [CHATML, accept_both_styles(CHATML), LISTS])
def test_the_spans_hold_the_answers_and_nothing_else(template):
    ((text, spans),) = scored_spans(Bare(template), [TURNS], [IMAGE_TOKEN])
    assert [text[start:end].strip().removesuffix("<|im_end|>") for start, end in spans] == ["A star.", "Nothing."]


def test_the_line_break_after_the_image_belongs_to_a_list_template():
    (text,) = render(Bare(LISTS), [TURNS[:1]], ["<1><2>"], generation_prompt=True)
    assert text == "USER: <1><2>\nWhat? ASSISTANT:"


THINKS = (  # as Qwen3 does: the last answer has thoughts, those of earlier turns are taken out
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)


@pytest.mark.parametrize("template", [THINKS, FORGETFUL])
def test_of_a_template_that_rewrites_earlier_turns_the_last_answer_alone_is_learnt(template):
    ((text, spans),) = scored_spans(Bare(settled(template)), [TURNS], [IMAGE_TOKEN])
    assert [text[start:end].strip() for start, end in spans] == ["Nothing.<|im_end|>"]


def test_thinking_is_switched_off_in_prompts_and_no_empty_thought_is_learnt():
    bare = Bare(settled(THINKS))
    ((text, spans),) = scored_spans(bare, [TURNS[:2]], [IMAGE_TOKEN])
    assert [text[start:end] for start, end in spans] == ["A star.<|im_end|>\n"]
    (prompt,) = render(bare, [TURNS[:1]], generation_prompt=True)
    assert prompt.endswith("<think>\n\n</think>\n\n") and settled(settled(THINKS)) == settled(THINKS)


def test_a_template_says_the_same_on_every_day():
    clock = "{{ strftime_now('%d %b %Y') }} {% if strftime_now is defined %}{{ strftime_now(\"%Y\") }}{% endif %}"
    (text,) = render(Bare(settled(clock + CHATML)), [TURNS[2:3]], generation_prompt=True)
    assert text.startswith("01 Jan 2026 2026<|im_start|>")


def test_a_conversation_that_cannot_be_learnt_from_has_no_spans_and_disturbs_no_other():
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    conversations = [TURNS[2:], [{"role": "system", "content": "Be brief."}, *TURNS[2:]], TURNS[2:3]]
    found = scored_spans(Bare(picky), conversations, [None] * 3)
    assert [len(spans) for _, spans in found] == [1, 0, 0]


def test_a_template_that_prints_nothing_is_refused():
    with pytest.raises(InputError, match="not a chat template"):
        content_style("nothing")
