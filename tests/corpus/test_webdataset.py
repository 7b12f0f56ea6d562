"""Tar shards: listed, read in place, indexed and brought up to date; laid out as img2dataset writes them."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from felga.corpus.decode import UnreadableImage
from felga.corpus.folder import FolderCorpus
from felga.corpus.webdataset import WebDataset
from felga.errors import BadInputError, NotFoundError
from felga.indexing import index
from felga.registry import make_corpus
from felga.testing.corpus import CorpusContract
from tests.made import CHEAP, counts, nothing_may_be_encoded

from .badpack import write_bad_pack
from .test_third_party import png, write_shard


def texts(listing):
    return {text.text_id: (text.image_id, text.text) for text in listing.texts}


def reasons(listing):
    return {item.item_id: item.reason for item in listing.bad}


def img2dataset(folder, shards, *, tars):
    """What `img2dataset --output_format webdataset` (or `files`) writes, three images a shard; one failed."""
    for shard in range(shards):
        name, rows, files = f"{shard:05d}", [], {}
        for at in range(4):
            key, caption = f"{shard:05d}{at:04d}", f"Picture {at} of shard {shard}"
            row = {
                "caption": caption,
                "url": f"http://h/{key}",
                "key": key,
                "status": "success",
                "exif": "{}",
            }
            if at == 2:
                row |= {"status": "failed_to_download", "error_message": "HTTP Error 404"}
            else:
                files[f"{key}.jpg"] = png(10 * shard + at)
                files[f"{key}.txt"] = caption.encode()
                files[f"{key}.json"] = json.dumps(row, indent=4).encode()
            rows.append(row)
        folder.mkdir(exist_ok=True)
        if tars:
            write_shard(folder / f"{name}.tar", files)
        else:
            (folder / name).mkdir()
            for file, data in files.items():
                (folder / name / file).write_bytes(data)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        (folder / f"{name}_stats.json").write_text(json.dumps({"count": 4, "successes": 3}))
    return folder


class TestContract(CorpusContract):
    @pytest.fixture
    def corpus(self, tmp_path):
        write_bad_pack(tmp_path / "pack")
        names = [name for name in os.listdir(tmp_path / "pack") if name != "pipe.jpg"]
        with tarfile.open(tmp_path / "00.tar", "w") as tar:
            for name in sorted(names):
                tar.add(tmp_path / "pack" / name, name)
        write_shard(
            tmp_path / "01.tar", {"a.png": png(1), "a.txt": b"One.", "alone.txt": b"Two.", "b.txt": b"\xe9"}
        )
        return make_corpus(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("pick", ["{}", "{}/{{00000..00001}}.tar", "{}/0000{{0,1}}.tar"])
def test_what_img2dataset_writes(tmp_path, pick):
    folder = img2dataset(tmp_path / "laion", 2, tars=True)
    corpus = make_corpus("webdataset:" + pick.format(folder))
    listing = corpus.scan()
    assert not listing.bad
    ids = [f"0000{shard}/0000{shard}000{at}" for shard in (0, 1) for at in (0, 1, 3)]
    assert [image.image_id for image in listing.images] == ids
    assert listing.images[0].path == "00000.tar/000000000.jpg"
    assert texts(listing)[ids[4]] == (ids[4], "Picture 1 of shard 1"), (
        "the same caption in txt and json is one"
    )
    assert len(listing.texts) == 6
    assert corpus.read(listing.images[4]) == png(11)


def test_img2dataset_files_are_a_folder(tmp_path):
    folder = img2dataset(tmp_path / "laion", 2, tars=False)
    listing = FolderCorpus(folder, "each").scan()
    assert texts(listing)["00001/000010003.jpg#0"] == ("00001/000010003.jpg", "Picture 3 of shard 1")
    assert len(listing.images) == len(listing.texts) == 6
    for file in folder.glob("*/*.txt"):
        file.unlink()
    assert FolderCorpus(folder, "each").scan() == listing, "the caption in the json is the same"


def test_captions_by_txt_then_caption_then_json_of_the_name_or_of_its_key(tmp_path):
    files = {
        "a.jpg": b"1", "a.txt": b"From txt.", "a.caption": b"no", "a.json": b'{"caption": "no"}',
        "b.webp": b"2", "b.caption": b"From caption.\nIts second line.", "b.json": b'{"caption": "no"}',
        "c.PNG": b"3", "c.json": b'{"width": 3, "caption": "From json."}',
        "d.left.jpg": b"4", "d.right.jpg": b"5", "d.json": b'{"captions": ["Of the key.", "Both."]}',
        "e.jpg": b"6", "e.json": b'{"width": 3}',
        "f.jpg": b"7", "f.json": b'{"caption": null}', "f.cls": b"7",
        "g/h.jpg": b"8", "g/h.txt": b"\xef\xbb\xbfDeep.",
        "alone.txt": b"Alone.", "unused.json": b"nonsense",
    }  # fmt: skip
    write_shard(tmp_path / "s.tar", files)
    listing = WebDataset(tmp_path).scan()
    assert texts(listing) == {
        "s/a": ("s/a", "From txt."),
        "s/b": ("s/b", "From caption. Its second line."),
        "s/c": ("s/c", "From json."),
        "s/d.left": ("s/d.left", "Of the key. Both."),
        "s/d.right": ("s/d.right", "Of the key. Both."),
        "s/g/h": ("s/g/h", "Deep."),
        "s/alone": (None, "Alone."),
    }
    assert [image.image_id for image in listing.images] == [
        f"s/{key}" for key in ("a", "b", "c", "d.left", "d.right", "e", "f", "g/h")
    ]
    assert not listing.bad
    assert texts(WebDataset(tmp_path, "each").scan())["s/b#1"] == ("s/b", "Its second line.")


def test_hostile_members_cost_themselves(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:

        def add(name, data=b"x", kind=tarfile.REGTYPE, link=""):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            tar.addfile(member, io.BytesIO(data))

        add("../out.jpg")
        add("/etc/out.jpg")
        add("link.jpg", b"", tarfile.SYMTYPE, "/etc/passwd")
        add("hard.txt", b"", tarfile.LNKTYPE, "/etc/passwd")
        add("a.jpg", b"first")
        add("a.png", b"second")
        add("a.json", b"[" * 100_000)
        add("b.jpg")
        add("b.txt", b"x" * (2**20 + 1))
        add("b.json", b'{"caption": 7}')
        add("c.jpg")
        add("c.json", b'{"caption": "\\ud800"}')
        add("d.jpg", b"")
        add("good.jpg", png(1))
    corpus = WebDataset(tmp_path / "s.tar")
    listing = corpus.scan()
    assert [image.image_id for image in listing.images] == ["s/a", "s/b", "s/c", "s/d", "s/good"]
    assert not listing.texts
    assert reasons(listing) == {
        "s.tar/../out.jpg": "its name leads out of the tar",
        "s.tar//etc/out.jpg": "its name leads out of the tar",
        "s.tar/link.jpg": "not a regular file",
        "s.tar/hard.txt": "not a regular file",
        "s.tar/a.png": "another image has the same key",
        "s.tar/a.json": "not json: nested too deeply",
        "s.tar/b.txt": "the file has 1048577 bytes, more than 1048576",
        "s.tar/b.json": "caption is a number, expected a string or a list of strings",
        "s.tar/c.json": r"caption is not valid Unicode: \ud800 at character 1 stands alone",
    }
    with pytest.raises(UnreadableImage, match="s/d is empty"):
        corpus.read(listing.images[3])


def test_broken_shards_leave_the_others(tmp_path):
    for name in ("a", "b", "c"):
        write_shard(tmp_path / f"{name}.tar", {"x.png": png(1), "y.png": png(2)})
    cut = (tmp_path / "b.tar").read_bytes()[: 512 + 50]
    (tmp_path / "b.tar").write_bytes(cut)
    (tmp_path / "d.tar").write_text("<html>404</html>" * 100)
    (tmp_path / "e.tar.gz").write_bytes(b"\x1f\x8b")
    os.mkfifo(tmp_path / "f.tar")
    (tmp_path / ".hidden.tar").touch()
    corpus = WebDataset(tmp_path)
    listing = corpus.scan()
    assert [image.image_id for image in listing.images] == ["a/x", "a/y", "c/x", "c/y"]
    found = reasons(listing)
    assert found["b.tar"].startswith("the tar is cut off inside x.png")
    assert found["d.tar"].startswith("the tar is no tar file")
    assert "unpack it to a plain .tar" in found["e.tar.gz"]
    assert found["f.tar"] == "the file cannot be read: not a regular file"
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UnreadableImage, match="a/x cannot be read"):
        corpus.read(listing.images[0])


def test_patterns_expand_as_in_a_shell_and_name_shards_that_are_there(tmp_path):
    for name in ("p8", "p9", "p10", "q8"):
        write_shard(tmp_path / f"{name}.tar", {"x.png": png(1)})

    def shards(pattern):
        return [image.path.split(".")[0] for image in WebDataset(f"{tmp_path}/{pattern}").scan().images]

    assert shards("p{8..10}.tar") == ["p10", "p8", "p9"], "sorted by id"
    assert shards("{p,q}8.tar") == ["p8", "q8"]
    assert shards("{p{8..9},q8}.tar") == ["p8", "p9", "q8"]
    assert shards("q8.tar") == ["q8"]
    with pytest.raises(NotFoundError, match=r"1 of 4 shards are missing from .* such as p11.tar"):
        shards("p{8..11}.tar")
    for pattern, words in (
        ("p{9..8}.tar", "no range"),
        ("p{x}.tar", "neither a range"),
        ("p{0..999999999}.tar", "more than 100000 shards"),
        ("p{8..9}.tar.gz", "p8.tar.gz is no tar shard"),
    ):
        with pytest.raises(BadInputError, match=words):
            WebDataset(f"{tmp_path}/{pattern}")
    for gone in ("none.tar", "none", "none/{0..1}.tar"):
        with pytest.raises(NotFoundError, match="does not exist"):
            WebDataset(tmp_path / gone)
    with pytest.raises(BadInputError, match="webdataset needs tar shards"):
        make_corpus("webdataset:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no .tar file"):
        WebDataset(tmp_path / "empty").scan()


def test_a_folder_of_shards_says_what_to_type(tmp_path):
    img2dataset(tmp_path / "laion", 2, tars=True)
    with pytest.raises(BadInputError, match=r"no image but 2 tar files.* webdataset:.*laion"):
        FolderCorpus(tmp_path / "laion").scan()
    with pytest.raises(BadInputError, match=r"webdataset:.*00000.tar"):
        FolderCorpus(tmp_path / "laion" / "00000.tar")
    with pytest.raises(NotFoundError, match=r"'webdataset:.*00000..00001}.tar'"):
        FolderCorpus(tmp_path / "laion" / "{00000..00001}.tar")
    (tmp_path / "laion" / "a.png").write_bytes(png(1))
    assert len(FolderCorpus(tmp_path / "laion").scan().images) == 1


@pytest.fixture
def laion(tmp_path, toy):
    img2dataset(tmp_path / "laion", 2, tars=True)
    return tmp_path / "laion", tmp_path / "out"


def sync(laion, **more):
    return counts(index(WebDataset(laion[0]), laion[1], CHEAP, **more).images)


def test_a_sync_encodes_what_changed_alone(laion, monkeypatch):
    folder, _ = laion
    assert sync(laion) == {"added": 6}
    with monkeypatch.context() as patch:
        patch.setattr(WebDataset, "read", lambda self, item: pytest.fail(f"{item} read again"))
        assert sync(laion) == {"unchanged": 6}, "no image is read while no shard changed"
    with monkeypatch.context() as patch:
        nothing_may_be_encoded(patch)
        os.utime(folder / "00000.tar", (1, 1))
        assert sync(laion) == {"unchanged": 6}, "touched: hashed, not encoded"
        (folder / "00000.tar").rename(folder / "00007.tar")
        assert sync(laion) == {"renamed": 3, "unchanged": 3}
        shutil.move(folder / "00007.tar", folder / "00000.tar")
        assert sync(laion) == {"renamed": 3, "unchanged": 3}
    with tarfile.open(folder / "00001.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("empty.png"))
    assert sync(laion) == {"added": 1, "unchanged": 6, "quarantined": 1}


def test_another_shard_of_the_same_time_and_members_of_the_same_size_is_noticed(laion):
    """As rsync --times leaves it; only the size of the shard tells."""
    folder, _ = laion
    path = folder / "00000.tar"
    sync(laion)
    before = path.stat()
    with tarfile.open(path) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}
    first, second = files["000000000.jpg"], files["000000001.jpg"]
    assert first != second
    files["000000001.jpg"] = second[:-1] + b"\0"
    files["z.txt"] = b"x" * 20_000
    write_shard(path, files)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sync(laion) == {"changed": 1, "unchanged": 5}
    (folder / "00001.tar").unlink()
    assert sync(laion)["removed"] == 3
    path.unlink()
    write_shard(folder / "9.tar", {"a.png": png(99)})
    with pytest.raises(BadInputError, match="--prune"):
        sync(laion)
    assert sync(laion, prune=True)["removed"] == 3
