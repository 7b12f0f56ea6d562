"""Training: it learns, it resumes to the bit, and it says what is wrong with its input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from felga.captions.caption_batches import CaptionData, read_captions
from felga.captions.caption_decoder import END, START, Shape
from felga.captions.caption_training import CaptionTraining, split, train_captioner
from felga.captions.captioner import Captioner, write_captioner
from felga.captions.visual_tokens import visual_tokens
from felga.captions.word_pieces import Source, WordPieces
from felga.corpus.decode import read_image
from felga.errors import BadInputError, MissingError, NotFoundError
from tests.captions.made import CAPTIONS, tiny_bert


def train(noise, out, **options):
    train_captioner(noise / "captions.json", noise / "images", out, device="cpu", **options)


def images(noise):
    return [read_image(noise / "images" / f"{at}.png", str(at)) for at in range(len(CAPTIONS))]


class Killed(Exception):
    pass


def killer(stage, at):
    def progress(now, done, total):
        if (now, done) == (stage, at):
            raise Killed

    return progress


@pytest.fixture(scope="module")
def whole(noise, tmp_path_factory):
    """Trained for three epochs without a break."""
    out = tmp_path_factory.mktemp("whole") / "captioner.safetensors"
    train(noise, out, epochs=3)
    return out


def in_memory(noise, learned, held, epochs):
    words = WordPieces.of_texts(Source.of(None), CAPTIONS)
    tokens = np.stack([visual_tokens(image, torch.device("cpu")) for image in images(noise)])
    shape = Shape(inner=256, longest=8, dropout=0.0)
    data = CaptionData(tokens, [[text] for text in CAPTIONS], words, shape.longest)
    device = torch.device("cpu")
    return (
        words,
        shape,
        CaptionTraining(data, words, shape, learned, held, epochs=epochs, seed=0, device=device),
    )


def test_it_learns_the_captions_of_a_few_images_by_heart(noise, tmp_path):
    words, shape, run = in_memory(noise, np.arange(4), np.arange(0), epochs=40)
    while run.epoch < 40:
        run.one_epoch(lambda *step: None)
    write_captioner(tmp_path / "c.safetensors", run.best, words, shape, {})
    captioner = Captioner.load(tmp_path / "c.safetensors", device="cpu")
    for beam in (1, 3):
        assert [caption.text for caption in captioner.captions(images(noise), beam)] == CAPTIONS


@pytest.mark.parametrize(("stage", "at"), [("visual tokens", 3), ("captions", 2)])
def test_a_killed_training_resumes_to_the_bit(noise, whole, tmp_path, stage, at):
    out = tmp_path / "captioner.safetensors"
    with pytest.raises(Killed):
        train(noise, out, epochs=3, progress=killer(stage, at))
    assert not out.exists()
    seen = []
    train(noise, out, epochs=3, resume=True, progress=lambda stage, done, total: seen.append((stage, done)))
    assert out.read_bytes() == whole.read_bytes()
    assert seen[0] == (stage, at + 1 if stage == "visual tokens" else at)
    assert not out.with_name(f"{out.name}.training").exists()


def test_tokens_cut_off_by_a_kill_are_made_again(noise, whole, tmp_path):
    out = tmp_path / "captioner.safetensors"
    with pytest.raises(Killed):
        train(noise, out, epochs=3, progress=killer("captions", 1))
    tokens = tmp_path / "captioner.safetensors.training" / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1000])
    train(noise, out, epochs=3, resume=True)
    assert out.read_bytes() == whole.read_bytes()


def test_the_seed_decides_and_the_global_random_state_is_left_alone(noise, whole, tmp_path):
    torch.manual_seed(5)
    train(noise, tmp_path / "other.safetensors", epochs=3, seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert (tmp_path / "other.safetensors").read_bytes() != whole.read_bytes()


def test_the_state_of_another_training_is_refused(noise, tmp_path):
    out = tmp_path / "captioner.safetensors"
    with pytest.raises(Killed):
        train(noise, out, epochs=3, progress=killer("captions", 2))
    with pytest.raises(BadInputError, match="the state of another training: train without --resume"):
        train(noise, out, epochs=3, seed=1, resume=True)


def test_held_out_images_say_which_epoch_is_kept(noise, monkeypatch):
    learned, held = split(40)
    assert held.tolist() == [15, 31]
    assert sorted([*learned, *held]) == list(range(40))
    assert len(split(31)[1]) == 0
    _, _, run = in_memory(noise, np.arange(3), np.arange(3, 4), epochs=2)
    losses = iter([3.0, 4.0])
    monkeypatch.setattr(run, "held_out_loss", lambda: next(losses))
    run.one_epoch(lambda *step: None)
    first = {name: value.clone() for name, value in run.net.state_dict().items()}
    run.one_epoch(lambda *step: None)
    assert all(np.array_equal(run.best[name], value.numpy()) for name, value in first.items())
    assert any(not torch.equal(value, first[name]) for name, value in run.net.state_dict().items())


def test_batches_hold_every_caption_once_and_the_end_is_learned(noise):
    words = WordPieces.of_texts(Source.of(None), CAPTIONS)
    captions = [["a red dog", "a dog"], ["two cats on a sofa"], ["an empty street"]]
    data = CaptionData(np.zeros((3, 36, 1280), np.float16), captions, words, 5)
    found = []
    for batch in data.shuffled(np.arange(3), 2, [0, 0]):
        assert batch.words.shape == batch.targets.shape
        for row, targets in zip(batch.words.tolist(), batch.targets.tolist(), strict=True):
            length = sum(target >= 0 for target in targets)
            assert row[0] == START
            assert row[1:length] == targets[: length - 1]
            found.append(targets[:length])
    cut = words.rows("two cats on a sofa")
    expected = [[*words.rows(one), END] for one in ("a red dog", "a dog", "an empty street")] + [cut]
    assert sorted(found) == sorted(expected)


def test_half_of_the_images_are_mirrored_left_to_right_and_held_out_ones_are_not():
    words = WordPieces.of_texts(Source.of(None), ["a dog"])
    cells = np.arange(36, dtype=np.float16)[:, None]
    tokens = np.stack([np.broadcast_to(cells + 100 * at, (36, 1280)) for at in range(10)])
    data = CaptionData(tokens, [["a dog"]] * 10, words, 5)
    mirrored = 0
    for batch in data.shuffled(np.arange(10), 3, [0, 0]):
        for one in batch.tokens[:, :, 0]:
            row, image = one[:6].tolist(), int(one[0]) // 100
            assert row in ([100 * image + at for at in range(6)], [100 * image + 5 - at for at in range(6)])
            mirrored += row[0] > row[1]
    assert mirrored == 5
    (batch,) = data.in_order(np.arange(10), 10)
    assert np.array_equal(batch.tokens.numpy(), tokens)


def test_a_bert_in_a_folder_gives_the_words(noise, tmp_path):
    bert = tiny_bert(tmp_path / "bert")
    train(noise, tmp_path / "c.safetensors", words=bert, epochs=1)
    captioner = Captioner.load(tmp_path / "c.safetensors", device="cpu")
    assert captioner.net.decoder.width == 48
    assert len(captioner.captions(images(noise))) == 4
    shutil.rmtree(bert)
    with pytest.raises(MissingError, match="words' vectors are missing"):
        Captioner.load(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["annotations"].clear(), "has no caption to learn from"),
        (lambda rows: rows["annotations"][1].update(caption=7), "annotations.1.: caption is a number"),
        (lambda rows: rows["images"][2].update(file_name="gone.png"), "gone.png"),
    ],
)
def test_bad_input_is_one_sentence(noise, tmp_path, change, message):
    rows = json.loads((noise / "captions.json").read_text())
    change(rows)
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    with pytest.raises((BadInputError, NotFoundError), match=message):
        train_captioner(tmp_path / "captions.json", noise / "images", tmp_path / "c.safetensors", epochs=1)


def test_a_file_that_cannot_be_written_is_said_before_any_work(noise, tmp_path):
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "c.safetensors", "cannot be written"),
    ):
        with pytest.raises(BadInputError, match=message):
            train(noise, out, epochs=1, progress=killer("visual tokens", 1))


def test_captions_are_read_in_the_order_of_their_ids(tmp_path):
    rows = {
        "images": [{"id": at, "file_name": f"{at}.jpg"} for at in (10, 9, 1)],
        "annotations": [
            {"id": 3, "image_id": 9, "caption": "second"},
            {"id": 2, "image_id": 9, "caption": "first"},
            {"id": 1, "image_id": 10, "caption": "third"},
            {"id": 4, "image_id": 1, "caption": " "},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    found = read_captions(tmp_path / "captions.json")
    assert found == [("9", "9.jpg", ["first", "second"]), ("10", "10.jpg", ["third"])]


def test_a_file_that_is_no_captioner_is_refused(whole, tmp_path):
    with pytest.raises(NotFoundError):
        Captioner.load(tmp_path / "gone.safetensors")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(BadInputError, match="damaged or not a safetensors file"):
        Captioner.load(tmp_path / "junk")
    from felga.models.arrays import read_arrays, write_arrays

    arrays, about = read_arrays(whole, "captioner")
    arrays.pop("decoder.positions")
    write_arrays(tmp_path / "less", "captioner", arrays, {"shape": about["shape"]} | about)
    with pytest.raises(BadInputError, match=r"is not a captioner of felga \(.*positions"):
        Captioner.load(tmp_path / "less")
