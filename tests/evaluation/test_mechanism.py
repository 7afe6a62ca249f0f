"""Looks inside: the mass of openings, doses of English, tuning's update and its patches, layer by layer."""

import json
import random

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_prepared, write_tuned

from textreg.data.rows import IMAGES, REQUESTS
from textreg.errors import InputError
from textreg.evaluation import mechanism
from textreg.scenes import languages
from textreg.scenes.grammar import caption, split_words
from textreg.scenes.grammar import words as listed
from textreg.scenes.rows import images, requests
from textreg.scenes.scene import sample
from textreg.settings import Mechanism, PrepareData
from textreg.vlm import adapters, features, generation

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


def test_the_opening_mass_counts_what_opens_one_language_alone():
    english, spanish = ({ord(text[0]) for text in mechanism.openings(code)} for code in ("en", "es"))
    logprobs = np.full((3, 1200), -np.inf, dtype=np.float32)
    logprobs[0, ord("T")] = np.log(0.5)  # The, There
    logprobs[0, ord("E")] = np.log(0.25)  # En la imagen
    logprobs[0, ord("L")] = np.log(0.125)  # La imagen
    logprobs[0, ord("x")] = np.log(0.125)
    assert english == {ord("T")} and spanish == {ord("E"), ord("L")}
    table = pd.DataFrame({"language": ["es", "es"], "arm": ["image", "text"]})
    found = mechanism.opening_mass(table, logprobs[[0, 2]], Letters())
    assert found.to_dict("records") == [
        {"language": "es", "arm": "image", "asked": 0.375, "english": 0.5},
        {"language": "es", "arm": "text", "asked": 0.0, "english": 0.0},
    ]


def test_a_token_that_opens_both_languages_counts_for_neither():
    table = pd.DataFrame({"language": ["de"], "arm": ["image"]})
    written = {"en": ["a cat"], "de": ["am See"]}
    found = mechanism.opening_mass(table, np.zeros((1, 200), dtype=np.float32), Letters(), written)
    assert found[["asked", "english"]].to_numpy().tolist() == [[0.0, 0.0]]


def written_requests(folder, cells):
    rows = []
    for number, (code, texts) in enumerate(cells):
        row = {"item_id": f"i{number}", "split": "validation", "arm": "image", "task": "caption", "language": code}
        rows.append(row | {"image_id": None, "prompt": "?", "reference": json.dumps(texts, ensure_ascii=False)})
    write_prepared(folder, requests=(REQUESTS, rows))
    return str(folder)


def test_at_hub_scale_openings_are_the_captions_that_people_wrote_as_written_and_capitalised(tmp_path):
    run = written_requests(tmp_path, [("en", ["a cat", "Two cats"]), ("de", ["ein Hund"]), ("en", ["A cat"])])
    written = mechanism.written_openings(run, ["de"])
    assert written == {"en": ("a cat", "A cat", "Two cats"), "de": ("ein Hund", "Ein Hund")}
    logprobs = np.full((1, 200), -np.inf, dtype=np.float32)
    logprobs[0, [ord("A"), ord("e"), ord("E"), ord("x")]] = np.log([0.5, 0.25, 0.125, 0.125])
    table = pd.DataFrame({"language": ["de"], "arm": ["image"]})
    found = mechanism.opening_mass(table, logprobs, Letters(), written)
    assert found[["asked", "english"]].to_numpy().tolist() == [[0.375, 0.5]]


def test_without_an_english_caption_nothing_can_be_told_from_english(tmp_path):
    with pytest.raises(InputError, match=r"add en to prepare_data\.languages"):
        mechanism.written_openings(written_requests(tmp_path, [("de", ["ein Hund"])]), ["de"])


def test_every_share_of_english_words_is_asked_about_every_picture_with_the_same_prompt(opened):
    shown = mechanism.requests(opened[0]).query("arm == 'image'")
    words = mechanism.worded(shown)
    assert len(words) == len(shown) * len(mechanism.SHARES) and words["image_id"].isna().all()
    english = {word for word in listed("en")}
    for share, group in words.groupby("share"):
        for row in group.itertuples():
            told, _, prompt = row.prompt.partition("\n")
            assert prompt in languages.load(row.language).prompts
            own = set(split_words(told)) - english
            assert bool(own) == (share < 1.0) or share in (0.5, 0.75)


def test_the_direction_of_english_separates_its_words_from_others_and_can_be_taken_out_of_a_share_of_tokens():
    direction = torch.tensor([1.0, 0.0])
    tokens = torch.full((2, 400, 2), 3.0)
    for share in (0.0, 0.25, 1.0):
        kept = mechanism.keeping(direction, share)(tokens)
        assert kept[..., 1].eq(3).all() and set(kept[..., 0].unique().tolist()) <= {0.0, 3.0}
        assert kept[..., 0].eq(3).float().mean().item() == pytest.approx(share, abs=0.06)


def test_english_words_lie_along_the_direction_of_english(opened):
    _, model, processor, _ = opened
    told = {code: [caption(sample(random.Random(0)), code)] for code in CODES}
    direction = mechanism.english_direction(model, processor.tokenizer, told)
    weight = adapters.plain(model).get_input_embeddings().weight.detach()
    along = {
        code: (weight[processor.tokenizer.encode(texts[0])] @ direction).mean().item() for code, texts in told.items()
    }
    assert direction.norm().item() == pytest.approx(1) and along["en"] > max(along["es"], along["el"])


@pytest.fixture(scope="module")
def opened(tmp_path_factory, tiny_llm, tiny_tower):
    """Settings, and the tuned arm of a run as the notebook opens it."""
    folder, rng = tmp_path_factory.mktemp("run"), random.Random(0)
    drawn = {"validation": [sample(rng, canonical=True) for _ in range(3)]}
    asked = requests(drawn, {}, PrepareData(languages=CODES))
    write_prepared(folder, images=(IMAGES, images(drawn, {}, 0)), requests=(REQUESTS, asked))
    write_tuned(folder, tiny_llm, tiny_tower, "BM", alpha=16)
    settings = Mechanism(run=str(folder), arms=["BM"], probe_images=2)
    return settings, *mechanism.open_system(settings, "BM")


def test_captions_of_the_first_images_are_asked_in_every_arm_and_language(opened):
    table = mechanism.requests(opened[0])
    assert table["item_id"].nunique() == 2 and set(table["task"]) == {"caption"}
    assert table.groupby(["arm", "language"]).size().tolist() == [2] * (4 * 2) and "en" not in set(table["language"])


def test_the_states_are_those_that_the_first_token_is_predicted_from_whatever_the_batch(opened):
    settings, model, processor, seen = opened
    table = mechanism.requests(settings)
    logprobs, states = mechanism.first_token(model, processor, table, seen)
    vlm = adapters.plain(model)
    assert states.shape == (16, vlm.config.text_config.num_hidden_layers + 1, 32)
    with torch.inference_mode():
        assert np.allclose(vlm.lm_head(torch.from_numpy(states[:, -1])).log_softmax(-1).numpy(), logprobs, atol=1e-4)
    found = generation.answer(model, processor, table, seen, max_new_tokens=1, first_logprobs=True)
    assert np.allclose(np.stack([each.first_logprobs for each in found]), logprobs, atol=1e-4)
    assert np.allclose(mechanism.first_token(model, processor, table, seen, batch_size=1)[1], states, atol=1e-4)


def test_what_is_added_after_a_layer_moves_that_state_by_as_much_and_none_before(opened):
    settings, model, processor, seen = opened
    table = mechanism.requests(settings)
    _, before = mechanism.first_token(model, processor, table, seen)
    added = torch.ones(len(table), 32)
    _, after = mechanism.first_token(model, processor, table, seen, added={0: added})
    assert np.allclose(after[:, 0], before[:, 0]) and not np.allclose(after[:, -1], before[:, -1])
    _, again = mechanism.first_token(model, processor, table, seen)
    assert np.allclose(again, before)


def test_an_edit_changes_what_pictures_say_and_nothing_else(opened):
    settings, model, processor, seen = opened
    table = mechanism.requests(settings)
    before, _ = mechanism.first_token(model, processor, table, seen)
    after, _ = mechanism.first_token(model, processor, table, seen, edit=torch.zeros_like)
    pictured = table["image_id"].notna().to_numpy()
    assert np.allclose(before[~pictured], after[~pictured]) and not np.allclose(before[pictured], after[pictured])


def test_the_component_of_an_update_is_what_lies_along_the_direction_of_its_layer():
    directions = np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32)  # (layers + 1, hidden)
    before, after = np.zeros((3, 2, 2), np.float32), np.zeros((3, 2, 2), np.float32)
    after[:, 1] = [3.0, 4.0]
    assert mechanism.update_table(before, after, directions).to_dict("records") == [
        {"layer": 1, "along": 3, "length": 5}
    ]
    assert mechanism.component(before, after, directions, 0).tolist() == [[3.0, 0.0]] * 3


def test_the_direction_of_the_pull_is_english_context_minus_the_asked_language_per_request():
    table = pd.DataFrame({"item_id": "i", "language": "de", "arm": ["text", "text_en", "image"]})
    states = np.array([[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]])
    assert mechanism.pulling(table, states).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_layer_wise_lambdas_leave_out_each_layer_once_and_keep_each_alone_once():
    found = mechanism.layer_lambdas(2)
    assert found == {
        ("without", 0): {0: 0.0, 1: 1.0},
        ("without", 1): {0: 1.0, 1: 0.0},
        ("alone", 0): {0: 1.0, 1: 0.0},
        ("alone", 1): {0: 0.0, 1: 1.0},
    }


def test_the_backbone_is_opened_without_an_adapter(opened):
    model, _, seen = mechanism.open_system(opened[0], "backbone")
    assert not list(adapters.lora_layers(model))
    assert isinstance(seen, features.Kept)


def account(*, image, dose, along, out, into, untuned, cure):
    """Tables of a study whose numbers are given, for BM; ``untuned`` is what English text does to the backbone."""
    told = [("BM", "image", image), ("BM", "text_en", 0.9), ("BM", "blank", 0.2), ("TR", "image", cure)]
    told += [("backbone", arm, english) for arm, english in (("image", 0.1), ("text", 0.1), ("text_en", untuned))]
    arms = pd.DataFrame([*told, ("backbone", "blank", 0.3 - untuned)], columns=["system", "arm", "english"])
    doses = pd.DataFrame({"context": ["words"] * 2 + ["visual tokens"] * 2, "share": [0.0, 1.0] * 2})
    rising = doses.assign(system="BM", english=[0.1, 0.1 + dose] * 2)
    return {
        "arms": arms,
        "dose": pd.concat([rising, doses.assign(system="backbone", english=[0.05] * 4)]),
        "update": pd.DataFrame({"system": ["BM", "TR"], "along": [along, 0.0]}),
        "patch": pd.DataFrame({"system": ["BM", "backbone"], "done": ["taken out", "put in"], "english": [out, into]}),
    }


HELD = {"image": 0.8, "dose": 0.5, "along": 3.0, "out": 0.4, "into": 0.3, "untuned": 0.2, "cure": 0.1}
FAILED = {"image": 0.95, "dose": -0.1, "along": -1.0, "out": 0.99, "into": 0.05, "untuned": 0.0, "cure": 0.97}


def test_each_prediction_is_held_or_failed_by_its_own_number():
    held, failed = mechanism.verdicts(account(**HELD)), mechanism.verdicts(account(**FAILED))
    assert held["held"].tolist() == [True] * 10 and failed["held"].tolist() == [False] * 10


def test_more_english_at_every_dose_is_judged_where_the_two_are_nearest():
    found = mechanism.verdicts(account(**HELD | {"dose": 0.0})).set_index("prediction")
    nearest = found[found.index.str.contains("every dose")].iloc[0]
    assert (nearest["measured"], nearest["against"], nearest["held"]) == (0.1, 0.05, True)


def test_a_prediction_about_a_system_that_was_not_looked_into_is_left_out():
    assert mechanism.verdicts(account(**HELD), tuned="EN")["prediction"].tolist() == [
        "the untuned model: English text pulls the answer into English, text in the asked language less",
        "putting it into the untuned model takes the language away",
    ]
    assert mechanism.verdicts({}).empty
