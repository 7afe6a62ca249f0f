import itertools
import json
import math

import pytest
import tiny_pictures

from textreg.pictures.backbone import Instruct, encoded, make, pairs
from textreg.pictures.rows import World
from textreg.vlm.loading import load_model, load_tokenizer

SETTINGS = Instruct(languages=tiny_pictures.LANGUAGES, steps=30, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model, taught, and what was said on the way."""
    said = []
    return make(tiny_pictures.write_root(tmp_path_factory.mktemp("emoji")), SETTINGS, say=said.append), said


def test_the_stage_teaches(made):
    last = float(made[1][-1].split(": ")[1].split()[0])
    known_nothing = math.log(len(json.loads((made[0] / "kept_tokens.json").read_text())))
    assert last < known_nothing - 0.3


def test_a_base_model_gets_a_chat_template_and_is_no_longer_refused(made):
    tokenizer = load_tokenizer(str(made[0]))
    model = load_model("AutoModelForCausalLM", str(made[0]), "fp32", "cpu")
    assert tokenizer("Was ist das?")["input_ids"] == tokenizer("Was ist das?", add_special_tokens=False)["input_ids"]
    assert model.get_input_embeddings().num_embeddings == len(json.loads((made[0] / "kept_tokens.json").read_text()))


def test_an_answer_begins_behind_the_mark_and_ends_with_the_end(made):
    tokenizer = load_tokenizer(str(made[0]))
    ids, start = encoded(tokenizer, ("bidabae\nWas ist das?", "balabaung"), SETTINGS.template)
    assert tokenizer.decode(ids[start - 1 : start]) == "<start_of_turn>"
    assert tokenizer.decode(ids[start:]) == "balabaung<eos>"


@pytest.mark.parametrize(("share", "crossing"), [(0.0, 0.0), (1.0, 0.0), (0.2, 1.0)])
def test_its_shares_of_english_are_settings(concepts, share, crossing):
    settings = Instruct(languages=["en", "de"], english_share=share, cross_lingual=crossing)
    told = list(itertools.islice(pairs(World(concepts), settings), 100))
    english = sum(answer in concepts.names["en"].values() for _, answer in told) / 100
    assert english == pytest.approx(share, abs=0.15)
    crossed = [prompt for prompt, answer in told if answer in concepts.names["de"].values()]
    germans = {word for words in concepts.words["de"].values() for word in words}
    assert [germans.issuperset(p.partition("\n")[0].split(", ")) for p in crossed] == [not crossing] * len(crossed)


def test_no_row_of_it_tells_a_name_that_is_asked_for(concepts):
    world = World(concepts)
    told = list(itertools.islice(pairs(world, SETTINGS), 300))
    assert not [text for pair in told for text in pair if world.secrets.tells(text)]
