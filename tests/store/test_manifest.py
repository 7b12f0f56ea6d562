"""A manifest is checked field by field: whatever is changed in it, felga says so and exits with 4."""

from __future__ import annotations

import json
import os

import pytest

from felga.engine import Engine
from felga.errors import BadIndexError
from felga.store.manifest import differences, read_manifest, signed, summary
from felga.store.verify import verify
from tests.made import run, write

VALUES = ("text", "../../x", "", -1, 0, 1.5, 10**30, True, None, [], {}, ["x"], {"x": 1}, [[]])


@pytest.fixture(scope="module")
def made(tmp_path_factory, toy_site):
    """A small index; not to be written to."""
    base = tmp_path_factory.mktemp("manifest")
    patched = pytest.MonkeyPatch()
    patched.syspath_prepend(str(toy_site))
    write(base / "corpus", ["a", "b"])
    run(base / "corpus", base / "index")
    yield base / "index"
    patched.undo()


def places(value, path=()):
    """The path of every value inside a json value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def changed(data, path, new):
    data = json.loads(json.dumps(data))
    at = data
    for key in path[:-1]:
        at = at[key]
    if new is KeyError:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return data


def mutations(data):
    for path in places(data):
        if path and path != ("sha256",):
            for value in (KeyError, *VALUES):
                yield path, value, changed(data, path, value)


def answer(folder) -> None:
    Engine.open(folder, device="cpu").search("p")
    _, wrong = verify(folder)
    if wrong:
        raise BadIndexError(wrong[0])


def test_every_change_that_is_not_signed_is_refused(made):
    path = made / "manifest.json"
    whole = path.read_bytes()
    data = json.loads(whole)
    tried = 0
    try:
        for where, value, other in mutations(data):
            if other == data:
                continue
            path.write_text(json.dumps(other))
            with pytest.raises(BadIndexError):
                read_manifest(made)
            tried += 1
            assert where, value
    finally:
        path.write_bytes(whole)
    assert tried > 500


def test_a_signed_change_is_refused_or_harmless_and_never_a_bug(made):
    """A stranger can sign: then every type and range is checked, and what is left is sound or exit code 4."""
    path = made / "manifest.json"
    whole = path.read_bytes()
    data = json.loads(whole)
    accepted = set()
    try:
        for where, _, other in mutations(data):
            if other == data:
                continue
            path.write_text(json.dumps(signed(other)))
            try:
                answer(made)
            except BadIndexError:
                continue
            accepted.add(where[0])
    finally:
        path.write_bytes(whole)
    assert accepted <= {"contract", "corpus", "encoder", "felga", "errors"}


def test_bytes_that_are_no_manifest(made):
    path = made / "manifest.json"
    whole = path.read_bytes()
    try:
        for content in (b"", b"{", b"[" * 200_000, b"\xff\xfe", b"[]", b"null", b"1" * 5000, whole[:-2]):
            path.write_bytes(content)
            with pytest.raises(BadIndexError):
                read_manifest(made)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(BadIndexError, match="not a regular file"):
            Engine.open(made)
        with pytest.raises(BadIndexError, match="not a regular file"):
            read_manifest(made)
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_differences_are_short():
    a = {"name": "x", "weights": {"net": "a" * 64}, "top": 1}
    b = {"name": "x", "weights": {"net": "b" * 64}, "top": 2}
    assert differences(a, b) == ["top is 1, expected 2", f"weights.net is {'a' * 12}, expected {'b' * 12}"]
    assert summary(["a", "b", "c"], most=2) == "a; b; and 1 more"
    assert summary(["a", "b"], most=2) == "a; b"
