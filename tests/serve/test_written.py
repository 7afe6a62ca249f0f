"""Answers, names of languages and replies as the world writes them: one table of inputs and right outcomes each."""
# ruff: noqa: E501

import json
import unicodedata

import pandas as pd
import pytest
from faulty_server import Server, completion

from textreg.data.codes import named_language
from textreg.errors import InputError, RunError
from textreg.fidelity.annotation import Rules
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.parts import RULES
from textreg.fidelity.service import Service
from textreg.serve.endpoint import evaluate
from textreg.serve.probes import scene_set
from textreg.serve.written import annotated, read_rules

ES, EN = "Un perro marrón corre por el parque.", "A brown dog runs through the park."
FR, FR2 = "Voici un exemple simple de code pour vous :", "Il affiche un message à l'écran de la machine."
HE = "הַכֶּלֶב רָץ בַּגַּן וְהַיֶּלֶד צוֹחֵק בְּקוֹל."
ANSWERS = {  # asked language, answer -> class, what was set aside
    "Hebrew with points": ("he", HE, "asked", ""),
    "Hebrew with points as letters": ("he", HE.replace("בּ", "\ufb31"), "asked", ""),
    "Yiddish keeps its points": ("yi", "דער הונט לויפט אין פּאַרק און דאָס ייִנגל לאַכט.", "asked", ""),
    "Arabic with vowels": ("ar", "يَلْعَبُ ثَلَاثَةُ أَطْفَالٍ بِكُرَةٍ حَمْرَاءَ.", "asked", ""),
    "Arabic stretched": ("ar", "تنـام القطـة عـلـى الطـاولـة فـي المـطـبـخ", "asked", ""),
    "Russian with stresses": ("ru", "Соба́ка бежи́т по па́рку, а ма́льчик смеётся.", "asked", ""),
    "Macedonian, decomposed": ("mk", unicodedata.normalize("NFD", "Кучето трча низ паркот кон куќата, а ѓаконот гледа."), "asked", ""),
    "a picture": ("es", f"![{EN}](dog_(1).png)\n{ES}", "asked", "pictures"),
    "a picture by reference": ("es", f"![{EN}][dog] {ES}", "asked", "pictures"),
    "nothing but a picture": ("es", f"![{ES}](dog.png)", "asked", "asides"),
    "front matter": ("es", f"---\ntitle: {EN}\ntags:\n  - dog\n---\n{ES}", "asked", "metadata"),
    "front matter behind reasoning": ("es", f"<think>Hm.</think>\n---\r\ntitle: {EN}\r\n---\r\n{ES}", "asked", "reasoning metadata"),
    "rules across a page": ("es", f"---\n{ES}\n---\nNota: un gato duerme en el sofá.\n---\n", "asked", ""),
    "Greek with breathings": ("el", "Ἡ εἰκόνα δείχνει ἕναν σκύλο ποὺ τρέχει στὸν κῆπο μὲ τὸ παιδί.", "asked", ""),
    "letters struck through": ("es", "\u0336".join("La imagen muestra un perro"), "asked", ""),
    "a text after its end": ("es", f"{ES}</s>{EN} {EN}", "asked", "turns"),
    "struck out in HTML": ("es", f"<s>Un gato</s> {ES} Un gato duerme en el sofá.", "asked", "markup"),
    "Llama's turns": ("es", f"<|start_header_id|>user<|end_header_id|>\n\n{EN}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{ES}<|eot_id|>", "asked", "turns"),
    "Qwen's turns": ("es", f"<|im_start|>system\n{EN}<|im_end|>\n<|im_start|>user\n{EN}<|im_end|>\n<|im_start|>assistant\n{ES}<|im_end|>", "asked", "turns"),
    "Mistral's turns": ("es", f"<s>[INST] {EN} [/INST]{ES}</s>", "asked", "turns"),
    "DeepSeek's turns": ("es", f"<｜begin▁of▁sentence｜><｜User｜>{EN}<｜Assistant｜>{ES}<｜end▁of▁sentence｜>", "asked", "turns"),
    "Idefics' turns": ("es", f"User:<image>{EN}<end_of_utterance>\nAssistant: {ES}<end_of_utterance>", "asked", "turns"),
    "Alpaca's turns": ("es", f"### Instruction:\n{EN}\n\n### Response:\n{ES}", "asked", "turns"),
    "turns made up": ("es", f"{ES}\n\n### Instruction:\n{EN}\n\n### Response:\n{EN}", "asked", "turns"),
    "channels without their marks": ("es", f"analysisThe user asks. {EN}assistantfinal{ES}", "asked", "reasoning"),
    "entities": ("fr", "L&rsquo;&eacute;t&eacute; &agrave; la for&ecirc;t, le chien est tr&egrave;s &eacute;nerv&eacute;.", "asked", "markup"),
    "a comment of several lines": ("es", f"<!--\n{EN}\n{EN}\n-->\n{ES}", "asked", "markup"),
    "a drawing in the text": ("es", f"<svg viewBox='0 0 1 1'><title>{EN}</title></svg>{ES}", "asked", "markup"),
    "German quotes": ("de", f"Auf dem Schild steht »{EN}« und es ist rot vor dem Haus.", "asked", "quotations"),
    "two French quotes": ("fr", "Il dit « Hello my friend » et le chien court dans le parc avec « Good bye » encore.", "asked", "quotations"),
    "English single quotes": ("es", f"El cartel dice ‘{EN}’, o bien '{EN}', delante de la casa roja.", "asked", "quotations"),
    "apostrophes": ("nl", "'s Avonds loopt de hond in 't park en 's morgens slaapt hij thuis.", "asked", ""),
    "a literal of Python": ("es", "{'description': 'La imagen muestra un perro que corre', 'count': 3}", "asked", ""),
    "reasoning under a heading": ("es", f"## Thinking\n\n{EN}\n{EN}\n\n## Final Response\n\n{ES}", "asked", "reasoning"),
    "reasoning before its answer": ("es", f"**Reasoning:** {EN} {EN}\n\n**Answer:** {ES}", "asked", "reasoning"),
    "reasoning that is folded": ("es", f'<details type="reasoning" done="true"><summary>Hm</summary>\n> {EN}\n</details>\n{ES}', "asked", "reasoning"),
    "thoughts in a tag of its own": ("es", f"<longcat_think>{EN}</longcat_think>{ES}", "asked", "reasoning"),
    "thoughts whose tag the template opens": ("es", f"{EN} {EN}</mm:think>{ES}", "asked", "reasoning"),
    "thoughts cut off": ("es", f"<SYSTEM_THINKING>{EN} {EN}", "empty", "reasoning"),
    "MedGemma's thoughts": ("es", f"<unused94>thought\n{EN} {EN}<unused95>{ES}", "asked", "reasoning"),
    "a translation in brackets": ("es", f"{ES} [{EN}]", "asked", "asides"),
    "a list of a program": ("es", f'["{ES}", "{ES}"]', "asked", "keys"),
    "pieces of words": ("es", f" {ES}".replace(" ", "▁"), "asked", "markup"),
    "letters by number": ("ja", "犬が公園を走っています。子供が見ています。".encode("ascii", "backslashreplace").decode(), "asked", "markup"),
    "the head of a page": ("es", f"<html><head><title>{EN}</title></head><body><p>{ES}</p></body></html>", "asked", "markup"),
    "code between lines of Windows": ("fr", f"{FR}\r\n```python\r\n# {EN}\r\n```\r\n{FR2}", "asked", "code"),
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    rows = [case[:2] for case in ANSWERS.values()]
    return annotated(pd.DataFrame(rows, columns=["language", "answer"], index=list(ANSWERS)), open_identifier())


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_counts_as_what_it_is_however_it_is_written(case, found):
    assert (found["class"][case], found["set_aside"][case]) == ANSWERS[case][2:]
    assert found["answer"][case] == ANSWERS[case][1]


def test_what_is_set_aside_can_be_judged():
    table = pd.DataFrame({"answer": [ANSWERS["a picture"][1]], "language": ["es"]})
    kept = annotated(table, open_identifier(), rules=Rules(set_aside=("code",)))
    assert (kept["class"][0], kept["set_aside"][0]) == ("mixed", "")


def test_rules_are_chosen_by_name():
    assert {*RULES, "metadata", "pictures"} == {*read_rules().set_aside} and read_rules("none").set_aside == ()
    assert read_rules("code, keys", "apart") == Rules(set_aside=("code", "keys"), near="apart")
    with pytest.raises(InputError, match="did you mean 'quotations'"):
        read_rules("quotation")


NAMES = {
    "Serbian (Latin)": "sr-Latn", "Uzbek (Cyrillic)": "uz-Cyrl", "Chinese (Simplified)": "zh-Hans",
    "Chinese (Traditional, Hong Kong)": "zh-Hant", "Chinese (Hong Kong SAR China)": "zh-Hant", "Chinese - Simplified": "zh-Hans",
    "Mandarin Chinese (Traditional)": "zh-Hant", "中文（简体）": "zh-Hans", "српски (латиница)": "sr-Latn", "sr_RS@latin": "sr-Latn",
    "zh-CHT": "zh-Hant", "Hindi (Romanized)": "hi-Latn", "Punjabi (Pakistan)": "pa-Arab", "es (Spanish)": "es",
    "Mongolian (Traditional)": "mn-Mong", "Traditional Mongolian": "mn-Mong", "Roman Urdu": "ur-Latn", "Urdu (Roman)": "ur-Latn",
    "__label__spa_Latn": "es", "zh-nan": "nan", "zh-min-nan": "nan", "Spanish; Castilian": "es", "Uyghur - Arabic": "ug",
    "Filipino (Tagalog)": "fil", "Basque (Traditional)": "eu", "Arabic (Egypt)": "ar", "Norwegian (Nynorsk)": "nn", "pt-BR": "pt",
    "Arabic (Moroccan)": "ary", "Greek (Ancient)": "grc", "Kazakh (Arabic)": "kk-Arab", "English (Tonga)": "en", "Hindi language": "hi",
    "Espanol": "es", "cestina": "cs", "Japanese (romaji)": "ja-Latn", "<|es|>": "es", "<2es>": "es", "__es__": "es", ">>spa<<": "es",
    "ar-arz": "arz", "en_GB": "en", "ja_XX": "ja", "no-bok": "nb", "Meiteilon (Manipuri)": "mni", "be_BY@latin": "be-Latn",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_script_beside_the_name_of_a_language_is_kept(name):
    assert named_language(name) == NAMES[name]


NONE = ["English/Latin", "jp (Japan)", "und (Latin)", "x" * 9000, "English to German", "Arabic-English", "German, English",
        "Darija", "Moroccan Darija", "Ladino", "Romaji", "English Spanish", "English-Arabic", "English (Hindi)", "zh-en", "eng-spa"]  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_a_script_beside_no_language_the_beginning_of_a_name_and_two_languages_make_none(name):
    with pytest.raises(InputError, match="unknown language code"):
        named_language(name)


def choice(**parts) -> dict:
    return {"object": "text_completion", "choices": [{"index": 0, "finish_reason": "stop", **parts}]}


CHUNKS = [choice(text=text, finish_reason=None) for text in ("ho", "la")]
STREAM = "".join(f"data: {chunk}\n\n" for chunk in (*map(json.dumps, CHUNKS), "[DONE]"))
REPLIES = {  # a reply -> the answer, or why there is none
    "a text completion": (choice(text=" hola "), "hola"),
    "nothing": ("null", RunError("not a chat completion")),
    "a reply without end": ("[" * 50_000, RunError("nested too deep")),
    "a stream of texts": (STREAM, "hola"),
    "a demanded stream of texts": (STREAM, "hola"),
    "a text beside an empty message": (choice(text="hola", message={}), "hola"),
    "an object for content": (completion({"content": {"type": "text", "text": "hola"}}), "hola"),
    "reasoning among parts": (completion({"content": [{"type": "reasoning", "text": EN}, {"text": "hola"}]}), "hola"),
    "a function beside an answer": (completion({"content": "hola", "function_call": {"name": "f"}}), "hola"),
    "a function": (completion({"content": "", "function_call": {"name": "f"}}), RunError("called a tool")),
    "no message": (choice(message=None), RunError("message is null.*cure that")),
    "no JSON": ("", RunError("the reply is no JSON")),
    "an abort": (completion("", "abort"), RunError("nothing was said, finish reason 'abort'")),
}


@pytest.mark.parametrize("case", REPLIES)
def test_a_reply_is_an_answer_or_says_why_it_is_none(case, tmp_path):
    reply, right = REPLIES[case]

    def play(body: dict) -> tuple:
        refused = "demanded" in case and "stream" not in body
        kind = {"content_type": "text/event-stream" if reply is STREAM else "application/json"}
        return (400, {"error": {"message": "stream must be true"}}) if refused else (200, reply, kind)

    with Server(play) as server:
        asked = Service(server.url, "m", attempts=1, timeout=20, failures=99), scene_set(("es",), 1), tmp_path
        if isinstance(right, str):
            assert set(pd.read_parquet(evaluate(*asked, progress=False).answers)["answer"]) == {right}
        else:
            with pytest.raises(RunError, match=str(right)):
                evaluate(*asked, progress=False)
