"""VectorCache: round trips, misses instead of errors, bounded size, concurrent processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from felga.models.cache import VectorCache

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(3, 8)).astype(np.float32)
KEYS = ["boat", "a red\nbus", "caf\udce9"]


@pytest.fixture
def cache(tmp_path):
    return VectorCache(tmp_path)


def entries(cache):
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_another_process_reads_what_was_put(cache, tmp_path):
    cache.put(KEYS, VECTORS)
    code = (
        "import sys; from pathlib import Path; from felga.models.cache import VectorCache\n"
        "(v,) = VectorCache(Path(sys.argv[1])).get(['boat'])\n"
        "assert 'torch' not in sys.modules\n"
        "print(v.tobytes().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == VECTORS[0].tobytes().hex()


def test_unknown_keys_are_none_in_order(cache):
    cache.put(KEYS, VECTORS)
    kept = cache.get(["no", KEYS[2], KEYS[0], "zebra"])
    assert kept[0] is None
    assert kept[3] is None
    np.testing.assert_array_equal(kept[1], VECTORS[2])
    np.testing.assert_array_equal(kept[2], VECTORS[0])
    kept[2][:] = 0  # a copy of its own
    np.testing.assert_array_equal(cache.get([KEYS[0]])[0], VECTORS[0])


@pytest.mark.parametrize("shape", [(), (0,), (5,), (20, 7), (2, 3, 4)])
def test_any_shape_comes_back(cache, shape):
    array = RNG.normal(size=shape).astype(np.float32)
    cache.put(["x"], [array])
    (kept,) = cache.get(["x"])
    assert kept.shape == shape
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, array)


def test_a_later_put_replaces_an_earlier_one(cache):
    cache.put(["x"], VECTORS[:1])
    cache.put(["x"], VECTORS[1:2])
    np.testing.assert_array_equal(cache.get(["x"])[0], VECTORS[1])
    assert len(entries(cache)) == 1


def test_as_many_vectors_as_keys(cache):
    with pytest.raises(ValueError, match="shorter"):
        cache.put(KEYS, VECTORS[:2])


def test_every_flipped_byte_is_a_miss(cache):
    cache.put(["x"], VECTORS[:1])
    (path,) = entries(cache)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert cache.get(["x"]) == [None], at
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert cache.get(["x"]) == [None], length
    cache.put(["x"], VECTORS[:1])  # and is mended by the next put
    np.testing.assert_array_equal(cache.get(["x"])[0], VECTORS[0])


def test_an_entry_under_another_name_is_a_miss(cache):
    cache.put(["x", "y"], VECTORS[:2])
    one, two = entries(cache)
    one.write_bytes(two.read_bytes())
    assert sum(kept is None for kept in cache.get(["x", "y"])) == 1


@pytest.mark.parametrize("obstacle", ["file", "fifo", "folder"])
def test_a_path_that_is_no_entry_is_a_miss(cache, obstacle):
    cache.put(["x"], VECTORS[:1])
    (path,) = entries(cache)
    path.unlink()
    if obstacle == "fifo":
        os.mkfifo(path)  # reading it would block
        assert cache.get(["x"]) == [None]
        return
    if obstacle == "folder":
        path.mkdir()
    else:
        path.parent.rmdir()
        path.parent.write_text("in the way")
    assert cache.get(["x"]) == [None]
    cache.put(["x"], VECTORS[:1])
    assert cache.get(["x"]) == [None]


def test_a_folder_that_cannot_be_made_is_a_miss():
    cache = VectorCache(Path("/proc/felga"))
    cache.put(KEYS, VECTORS)
    assert cache.get(KEYS) == [None] * 3


def test_a_full_disk_leaves_no_part(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("felga.models.cache.os.replace", full)
    cache.put(KEYS, VECTORS)
    assert entries(cache) == []
    assert cache.get(KEYS) == [None] * 3


def test_size_is_bounded_and_recent_entries_stay(tmp_path):
    cache = VectorCache(tmp_path, capacity=16 * 4000)
    vectors = RNG.normal(size=(600, 100)).astype(np.float32)  # 540 bytes each, 324 kB in all
    keys = [str(i) for i in range(600)]
    for at, (key, vector) in enumerate(zip(keys, vectors, strict=True)):
        cache.put([key], [vector])
        os.utime(cache._path(_hash(key)), (at, at))
        if at > 0:
            assert cache.get(keys[:1])[0] is not None, at  # used all the time: never the oldest
    assert sum(path.stat().st_size for path in entries(cache)) <= 16 * 4000
    assert [kept is not None for kept in cache.get(keys[-20:])] == [True] * 20
    assert cache.get(keys[1:2]) == [None]


def _hash(key):
    import hashlib

    return hashlib.sha256(key.encode()).hexdigest()


def test_an_entry_beyond_the_bound_is_not_kept(tmp_path):
    cache = VectorCache(tmp_path, capacity=16 * 1000)
    cache.put(["small", "large"], [np.ones(10, np.float32), np.ones(10_000, np.float32)])
    small, large = cache.get(["small", "large"])
    assert small is not None
    assert large is None


def test_processes_that_write_the_same_keys_never_see_half_an_entry(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from felga.models.cache import VectorCache\n"
        "cache, own = VectorCache(Path(sys.argv[1])), float(sys.argv[2])\n"
        "for _ in range(60):\n"
        "    cache.put(list('abc'), np.full((3, 2000), own, np.float32))\n"
        "    for kept in cache.get(list('abc')):\n"
        "        assert kept is not None and len(set(kept.tolist())) == 1\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE) for i in range(3)]
    assert [writer.communicate()[1] for writer in writers] == [b""] * 3
    assert len(entries(VectorCache(tmp_path))) == 3


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"FELGA_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c/vectors"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/felga/vectors"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/felga/vectors"),
        ({"FELGA_CACHE": "", "HOME": "/h"}, "/h/.cache/felga/vectors"),
    ],
)
def test_where_it_lives(monkeypatch, variables, folder):
    for name in ("FELGA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(VectorCache().folder) == folder
