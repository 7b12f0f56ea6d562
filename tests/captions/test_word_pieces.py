"""Word pieces and their vectors: of the packaged MiniLM, and of a BERT in a folder."""

from __future__ import annotations

import pytest
import torch
from transformers import BertModel, BertTokenizerFast

from felga.captions.caption_decoder import UNKNOWN
from felga.captions.word_pieces import Source, WordPieces
from felga.errors import BadInputError, MissingError, NotFoundError
from felga.models.minilm import minilm_file
from tests.captions.made import tiny_bert


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("words") / "bert")


def test_the_packaged_words_are_minilms():
    words = WordPieces.of_texts(Source.of(None), ["A dog on a sofa."])
    tokenizer = BertTokenizerFast.from_pretrained(minilm_file().parent)
    vectors = BertModel.from_pretrained(minilm_file().parent).embeddings.word_embeddings.weight
    expected = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[UNK]"]) + sorted(
        tokenizer.convert_tokens_to_ids(["a", "dog", "on", "sofa", "."])
    )
    assert words.ids.tolist() == expected
    assert torch.equal(words.table, vectors[expected].detach())


@pytest.mark.parametrize(
    "text", ["a man's t-shirt", "two people, one dog", "well-being isn't 24/7", "a person (red) on snow"]
)
def test_a_text_survives_as_pieces(text):
    words = WordPieces.of_texts(Source.of(None), [text])
    assert words.text(words.rows(text)) == text.replace("(red)", "( red )")


def test_a_final_full_stop_is_dropped_and_an_unknown_piece_is_said():
    words = WordPieces.of_texts(Source.of(None), ["a dog"])
    assert words.rows(" A dog. ") == words.rows("a dog")
    assert words.rows("a cat")[1] == UNKNOWN


def test_a_bert_in_a_folder_keeps_its_case_and_any_width(bert):
    words = WordPieces.of_texts(Source.of(bert), ["a Dogs", "the dog"])
    vectors = BertModel.from_pretrained(bert).embeddings.word_embeddings.weight
    assert words.table.shape == (8, 48)
    assert torch.equal(words.table, vectors[[2, 3, 1, 5, 6, 7, 8, 11]].detach())
    assert words.text(words.rows("a Dogs")) == "a Dogs"


def test_a_folder_that_moved_is_found_again(bert, tmp_path):
    said = Source.of(bert).to_json()
    moved = tmp_path / "moved"
    moved.symlink_to(bert)
    assert Source.from_json(said | {"folder": "/gone"}, moved).folder == moved
    with pytest.raises(MissingError, match="words' vectors are missing.*--words"):
        Source.from_json(said | {"folder": "/gone"}, None)
    with pytest.raises(MissingError, match="other weights"):
        Source.from_json(said | {"sha256": "0" * 64}, None)


def test_folders_that_are_no_bert_are_refused(bert, tmp_path):
    with pytest.raises(NotFoundError, match=r"has no model.safetensors"):
        Source.of(tmp_path)
    for name, wrong in (("tokenizer.json", "not a tokenizer"), ("model.safetensors", "cannot be used")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        for file in ("model.safetensors", "tokenizer.json"):
            (folder / file).write_bytes((bert / file).read_bytes())
        (folder / name).write_text("{}")
        with pytest.raises(BadInputError, match=wrong):
            WordPieces.of_texts(Source.of(folder), ["a dog"])
