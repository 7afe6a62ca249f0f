"""What part of an answer is judged, and what the whole answer then counts as: one table of ordinary inputs each."""
# ruff: noqa: E501

import pandas as pd
import pytest

from textreg.fidelity.annotation import CLASSES, Rules, annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.linewise import LineRules
from textreg.fidelity.parts import judged_part, refusals, without_repetition

DE = "Das Bild zeigt einen Hund, der auf der Straße läuft."
FR, FR2 = "Voici un exemple simple de code pour vous :", "Il affiche un message à l'écran de la machine."
ES = "La imagen muestra un perro marrón que corre por el parque."
EN = "The image shows a brown dog running happily through the park next to a lake."
IT = "L'immagine mostra un cane marrone che corre felice nel parco vicino al lago."
CODE = '```python\n# this is a comment in plain English, quite long\nprint("hello my friend")\n```'

PARTS = {  # an answer -> what is judged of it, and the rules that took something away
    "reasoning": (f"<think>I should answer. It is a dog.</think>\n{DE}", DE, "reasoning"),
    "reasoning of another name": (f"<Thinking>Let me see.\n\n</Thinking>{DE}", DE, "reasoning"),
    "reasoning in brackets": (f"[THINK]Let me see.[/THINK]{DE}", DE, "reasoning"),
    "reasoning opened by the template": (f"Okay, the user asks.\n</think>\n\n{DE}", DE, "reasoning"),
    "reasoning that never ends": ("<think>I should answer in German, so", "", "reasoning"),
    "channels": (f"<|channel|>analysis<|message|>We see.<|end|><|start|>assistant<|channel|>final<|message|>{DE}", DE, "reasoning"),
    "thoughts as tokens": (f"<|begin_of_thought|>We see.<|end_of_thought|>{DE}", DE, "reasoning"),
    "thinking as tokens, opened by the template": (f"We see.<|END_THINKING|><|START_RESPONSE|>{DE}", DE, "reasoning markup"),
    "a channel of thoughts": (f"<|channel>thought\nWe see.<channel|>{DE}", DE, "reasoning"),
    "reasons in square brackets": (f"[Reasoning]We see.[/Reasoning] {DE}", DE, "reasoning"),
    "an answer in a tag of its own": (f"<SUMMARY>We see a dog.</SUMMARY><CONCLUSION>{DE}</CONCLUSION>", DE, "reasoning"),
    "a letter in a tag of its own": (f"{DE} <answer>A</answer>", f"{DE} A", "markup"),
    "a turn made up": (f"{DE}\n\nUser: What else do you see?\nAssistant: A tree.", DE, "turns"),
    "the template's own mark": (f"<|im_start|>assistant\n{DE}<|im_end|>", DE, "turns markup"),
    "code in tags": (f"{FR} <pre>for each one of them</pre> {FR2}", f"{FR} {FR2}", "code"),
    "code": (f"{FR}\n{CODE}\n{FR2}", f"{FR} {FR2}", "code"),
    "code that never ends": (f"{FR}\n```python\nprint('hello world')", FR, "code"),
    "tildes": (f"{FR}\n~~~\nsome words here\n~~~\n{FR2}", f"{FR} {FR2}", "code"),
    "code in a line": ("Usa la función `print_all_the_items` para ver.", "Usa la función para ver.", "code"),
    "nothing but a fence": (f"```\n{ES}\n```", ES, "code"),
    "mathematics": (r"El área es $x^2 + y$ y \(a = b\) en total. $$\frac{a}{b}$$", "El área es y en total.", "mathematics"),
    "money": ("Cuesta $5 y luego $6 más.", "Cuesta $5 y luego $6 más.", ""),
    "addresses": ("Ver https://example.com/this/is/english y www.foo.org hoy.", "Ver y hoy.", "addresses"),
    "keys": ('{"description": "Un perro corre", "list": ["una casa roja"]}', "Un perro corre una casa roja", "keys"),
    "keys in a fence": ('```json\n{"answer": "Un perro corre"}\n```', "Un perro corre", "code keys"),
    "keys of an object cut off": ('{"answer": "Un perro corre por la', '{ "Un perro corre por la', "keys"),
    "markup": ("<b>Un perro</b> corre&nbsp;aquí.<|im_end|>", "Un perro corre aquí.", "markup"),
    "quotations": ('Das Schild sagt "No parking on weekdays" und ist rot.', "Das Schild sagt und ist rot.", "quotations"),
    "a quoted line": (f"> What is in the image?\n{DE}", DE, "quotations"),
    "nothing but a quotation": (f'"{ES}"', f'"{ES}"', ""),
    "asides": ("Un perro (a dog) corre por la calle (the street).", "Un perro corre por la calle .", "asides"),
    "comparisons": ("120 < 130 y 5 > 3 es cierto", "120 < 130 y 5 > 3 es cierto", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_what_is_judged_of_an_answer(case):
    answer, judged, rules = PARTS[case]
    text, applied = judged_part(answer)
    assert (" ".join(text.split()), " ".join(applied)) == (judged, rules)
    assert judged_part(answer, rules=()) == (answer, ())


@pytest.mark.parametrize(
    "before",
    [
        "ER:  \nYou are a helpful visual-language assistant.\n\n¿Qué hay en la imagen?  ASSISTANT: ",
        "USER: What is in the picture? ASSISTANT:",
        "system\nYou are a helpful assistant.\nuser\nWhat is in the picture?\nassistant\n",
        "user\n\n\nWhat is in the picture?\nmodel\n",
        "A chat between a curious human and an assistant. USER: What is this? ASSISTANT: ",
        "Question: What is in the picture?\nAnswer: ",
    ],
)
def test_a_conversation_that_was_decoded_whole_is_judged_from_the_answer_on(before):
    text, names = judged_part(before + DE)
    assert text.strip() == DE and names[0] == "turns"


def test_a_repeated_prompt_is_a_quotation():
    prompt = "Describe the image in one sentence, please."
    assert judged_part(f"{prompt}\n{DE}", prompt) == (f" \n{DE}", ("quotations",))
    assert judged_part(prompt, prompt) == (prompt, ())


@pytest.mark.parametrize("text", ["un perro " * 30, "狗在跑" * 40, "no " * 500, f"{ES} " * 12, "ha" * 300])
def test_degenerate_text_is_judged_by_one_round(text):
    once, repeated = without_repetition(text)
    assert repeated and len(once) < len(text) / 3


@pytest.mark.parametrize(
    "text", [ES, "1, 2, 3, 4, 5, 6, 7, 8, 9", "", "el perro y el gato y el pez y el ave y el sol de la mar"]
)
def test_ordinary_text_is_no_repetition(text):
    assert without_repetition(text) == (text, False)


def test_refusals_are_seen_in_several_languages_and_descriptions_are_none():
    said = [
        "I’m sorry, but I can't assist with that.",
        "Lo siento, pero no puedo ayudar.",
        "申し訳ありませんが、できません。",
    ]
    assert refusals([*said, ES, EN, ""]).tolist() == [True] * 3 + [False] * 3


COUNTED = {  # asked language and answer -> class (None: undecided or cannot be told), LF, LPR
    "reasoning": ("de", f"<think>The user asks for a description. I answer.</think>\n{DE}", "asked", True, True),
    "code": ("fr", f"{FR}\n{CODE}\n{FR2}", "asked", True, True),
    "full-width letters": ("es", "Ｌａ ｉｍａｇｅｎ ｍｕｅｓｔｒａ ｕｎ ｐｅｒｒｏ ｅｎ ｌａ ｃａｌｌｅ．", "asked", True, True),
    "half-width kana": ("ja", "ｺﾉ ｶﾞｿﾞｳﾆﾊ ｲﾇｶﾞ ｳﾂｯﾃ ｲﾏｽ", "asked", True, True),
    "Arabic presentation forms": ("ar", "ﺗﻈﻬﺮ ﺍﻟﺼﻮﺭﺓ ﻛﻠﺒﺎ ﻳﺮﻛﺾ ﻓﻲ ﺍﻟﺤﺪﻳﻘﺔ", "asked", True, True),
    "capitals but for one word": ("fr", "LE PANNEAU INDIQUE QUE LE STATIONNEMENT EST INTERDIT iPhone.", "asked", True, True),
    "capitals": ("de", DE.upper(), "asked", True, True),
    "bullets": ("es", "- Perro\n- Gato", "short", None, None),
    "digits": ("es", "[120, 45, 310, 220]", "short", None, None),
    "an emoji": ("es", "🙂", "short", None, None),
    "an address": ("es", "Calle Mayor 12, 28013 Madrid", "short", None, None),
    "Han alone for Japanese": ("ja", "東京都渋谷区", None, None, None),
    "Chinese for Japanese": ("ja", "这张图片显示一只狗在街道上奔跑", "other", False, False),
    "drift within a line": ("it", f"{IT} " * 28 + f"{EN} " * 560, "english", False, False),
    "drift after a line": ("it", "\n".join([IT] * 2 + [f"{EN} The sky is blue, and trees are green."] * 2), "mixed", False, False),
    "one English line of two": ("es", f"{ES} Al fondo se ve una casa roja con jardín.\n{EN}", "mixed", True, False),
    "empty": ("es", " \n", "empty", False, None),
    "absent": ("es", None, "empty", False, None),
    "nothing but reasoning": ("es", "<think>It is a dog", "empty", False, None),
    "repetition": ("es", "un perro " * 30, "short", None, None),
    "Maori": ("mi", "He porohita whero iti i runga ake i te tapawha rite nui", "asked", True, True),
    "Traditional for zh-Hant": ("zh-Hant", "這張圖片顯示一隻狗在街道上奔跑", "asked", True, True),
    "Simplified for zh-Hant": ("zh-Hant", "这张图片显示一只狗在街道上奔跑", "other", False, False),
    "Traditional for zh": ("zh", "這張圖片顯示一隻狗在街道上奔跑", "asked", True, True),
    "Cyrillic for Croatian": ("hr", "Слика приказује пса који трчи улицом са власником", "other", False, False),
    "Latin for Serbian in Cyrillic": ("sr-Cyrl", "Slika prikazuje psa koji trči ulicom sa vlasnikom", "other", False, False),
    "Latin for Serbian": ("sr", "Slika prikazuje psa koji trči ulicom sa svojim vlasnikom", "asked", True, True),
    "Bokmal": ("nb", "Bildet viser en hund som løper på gata sammen med eieren sin", "asked", True, True),
    "a translation in parentheses": ("es", "El perro (the dog) corre por la calle y el gato (the cat) duerme", "asked", True, True),
    "romanised Hindi": ("hi", "Yah tasveer ek kutte ko dikhati hai jo sadak par daud raha hai", "other", False, False),
    "a refusal in English": ("ja", "I'm sorry, but I can't assist with that request.", "english", False, False),
    "a language nobody knows": ("qqq", ES, None, None, None),
    "English for a language nobody knows": ("qqq", EN, "english", None, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def counted() -> pd.DataFrame:
    rows = [case[:2] for case in COUNTED.values()]
    return annotate(pd.DataFrame(rows, columns=["language", "answer"], index=list(COUNTED)), open_identifier())


@pytest.mark.parametrize("case", COUNTED)
def test_an_answer_counts_as_what_a_reader_would_call_it(case, counted):
    row = counted.loc[case]
    found = [None if pd.isna(row[name]) else row[name] for name in ("class", "lf", "lpr")]
    assert found == list(COUNTED[case][2:])
    assert found[0] in (None, *CLASSES) and not row[["lf", "english", "other"]].eq(True).sum() > 1
    assert (row["undecided"], row["repetition"]) == (
        case == "Han alone for Japanese",
        "epetition" in case or "drift within" in case,
    )


def test_near_languages_are_one_unless_they_are_kept_apart():
    malay = "Gambar ini menunjukkan seekor anjing yang sedang berlari di jalan raya kerana takut akan polis"
    bosnian = "Slika prikazuje psa koji trči ulicom prema hiljadu ljudi i kahvi"
    rows = pd.DataFrame(
        {
            "language": ["id", "hr", "no", "nn"],
            "answer": [malay, bosnian, *["Bildet viser en gutt som løper på gata"] * 2],
        }
    )
    together, apart = (
        annotate(rows, open_identifier(), rules=Rules(near=near, lines=LineRules())) for near in ("together", "apart")
    )
    assert together["lf"].tolist() == [True] * 4
    assert apart["lf"].tolist() == [False, False, True, False]
    assert together["identified"].tolist() == apart["identified"].tolist() == ["ms", "bs", "no", "no"]
