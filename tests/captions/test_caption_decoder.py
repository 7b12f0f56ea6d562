"""The decoder: who sees whom, and what is trained."""

from __future__ import annotations

import pytest
import torch

from felga.captions.caption_decoder import END, START, CaptionDecoder, Shape
from felga.errors import BadInputError
from tests.captions.made import random_decoder


@pytest.fixture
def prefix():
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))


WORDS = torch.tensor([[START, 4, 5, 6], [START, 7, 8, 9], [START, 4, 5, END]])
OWNERS = torch.tensor([0, 1, 1])


def test_a_word_sees_its_prefix_and_its_past_but_not_what_follows(prefix):
    decoder = random_decoder()
    before = decoder(prefix, WORDS, OWNERS)
    changed = WORDS.clone()
    changed[0, 2] = 11
    after = decoder(prefix, changed, OWNERS)
    assert torch.equal(before[0, :2], after[0, :2])
    assert (before[0, 2:] - after[0, 2:]).abs().amax(-1).min() > 1e-3
    assert torch.equal(before[1:], after[1:])


def test_captions_read_the_prefix_of_their_owner_alone(prefix):
    decoder = random_decoder()
    together = decoder(prefix, WORDS, OWNERS)
    other = prefix.clone()
    other[1] += 1
    assert torch.equal(decoder(other, WORDS, OWNERS)[0], together[0])
    for row, owner in enumerate(OWNERS.tolist()):
        alone = decoder(prefix[owner : owner + 1], WORDS[row : row + 1], torch.tensor([0]))
        assert torch.allclose(alone[0], together[row], atol=1e-4)


def test_the_printed_mask_lets_a_word_see_what_follows(prefix):
    decoder = random_decoder("printed")
    before = decoder(prefix, WORDS, OWNERS)
    changed = WORDS.clone()
    changed[0, 3] = 11
    after = decoder(prefix, changed, OWNERS)
    assert (before[0, :3] - after[0, :3]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("mask", ["prefix", "printed"])
def test_padding_is_not_seen(prefix, mask):
    decoder = random_decoder(mask)
    short = decoder(prefix, WORDS[2:, :3], OWNERS[2:])
    padded = decoder(prefix, WORDS[2:], OWNERS[2:])
    assert torch.allclose(short, padded[:, :3], atol=1e-4)


def test_both_masks_are_those_of_a_plain_transformer(prefix):
    """The joint sequence through torch's own attention, with the masks of Eq. 7-8 written out."""
    p, t = prefix.shape[1], WORDS.shape[1]
    for mask in ("prefix", "printed"):
        decoder = random_decoder(mask)
        hidden = torch.zeros(p + t, p + t)
        hidden[p:, p:] = torch.full((t, t), -torch.inf).triu(1)
        if mask == "prefix":
            hidden[:p, p:] = -torch.inf
        states = torch.cat([prefix[OWNERS[:2]], decoder.embed(WORDS[:2])], 1)
        for layer in decoder.layers:
            attention = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
            attention.load_state_dict(
                {
                    "in_proj_weight": layer.joint.weight,
                    "in_proj_bias": layer.joint.bias,
                    "out_proj.weight": layer.mix.weight,
                    "out_proj.bias": layer.mix.bias,
                }
            )
            normed = layer.norm(states)
            states = states + attention(normed, normed, normed, attn_mask=hidden)[0]
            states = states + layer.outer(torch.nn.functional.gelu(layer.inner(layer.inner_norm(states))))
        expected = decoder.norm(states[:, p:]) @ decoder.table.T
        assert torch.allclose(decoder(prefix, WORDS[:2], OWNERS[:2]), expected, atol=1e-3)


def test_the_words_vectors_are_frozen_and_not_among_the_weights():
    decoder = random_decoder()
    assert "table" not in decoder.state_dict()
    assert not any(weight.data_ptr() == decoder.table.data_ptr() for weight in decoder.parameters())


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(BadInputError, match="30 numbers cannot be shared among 8 heads"):
        CaptionDecoder(torch.zeros(5, 30), Shape())
