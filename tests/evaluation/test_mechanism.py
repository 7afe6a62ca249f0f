"""Four looks inside: the mass of the first token, where an answer turns, given first words, what a probe can read."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from textreg.data.rows import IMAGES, REQUESTS, RowWriter
from textreg.errors import InputError
from textreg.evaluation import mechanism
from textreg.scenes import languages
from textreg.scenes.grammar import caption, parse
from textreg.scenes.rows import images, requests
from textreg.scenes.scene import sample
from textreg.settings import Mechanism
from textreg.vlm import adapters, assembly, features, generation

CODES = ["en", "es", "el"]


class Letters:
    """A tokenizer of one token per character, so that probabilities can be set by hand."""

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]


@pytest.mark.parametrize("code", languages.codes())
def test_every_caption_begins_with_a_word_of_the_openings(code):
    rng, first = random.Random(0), {text.split()[0] for text in mechanism.openings(code)}
    for _ in range(100):
        assert caption(sample(rng), code, rng=rng).split()[0] in first


def test_the_first_token_mass_counts_what_opens_one_language_alone():
    english, spanish = ({ord(text[0]) for text in mechanism.openings(code)} for code in ("en", "es"))
    logprobs = np.full((3, 1200), -np.inf, dtype=np.float32)
    logprobs[0, ord("T")] = np.log(0.5)  # The, There
    logprobs[0, ord("E")] = np.log(0.25)  # En la imagen
    logprobs[0, ord("L")] = np.log(0.125)  # La imagen
    logprobs[0, ord("x")] = np.log(0.125)
    assert english == {ord("T")} and spanish == {ord("E"), ord("L")}
    table = pd.DataFrame({"language": ["es", "en", "es"], "arm": ["image", "image", "text"]})
    found = mechanism.first_token_mass(table, logprobs, Letters())
    assert found.to_dict("records") == [
        {"language": "es", "arm": "image", "asked": 0.375, "english": 0.5},
        {"language": "es", "arm": "text", "asked": 0.0, "english": 0.0},
    ]


def test_a_token_that_opens_both_languages_counts_for_neither():
    both = {ord(text[0]) for text in mechanism.openings("en")}

    class First(Letters):
        def encode(self, text, add_special_tokens=True):
            return [7]

    assert both
    table = pd.DataFrame({"language": ["es"], "arm": ["image"]})
    found = mechanism.first_token_mass(table, np.zeros((1, 8), dtype=np.float32), First())
    assert found[["asked", "english"]].to_numpy().tolist() == [[0.0, 0.0]]


def test_at_hub_scale_openings_are_the_captions_that_people_wrote_as_written_and_capitalised():
    cells = [json.dumps(texts, ensure_ascii=False) for texts in (["a cat", "Two cats"], ["ein Hund"], ["A cat"])]
    written = mechanism.written_openings(pd.DataFrame({"language": ["en", "de", "en"], "reference": cells}))
    assert written == {"en": ("a cat", "A cat", "Two cats"), "de": ("ein Hund", "Ein Hund")}
    logprobs = np.full((1, 200), -np.inf, dtype=np.float32)
    logprobs[0, [ord("A"), ord("e"), ord("E"), ord("x")]] = np.log([0.5, 0.25, 0.125, 0.125])
    table = pd.DataFrame({"language": ["de"], "arm": ["image"]})
    found = mechanism.first_token_mass(table, logprobs, Letters(), written)
    assert found[["asked", "english"]].to_numpy().tolist() == [[0.375, 0.5]]


def test_without_an_english_caption_nothing_can_be_told_from_english():
    table = pd.DataFrame({"language": ["de"], "reference": [json.dumps(["ein Hund"])]})
    with pytest.raises(InputError, match=r"add en to prepare_data\.languages"):
        mechanism.written_openings(table)


def test_of_many_layers_nine_are_probed_with_the_first_and_the_last():
    table = probe_table(items=2).query("arm == 'image'").reset_index(drop=True)
    states = np.random.default_rng(0).normal(size=(len(table), 25, 3))
    layers = mechanism.probe(states, table)["layer"].tolist()
    assert len(layers) == len(set(layers)) == 9 and (layers[0], layers[-1]) == (0, 24)


def test_one_image_is_too_few_for_a_probe():
    table = probe_table(items=1)
    with pytest.raises(InputError, match=r"two images: raise mechanism\.probe_images"):
        mechanism.probe(np.zeros((len(table), 1, 3)), table)


def probe_table(items=12):
    rows = [(f"i{item}", arm, code) for item in range(items) for arm in mechanism.ARMS for code in CODES]
    return pd.DataFrame(rows, columns=["item_id", "arm", "language"])


def test_the_probe_reads_what_is_there_and_nothing_else():
    table, rng = probe_table(), np.random.default_rng(0)
    states = rng.normal(size=(len(table), 2, 4)).astype(np.float32)
    states[np.arange(len(table)), 1, table["language"].map(CODES.index)] += 50
    found = mechanism.probe(states, table).set_index(["arm", "layer"])
    assert found["chance"].unique() == pytest.approx([1 / 3])
    for arm in mechanism.ARMS:
        assert found.loc[(arm, 1), "accuracy"] == 1.0
        assert found.loc[(arm, 0), "accuracy"] < 0.7


def test_the_probe_is_never_asked_about_an_image_it_was_fitted_on():
    """A state that tells the item alone, and a language that hangs on the item, are no help on new items."""
    table = pd.DataFrame({"item_id": [f"i{n // 2}" for n in range(24)], "arm": "image"})
    table["language"] = ["es" if n // 2 % 2 else "el" for n in range(24)]
    states = np.zeros((24, 1, 12), dtype=np.float32)
    states[np.arange(24), 0, np.arange(24) // 2] = 1
    assert mechanism.probe(states, table)["accuracy"].item() <= 0.5


def test_an_arm_that_was_not_asked_is_left_out_of_the_probe():
    table = probe_table().query("arm == 'text'").reset_index(drop=True)
    found = mechanism.probe(np.random.default_rng(0).normal(size=(len(table), 1, 3)), table)
    assert found["arm"].tolist() == ["text"]


# ------------------------------------------------------------------------------------ looking into a real tiny model


@pytest.fixture(scope="module")
def opened(tmp_path_factory, tiny_llm, tiny_tower):
    """Settings, and the tuned arm of a run as the notebook opens it."""
    folder, rng = tmp_path_factory.mktemp("run"), random.Random(0)
    drawn = {"validation": [sample(rng, canonical=True) for _ in range(3)]}
    for name, schema, rows in (
        ("images", IMAGES, images(drawn, 0)),
        ("requests", REQUESTS, requests(drawn, CODES, 0)),
    ):
        with RowWriter(folder / "prepare_data" / f"{name}.parquet", schema) as writer:
            writer.write_many(rows)
    model, _ = assembly.assemble(str(tiny_llm), str(tiny_tower), seed=0)
    assembly.save_aligned(model, folder / "align", assembly.Base(str(tiny_llm), str(tiny_tower)))
    tuned = adapters.attach(model, rank=2, alpha=8, seed=0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.2)
    adapters.save_adapter(tuned, folder / "tune" / "BM" / "adapter")
    settings = Mechanism(run=str(folder), arms=["BM"], probe_images=2, max_new_tokens=4, batch_size=4)
    return settings, *mechanism.open_system(settings, "BM")


def test_captions_of_the_first_images_are_asked_in_every_arm_and_language(opened):
    table = mechanism.requests(opened[0])
    assert table["item_id"].nunique() == 2 and set(table["task"]) == {"caption"}
    assert table.groupby(["arm", "language"]).size().tolist() == [2] * 9


def test_the_last_state_is_the_one_that_the_first_token_is_predicted_from(opened):
    import torch

    settings, model, processor, seen = opened
    table = mechanism.requests(settings)
    states = mechanism.last_states(model, processor, table, seen, batch_size=4)
    vlm = adapters.plain(model)
    assert states.shape == (18, vlm.config.text_config.num_hidden_layers + 1, 32)
    with torch.inference_mode():
        logprobs = vlm.lm_head(torch.from_numpy(states[:, -1])).log_softmax(-1).numpy()
    found = generation.answer(model, processor, table, seen, max_new_tokens=1, first_logprobs=True)
    assert np.allclose(mechanism.stacked(found), logprobs, atol=1e-4)


def test_states_do_not_hang_on_the_batch(opened):
    settings, model, processor, seen = opened
    table = mechanism.requests(settings)
    together, alone = (mechanism.last_states(model, processor, table, seen, size) for size in (64, 1))
    assert np.allclose(together, alone, atol=1e-4)


def test_states_are_taken_in_batches_of_the_size_that_was_set(opened, monkeypatch):
    settings, model, processor, seen = opened
    vlm, sizes = adapters.plain(model), []
    original = vlm.model.forward

    def counted(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(vlm.model, "forward", counted)
    mechanism.last_states(model, processor, mechanism.requests(settings), seen, 2)
    assert sum(sizes) == 18 and max(sizes) == 2
    cells = json.loads((Path(__file__).parents[2] / "notebooks" / "07_mechanism.ipynb").read_text())["cells"]
    assert "seen, settings.batch_size)" in "".join("".join(cell["source"]) for cell in cells)


def test_the_backbone_is_opened_without_an_adapter(opened):
    model, _, seen = mechanism.open_system(opened[0], "backbone")
    assert not list(adapters.lora_layers(model))
    assert isinstance(seen, features.Kept)


def test_whole_answers_are_those_with_the_image_and_as_text_that_are_not_english(opened):
    answers = mechanism.whole_answers(*opened)
    assert answers.groupby(["arm", "language"]).size().to_dict() == {
        (arm, code): 2 for arm in ("image", "text") for code in ("el", "es")
    }
    assert all(isinstance(answer, str) for answer in answers["answer"])


def test_given_words_are_part_of_the_answer_that_is_judged(opened, monkeypatch):
    """A model that falls silent after the given words is faithful exactly when all of them were given."""
    settings, model, processor, seen = opened
    asked = []

    def silent(_, __, table, *args, **kwargs):
        asked.append(table["prefix"].tolist() if "prefix" in table else None)
        return [generation.Answer("", 1)] * len(table)

    monkeypatch.setattr(generation, "answer", silent)
    answers = mechanism.whole_answers(settings, model, processor, seen)
    found = mechanism.forced_prefix(settings, model, processor, seen, answers, words=(2, 99))
    assert found.groupby("words")["lf_plus"].mean().to_dict() == {0: 0.0, 2: 0.0, 99: 1.0}
    assert set(found["language"]) == {"es", "el"} and set(found["n"]) == {2}
    assert asked[0] is None and all(len(prefix.split()) == 2 for prefix in asked[1])


def test_the_model_goes_on_from_the_given_words(opened):
    settings, model, processor, seen = opened
    answers = mechanism.whole_answers(settings, model, processor, seen)
    found = mechanism.forced_prefix(settings, model, processor, seen, answers, words=(1,))
    assert found[["language", "words"]].to_numpy().tolist() == [["el", 0], ["el", 1], ["es", 0], ["es", 1]]
    assert set(found["lf_plus"]) == {0.0}  # an untrained model


def test_an_answer_turns_at_its_first_word_that_the_asked_language_does_not_have():
    told = ["Un círculo rojo", "Un círculo red", "The red circle", "Un"]
    found = mechanism.turning(pd.DataFrame({"language": "es", "arm": "image", "answer": told}), most=4)
    assert found["kept"].tolist() == [1.0, 0.75, 0.75, 0.5, 0.5]
    assert found["words"].tolist() == [0, 1, 2, 3, 4] and set(found["n"]) == {4}


@pytest.mark.parametrize("code", languages.codes())
def test_a_caption_of_the_grammar_never_turns(code):
    rng = random.Random(1)
    told = [caption(sample(rng), code, rng=rng) for _ in range(40)]
    assert set(mechanism.turning(pd.DataFrame({"language": code, "arm": "text", "answer": told}))["kept"]) == {1.0}


def account(*, english, first, last, helped, probed):
    """Tables of a study whose numbers are given; TR is perfect."""
    both = ["BM", "TR"]
    words = mechanism.WORDS
    return {
        "first_token": pd.DataFrame({"system": both, "language": "es", "arm": "image", "english": [english, 0.0]}),
        "turning": pd.DataFrame(
            {"system": "BM", "language": "es", "arm": "image", "words": [1, words], "kept": [first, last]}
        ),
        "forced_prefix": pd.DataFrame({"system": both, "language": "es", "words": 2, "lf_plus": [helped, 0.9]}),
        "probe": pd.DataFrame({"system": both, "arm": "image", "layer": [0, 4], "accuracy": [0.1, probed]}),
    }


def test_a_shortcut_at_the_first_word_would_make_every_prediction_true():
    table = mechanism.verdicts(account(english=0.9, first=0.2, last=0.1, helped=0.85, probed=0.99))
    assert table["held"].tolist() == [True] * 4
    assert table["measured"].tolist() == pytest.approx([0.9, 0.8 / 0.9, 0.85, 0.99])


def test_a_loss_later_in_the_sentence_refutes_all_but_the_probe():
    table = mechanism.verdicts(account(english=0.0, first=0.9, last=0.3, helped=0.2, probed=0.99))
    assert table["held"].tolist() == [False, False, False, True]


def test_a_prediction_about_a_system_that_was_not_looked_into_is_left_out():
    tables = account(english=0.9, first=0.2, last=0.1, helped=0.85, probed=0.99)
    assert mechanism.verdicts(tables, tuned="EN")["prediction"].tolist() == [
        "every system and arm: the asked language is still known (probe, last layer)"
    ]
    assert mechanism.verdicts({}).empty


def test_the_reference_answer_is_a_caption_of_the_asked_language():
    told = caption(sample(random.Random(0)), "es", frame=1)
    cell = json.dumps(["meaning", told], ensure_ascii=False)
    assert parse(mechanism.reference(cell), "es") is not None
