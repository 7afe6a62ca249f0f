"""One question about one picture: of a run's systems, of a checkpoint, and of what cannot be asked."""

import pytest
from conftest import write_tuned
from PIL import Image

from textreg.errors import InputError
from textreg.vlm import assembly, systems


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (24, 24), (200, 30, 30)).save(path)
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_llm, tiny_tower):
    """A run folder with the tuned arm TR, merged at lambda 0, and a folder with the untuned model as a checkpoint."""
    run, checkpoint = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("checkpoint")
    write_tuned(run, tiny_llm, tiny_tower, alpha=320)
    for part in assembly.load_aligned(run / "align"):
        part.save_pretrained(checkpoint)
    (run / "merge" / "TR+M").mkdir(parents=True)
    (run / "merge" / "TR+M" / "choice.json").write_text('{"lambda": 0.0}')
    return str(run), str(checkpoint)


def ask(picture, model, **options):
    return systems.ask(picture, "¿Qué hay en la imagen?", model, max_new_tokens=6, **options)


def test_the_systems_of_a_run_answer_each_at_its_own_strength(picture, places):
    run, checkpoint = places
    backbone, tuned, merged = (ask(picture, run, name=name) for name in ("backbone", "TR", "TR+M"))
    assert merged == backbone != tuned  # merged at lambda 0
    assert ask(picture, checkpoint) == backbone


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused_before_anything_is_loaded(picture, prompt):
    with pytest.raises(InputError, match="the prompt is empty"):
        systems.ask(picture, prompt, "no such model")


def test_a_picture_that_is_none_is_named(tmp_path, places):
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    with pytest.raises(InputError, match=r"notes\.png"):
        ask(path, places[0])
    with pytest.raises(InputError, match=r"nowhere\.png"):
        ask(tmp_path / "nowhere.png", places[0])


def test_a_system_that_the_run_does_not_have_is_named(picture, places):
    with pytest.raises(InputError, match=r"no tuned arm 'TX'.*known: TR"):
        ask(picture, places[0], name="TX")


def test_a_folder_that_is_neither_run_nor_checkpoint_is_named(picture, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        ask(picture, str(tmp_path / "empty"))
