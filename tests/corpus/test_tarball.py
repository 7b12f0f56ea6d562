"""Tar files against tarfile and GNU tar: the same members at the same places; hostile ones cost nothing."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felga.corpus.decode import UnreadableImage, read_file
from felga.corpus.inside import exists, read_member, split
from felga.corpus.tarball import DamagedTar, Member, members

FILES = {
    "a.jpg": b"one",
    "deep/er/b.jpg": b"x" * 512,
    "empty.txt": b"",
    f"long/{'n' * 240}.jpg": b"y" * 1025,
    f"{'folder/' * 40}c.jpg": b"z",
    "caf\xe9 ⛵.jpg": b"boat",
    os.fsdecode(b"latin-\xe9.jpg"): b"odd",
    "./dot.jpg": b"dot",
}
FORMATS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def write(path, files, form=tarfile.GNU_FORMAT, **more):
    with tarfile.open(path, "w", format=form, **more) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5
            tar.addfile(member, io.BytesIO(data))
    return path


def listed(path) -> list[Member]:
    with open(path, "rb") as file:
        return list(members(file))


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_those_of_tarfile(tmp_path, form):
    path = write(tmp_path / "a.tar", FILES, form)
    with tarfile.open(path) as tar:
        expected = [(os.path.normpath(one.name), one.offset_data, one.size) for one in tar if one.isfile()]
    assert [(name, offset, size) for name, offset, size, _ in listed(path)] == expected
    for name, data in FILES.items():
        assert read_member(path / os.path.normpath(name), 10_000) == data
        assert exists(path / name.removeprefix("./"))
    assert not exists(path / "none.jpg")
    assert not exists(tmp_path / "none.tar" / "a.jpg")


def test_members_written_by_gnu_tar_also_sparse_ones_and_links(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with open(folder / "sparse.jpg", "wb") as file:
        for at in range(1, 60, 2):  # more pieces than one header holds
            file.seek(at * 65536)
            file.write(b"piece")
    (folder / "sound.jpg").write_bytes(b"sound")
    os.link(folder / "sound.jpg", folder / "twin.jpg")
    (folder / "link.jpg").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.jpg")
    names = ["sparse.jpg", "link.jpg", "pipe.jpg", "sound.jpg", "twin.jpg"]
    for form in ("gnu", "pax"):
        path = tmp_path / f"{form}.tar"
        subprocess.run(["tar", "-S", f"--format={form}", "-C", folder, "-cf", path, *names], check=True)
        found = {os.path.basename(member.name): member.fault for member in listed(path)}
        assert found == {name: None if name == "sound.jpg" else "not a regular file" for name in names}
        assert read_member(path / "sound.jpg", 10) == b"sound"


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/passwd", "a/../../out.jpg", "..", "."])
def test_a_name_that_leads_out_is_never_a_member(tmp_path, name):
    path = write(tmp_path / "a.tar", {name: b"evil", "good.jpg": b"good"})
    found = listed(path)
    assert [member.fault is None for member in found] == [False, True]
    with pytest.raises(DamagedTar, match="no such file"):
        read_member(f"{path}/{found[0].name}", 100)


def test_a_folder_named_like_a_tar_is_a_folder(tmp_path):
    (tmp_path / "x.tar").mkdir()
    assert split(tmp_path / "x.tar" / "a.jpg") is None
    assert read_member(tmp_path / "x.tar" / "a.jpg", 100) is None
    with pytest.raises(UnreadableImage, match="No such file"):
        read_file(tmp_path / "x.tar" / "a.jpg")
    (tmp_path / "plain").touch()
    with pytest.raises(UnreadableImage, match="Not a directory"):
        read_file(tmp_path / "plain" / "a.jpg")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_says_what_to_do(tmp_path, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(DamagedTar, match="compressed.*unpack it"):
        listed(tmp_path / "a.tar")


def test_what_precedes_the_damage_is_read(tmp_path):
    path = write(tmp_path / "a.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})
    data = path.read_bytes()
    for cut, words in ((600, "cut off inside a.jpg"), (1700, "header at byte 1536"), (2100, "inside b.jpg")):
        path.write_bytes(data[:cut])
        found = []
        with open(path, "rb") as file, pytest.raises(DamagedTar, match=words):
            found.extend(members(file))
        if cut == 2100:
            assert read_member(path / "a.jpg", 1000) == b"a" * 600
    path.write_bytes(data[:1536] + b"Z" + data[1537:])
    with pytest.raises(DamagedTar, match="damaged: the header at byte 1536 is wrong"):
        listed(path)
    path.write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(DamagedTar, match="no tar file"):
        listed(path)


def header(kind: bytes, size: int, name: bytes = b"x") -> bytes:
    block = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136], block[156:157], block[148:156] = b"%011o\0" % size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_an_extended_header_is_bounded_and_chains_of_them_do_not_recurse(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(header(b"x", 2**32))
        file.truncate(2**33)
    with pytest.raises(DamagedTar, match="an extended header of 4294967296 bytes"):
        listed(path)
    path.write_bytes(header(b"x", 0) * 5000 + header(b"0", 0, b"end.jpg") + bytes(1024))
    assert [member.name for member in listed(path)] == ["end.jpg"]


@pytest.mark.parametrize(
    "record", [b"13 size=-512\n", b"99999 path=a\n", b"0 path=a\n", b"x", b"-5 path=a\n"]
)
def test_a_lying_extended_header_neither_loops_nor_escapes(tmp_path, record):
    path = tmp_path / "a.tar"
    block = record.ljust(512, b"\0")
    path.write_bytes(
        header(b"x", len(record)) + block + header(b"0", 3, b"a.jpg") + b"abc".ljust(512) + bytes(1024)
    )
    if b"size" in record:  # no number: ignored
        assert [(member.name, member.size) for member in listed(path)] == [("a.jpg", 3)]
    else:
        with pytest.raises(DamagedTar, match="the extended header at byte 0 is wrong"):
            listed(path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=8), st.integers(0, 6000))
def test_whatever_is_in_the_bytes_members_lie_inside_the_file(tmp_path_factory, changes, cut):
    folder = tmp_path_factory.getbasetemp()
    path = write(folder / "fuzz.tar", {"a.jpg": b"a" * 600, f"{'n' * 150}.jpg": b"b"}, tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at] = value
    path.write_bytes(data[:cut] if cut > 100 else data)
    size = path.stat().st_size
    with open(path, "rb") as file, suppress(DamagedTar):
        for member in members(file):
            assert 0 <= member.offset <= member.offset + member.size <= size


@pytest.mark.parametrize("form", FORMATS)
def test_sizes_beyond_eight_gigabytes(tmp_path, form):
    """In base 256 (GNU), or in an extended header (pax)."""
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("big.jpg")
    member.size = 9 * 2**30
    start = member.tobuf(form)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + member.size)
        file.seek(len(start) + member.size)
        file.write(header(b"0", 0, b"after.jpg") + bytes(1024))
    assert [(one.name, one.size) for one in listed(path)] == [("big.jpg", member.size), ("after.jpg", 0)]
    with pytest.raises(UnreadableImage, match=r"9663676416 bytes exceed the limit of 1073741824"):
        read_file(path / "big.jpg")


def test_a_prefix_is_part_of_a_ustar_name_and_a_time_in_gnu_tars(tmp_path):
    name = "folder/" * 30 + "a.jpg"
    path = write(tmp_path / "a.tar", {name: b"x"}, tarfile.USTAR_FORMAT)
    assert [member.name for member in listed(path)] == [name]
    (tmp_path / "b.jpg").write_bytes(b"x")
    more = ["--incremental", "--format=gnu", "-C", tmp_path, "-cf", tmp_path / "b.tar", "b.jpg"]
    subprocess.run(["tar", *more], check=True)
    assert (tmp_path / "b.tar").read_bytes()[345:350].isdigit(), "the time of the last access"
    assert [member.name for member in listed(tmp_path / "b.tar")] == ["b.jpg"]


def test_a_rewritten_tar_is_read_anew(tmp_path):
    path = write(tmp_path / "a.tar", {"a.jpg": b"old"})
    assert read_member(path / "a.jpg", 100) == b"old"
    write(path, {"0.jpg": b"x" * 1000, "a.jpg": b"new one"})
    assert read_member(path / "a.jpg", 100) == b"new one"
