"""Images to learn from, a tiny BERT on disk as transformers saves it, a decoder of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizerFast

from felga.captions.caption_decoder import CaptionDecoder, Shape
from felga.captions.captioner import CaptionNet, write_captioner
from felga.captions.word_pieces import Source, WordPieces

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "Dog", "##s", "red", "on", "the", "sofa"]

CAPTIONS = ["a red dog", "two cats on a sofa", "the man's boat", "an empty street"]


def noise_images(folder: Path) -> Path:
    """Four images of noise, each with one of :data:`CAPTIONS`: ``captions.json`` and ``images/``."""
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for at in range(len(CAPTIONS)):
        coarse = random.integers(0, 255, (3 + at, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 64)).save(folder / "images" / f"{at}.png")
    rows = {
        "images": [{"id": at, "file_name": f"{at}.png"} for at in range(len(CAPTIONS))],
        "annotations": [{"id": at, "image_id": at, "caption": text} for at, text in enumerate(CAPTIONS)],
    }
    (folder / "captions.json").write_text(json.dumps(rows))
    return folder


def tiny_bert(folder: Path, width: int = 48) -> Path:
    """A cased BERT with the vectors of :data:`PIECES`, random."""
    folder.mkdir()
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    BertModel(BertConfig(vocab_size=len(PIECES), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    words = {piece: number for number, piece in enumerate(PIECES)}
    BertTokenizerFast(vocab=words, do_lower_case=False).save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    return folder


def random_captioner(path: Path, seed: int = 0) -> Path:
    """A captioner file of random weights: it writes some of the words of :data:`CAPTIONS`."""
    words = WordPieces.of_texts(Source.of(None), CAPTIONS)
    shape = Shape(layers=1, inner=32, longest=6)
    torch.manual_seed(seed)
    net = CaptionNet(words, shape)
    write_captioner(path, {name: value.numpy() for name, value in net.state_dict().items()}, words, shape, {})
    return path


def random_decoder(mask: str = "prefix", words: int = 20, width: int = 32) -> CaptionDecoder:
    """In evaluation mode; its weights are large enough that everything read makes a difference."""
    torch.manual_seed(1)
    shape = Shape(layers=3, heads=4, inner=64, longest=9, mask=mask)  # type: ignore[arg-type]
    decoder = CaptionDecoder(torch.randn(words, width), shape).eval()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
    return decoder
