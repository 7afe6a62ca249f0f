"""Tokenizers of both sides of a merge: which differences are harmless, which are noted, which are refused."""

import shutil
from pathlib import Path

import pytest
from merge_checkpoints import VOCABULARY, adapted, build_vlm, stored, write_backbone, write_vlm
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from textreg.errors import InputError
from textreg.merging.merge import merge

WORDS = [f"word{number}" for number in range(VOCABULARY - 1)] + ["<spare>"]


def write_tokenizer(folder: Path, tokens: list[str], added: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.add_special_tokens(list(added))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    base = write_backbone(tmp_path / "base")
    return write_vlm(tmp_path / "tuned"), write_tokenizer(base, WORDS)


def noted(report) -> list[str]:
    return [note for note in report.notes if "vocabular" in note]


def run(pair: tuple[Path, Path], **options):
    return merge(*pair, pair[0].parent / "out", 0.5, check_reload=False, **options)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([WORDS[1], WORDS[0], *WORDS[2:]], r"2 token\(s\) have another .*'word1' is 0 and 1.*--keep embed_tokens"),
        ([WORDS[0], "<image>", *WORDS[1:]], "have another number"),  # it moves the rest
        ([f"mot{number}" for number in range(VOCABULARY)], "40 of 40 tokens"),
    ],
    ids=["another order", "a token between the others", "other words"],
)
def test_a_vocabulary_of_which_rows_mean_other_words_is_refused_before_anything_is_written(pair, tokens, message):
    write_tokenizer(pair[0], tokens)
    with pytest.raises(InputError, match=message):
        run(pair)
    assert not (pair[0].parent / "out").exists()


def test_a_spare_row_that_became_the_image_token_is_merged_and_noted(pair):
    write_tokenizer(pair[0], [*WORDS[:-1], "<image>"])
    [note] = noted(run(pair))
    assert "1 row(s)" in note and "'<spare>' is now '<image>'" in note


def test_other_tokens_do_no_harm_where_the_rows_stay_as_tuned(pair):
    write_tokenizer(pair[0], WORDS[::-1])
    run(pair, keep=["embed_tokens.weight", "lm_head.weight"])
    name = "language_model.model.embed_tokens.weight"
    assert stored(pair[0].parent / "out")[name].equal(stored(pair[0])[name])


def test_further_and_moved_tokens_beyond_the_shared_rows_are_no_difference(pair):
    write_tokenizer(pair[0], WORDS, ("<image>", "<pad>"))
    assert noted(run(pair)) == []
    write_tokenizer(pair[1], WORDS, ("<pad>", "<image>"))
    assert noted(run(pair, overwrite=True)) == []


def test_the_report_says_when_no_tokenizer_was_there_to_compare(pair):
    [note] = noted(run(pair))
    assert "not compared" in note and str(pair[0]) in note


def test_equal_sentencepiece_files_are_enough(pair):
    (pair[1] / "tokenizer.json").unlink()
    for folder in pair:
        (folder / "tokenizer.model").write_bytes(b"pieces")
    assert noted(run(pair)) == []
    (pair[1] / "tokenizer.model").write_bytes(b"others")
    assert "not compared" in noted(run(pair, overwrite=True))[0]


def test_an_adapter_is_compared_by_its_own_tokenizer(pair, tmp_path):
    vlm = build_vlm()
    adapted(vlm).save_pretrained(tmp_path / "adapter")
    write_tokenizer(pair[0], WORDS)
    options = {"adapter_base": pair[0], "check_reload": False}
    assert noted(merge(tmp_path / "adapter", pair[1], tmp_path / "one", **options)) == []
    write_tokenizer(tmp_path / "adapter", WORDS[::-1])
    with pytest.raises(InputError, match="another number"):
        merge(tmp_path / "adapter", pair[1], tmp_path / "two", **options)


def test_a_damaged_tokenizer_is_named(pair):
    shutil.copy(pair[1] / "tokenizer.json", pair[0])
    text = (pair[0] / "tokenizer.json").read_text()
    (pair[0] / "tokenizer.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"tuned/tokenizer\.json is not a readable tokenizer"):
        run(pair)
