"""Parquet shards as img2dataset writes them: listed, read in place, indexed and brought up to date."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from felga.corpus.decode import UnreadableImage, read_file
from felga.corpus.inside import exists
from felga.corpus.parquet import ParquetShards
from felga.errors import BadInputError, NotFoundError
from felga.indexing import index
from felga.registry import make_corpus
from felga.testing.corpus import CorpusContract
from tests.made import CHEAP, counts, nothing_may_be_encoded

from .test_third_party import png
from .test_webdataset import img2dataset, reasons, texts

ROW = {"url": "http://h", "key": "", "status": "success", "error_message": None, "width": 64, "height": 48}


def row(key, image, caption="A boat.", **more):
    return {**ROW, "key": key, "caption": caption, "jpg": image, **more}


def write(path, rows, **how):
    pq.write_table(pa.Table.from_pylist(rows), path, **how)
    return path


def shards(folder, count=2, size=4):
    """What ``img2dataset --output_format parquet`` writes: rows in the order of arrival, groups of rows."""
    folder.mkdir(exist_ok=True)
    for shard in range(count):
        rows = []
        for at in reversed(range(size)):
            key = f"{shard:05d}{at:04d}"
            failed = {"status": "failed_to_download", "error_message": "HTTP Error 404"} if at == 2 else {}
            rows.append(
                row(key, None if failed else png(10 * shard + at), f"Image {at} of shard {shard}", **failed)
            )
        write(folder / f"{shard:05d}.parquet", rows, row_group_size=3)
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


class TestContract(CorpusContract):
    @pytest.fixture
    def corpus(self, tmp_path):
        shards(tmp_path / "in")
        odd = [row("bad", b"not an image"), row("none", None), row("empty", b""), row(None, png(1))]
        write(tmp_path / "in" / "odd.parquet", odd)
        return make_corpus(f"parquet:{tmp_path / 'in'}")


@pytest.mark.parametrize("pick", ["{}", "{}/{{00000..00001}}.parquet"])
def test_what_img2dataset_writes(tmp_path, pick):
    corpus = make_corpus("parquet:" + pick.format(shards(tmp_path / "laion")))
    listing = corpus.scan()
    ids = [f"0000{shard}/0000{shard}000{at}" for shard in (0, 1) for at in (0, 1, 3)]
    assert [image.image_id for image in listing.images] == ids
    assert listing.images[0].path == "00000.parquet/000000000.jpg"
    assert texts(listing)[ids[4]] == (ids[4], "Image 1 of shard 1")
    assert len(listing.texts) == 6, "what was not downloaded has no caption either"
    failed = "img2dataset reports failed_to_download: HTTP Error 404"
    assert reasons(listing) == {f"0000{shard}/0000{shard}0002": failed for shard in (0, 1)}
    for image in listing.images:
        shard, at = int(image.image_id[4]), int(image.image_id[-1])
        assert corpus.read(image) == png(10 * shard + at)
    assert exists(corpus.root / listing.images[0].path)
    assert not exists(corpus.root / "00000.parquet" / "9.jpg")
    assert not exists(corpus.root / "00009.parquet" / "000000000.jpg")


def test_listing_reads_no_image(tmp_path):
    """Memory and time of a scan do not depend on the images: they are not even decompressed."""
    rng = np.random.default_rng(0)
    rows = [row(f"{at:03d}", rng.bytes(200_000)) for at in range(100)]
    path = write(tmp_path / "0.parquet", rows, row_group_size=50)
    data = bytearray(path.read_bytes())
    for group in range(2):
        about = pq.read_metadata(path).row_group(group)
        (column,) = (
            about.column(at) for at in range(about.num_columns) if about.column(at).path_in_schema == "jpg"
        )
        at = column.dictionary_page_offset or column.data_page_offset
        data[at : at + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    tracemalloc.start()
    listing = ParquetShards(path).scan()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(listing.images) == 100
    assert peak < 4_000_000
    with pytest.raises(UnreadableImage, match="0/000 cannot be read: "):
        ParquetShards(path).read(listing.images[0])


def test_reading_an_image_holds_a_few_of_its_row_group(tmp_path):
    rng = np.random.default_rng(0)
    rows = [row(f"{at:03d}", rng.bytes(400_000)) for at in range(200)]
    write(tmp_path / "0.parquet", rows, write_batch_size=4)  # as small as the pages of a real file
    corpus = ParquetShards(tmp_path)
    items = corpus.scan().images
    default = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    pa.set_memory_pool(pool)
    try:
        assert corpus.read(items[199]) == rows[199]["jpg"]
    finally:
        pa.set_memory_pool(default)
    assert 400_000 < pool.max_memory() < 20_000_000, "the row group has 80 MB"


def test_captions_are_strings_or_lists(tmp_path):
    write(
        tmp_path / "a.parquet", [row("1", b"x", ["One.", "Two."]), row("2", b"x", None), row("3", b"x", [])]
    )
    write(tmp_path / "b.parquet", [{"key": 4, "webp": b"x", "caption": 7}, {"key": 5, "webp": b"x"}])
    listing = ParquetShards(tmp_path, "each").scan()
    assert texts(listing) == {"a/1#0": ("a/1", "One."), "a/1#1": ("a/1", "Two.")}
    assert [image.path for image in listing.images][-2:] == ["b.parquet/4.webp", "b.parquet/5.webp"]
    assert reasons(listing) == {"b/4": "caption is 7, expected a string or a list of strings"}


def test_odd_rows_cost_themselves(tmp_path):
    rows = [
        row("good", png(1)),
        row("gone", None),
        row("good", png(2)),
        row(None, png(3)),
        row("", png(3)),
        row("../../etc/passwd", png(4)),
        row("empty", b""),
        row("nul\0", png(5)),
        row("unsaid", png(7), status=None),
        row("late", png(6), status="failed_to_resize", error_message="image decoding error"),
    ]
    corpus = ParquetShards(write(tmp_path / "s.parquet", rows))
    listing = corpus.scan()
    assert [image.image_id for image in listing.images] == ["s/empty", "s/gone", "s/good", "s/unsaid"]
    assert reasons(listing) == {
        "s/good": "another text has the same id",  # and another image
        "s.parquet:4": "its key is None",
        "s.parquet:5": "its key is ''",
        "s.parquet:6": "its key is '../../etc/passwd'",
        "s.parquet:8": "its key is 'nul\\x00'",
        "s/late": "img2dataset reports failed_to_resize: image decoding error",
    }
    empty, gone, good, _ = listing.images
    assert corpus.read(good) == png(1), "of two of a key, the first"
    with pytest.raises(UnreadableImage, match="s/gone cannot be read: its row holds no image"):
        corpus.read(gone)
    with pytest.raises(UnreadableImage, match="s/empty is empty"):
        corpus.read(empty)
    with pytest.raises(UnreadableImage, match="such image in the parquet file"):
        read_file(tmp_path / "s.parquet" / "none.jpg")


def test_damaged_files_leave_the_others(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.parquet", [row("x", png(1)), row("y", png(2))])
    sound = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(sound[: len(sound) // 2])
    (tmp_path / "d.parquet").write_text("<html>404</html>" * 100)
    (tmp_path / "e.parquet").touch()
    os.mkfifo(tmp_path / "f.parquet")
    write(tmp_path / "g.parquet", [{"key": "a", "jpg": "text"}])
    write(tmp_path / "h.parquet", [{"jpg": b"x"}])
    (tmp_path / ".hidden.parquet").touch()
    corpus = ParquetShards(tmp_path)
    listing = corpus.scan()
    assert [image.image_id for image in listing.images] == ["a/x", "a/y", "c/x", "c/y"]
    found = reasons(listing)
    for name in "bde":
        assert found[f"{name}.parquet"].startswith("the parquet file cannot be read: "), found
    assert found["f.parquet"] == "the file cannot be read: not a regular file"
    assert "its column jpg holds string, expected the bytes of images" in found["g.parquet"]
    assert "has no column key" in found["h.parquet"]
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(UnreadableImage, match="a/x cannot be read"):
        corpus.read(listing.images[0])


def test_cut_files_and_flipped_bytes_raise_nothing_but_reasons(tmp_path):
    path = write(tmp_path / "s.parquet", [row("x", png(1)), row("y", png(2))], compression="snappy")
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(4, len(sound), 150).tolist():
        for data in (sound[:at], sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :]):
            path.write_bytes(data)
            os.utime(path, ns=(at, at))
            corpus = ParquetShards(path)
            with suppress(BadInputError):  # a FelgaError is a sentence; anything else fails
                for image in corpus.scan().images:
                    with suppress(UnreadableImage):
                        corpus.read(image)


def test_what_is_no_shard_of_images_is_said(tmp_path):
    img2dataset(tmp_path / "laion", 1, tars=True)
    with pytest.raises(
        BadInputError, match=r"no image: of 00000.parquet, .*00000.tar beside it is read as webd"
    ):
        ParquetShards(tmp_path / "laion").scan()
    with pytest.raises(BadInputError, match="parquet needs parquet shards"):
        make_corpus("parquet:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no .parquet file"):
        ParquetShards(tmp_path / "empty").scan()
    for gone in ("none.parquet", "none/{0..1}.parquet"):
        with pytest.raises(NotFoundError, match="does not exist"):
            ParquetShards(tmp_path / gone)
    with pytest.raises(BadInputError, match="00000.tar is no parquet shard"):
        ParquetShards(tmp_path / "laion" / "00000.tar")


def test_a_sync_encodes_what_changed_alone(tmp_path, toy, monkeypatch):
    folder, out = shards(tmp_path / "laion"), tmp_path / "out"

    def sync():
        return counts(index(ParquetShards(folder), out, CHEAP).images)

    assert sync() == {"added": 6, "quarantined": 2}
    with monkeypatch.context() as patch:
        patch.setattr(ParquetShards, "read", lambda self, item: pytest.fail(f"{item} read again"))
        assert sync() == {"unchanged": 6, "quarantined": 2}, "no image is read while no shard changed"
    with monkeypatch.context() as patch:
        nothing_may_be_encoded(patch)
        os.utime(folder / "00000.parquet", (1, 1))
        assert sync() == {"unchanged": 6, "quarantined": 2}, "touched: hashed, not encoded"
        shutil.move(folder / "00000.parquet", folder / "00007.parquet")
        assert sync() == {"renamed": 3, "unchanged": 3, "quarantined": 2}
    rows = pq.read_table(folder / "00007.parquet").to_pylist()
    (first, *_) = (one for one in rows if one["jpg"])
    first["jpg"] = png(99)
    write(folder / "00007.parquet", rows)
    assert sync() == {"changed": 1, "unchanged": 5, "quarantined": 2}
