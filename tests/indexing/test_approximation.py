"""The approximate search of an index: when it is built, what its manifest says, what a sync leaves of it."""

from __future__ import annotations

import pytest

from felga.engine import Engine
from felga.errors import BadIndexError, BadInputError
from felga.indexing import apply_fenet
from felga.store import pieces
from felga.store.manifest import read_manifest
from felga.store.verify import verify
from tests.made import files_of, run, train_fenet, write

IMAGES, FACTORY = 60, "IVF4,Flat"


@pytest.fixture
def made(tmp_path, toy, monkeypatch):
    """A corpus of sixty images, and where its index goes: regions in some ten files."""
    monkeypatch.setattr(pieces, "EVERY", 6)
    folder = tmp_path / "corpus"
    write(folder, [f"p{i:02d}" for i in range(IMAGES)])
    return folder, tmp_path / "index"


def ranked(out, **how):
    with Engine.open(out, device="cpu") as engine:
        words = ["red", "a blue car", "colours", "nothing"]
        return [[(hit.image_id, hit.score) for hit in hits] for hits in engine.search_all(words, **how)]


def test_recall_is_measured_and_written_down(made):
    folder, out = made
    report = run(folder, out, index=FACTORY, min_recall=0.9)
    entry = read_manifest(out).approximate
    assert (entry.asked, entry.factory, entry.queries) == (FACTORY, FACTORY, 256)
    assert 0.9 == entry.min_recall <= entry.recall <= 1
    assert entry.pieces == read_manifest(out).images.pieces
    assert report.seconds["approximate"] > 0
    assert verify(out)[1] == []
    exact, found = ranked(out, exact=True), ranked(out)
    shares = [len({*a} & {*b}) / 10 for a, b in zip(exact, found, strict=True)]
    assert sum(shares) / len(shares) >= 0.7
    assert exact == [hits[:10] for hits in ranked(out, k=IMAGES, exact=True)]


def test_it_is_kept_while_it_fits_and_what_it_does_not_know_is_found(made):
    folder, out = made
    run(folder, out, index=FACTORY)
    first, before = read_manifest(out).approximate, files_of(out)
    run(folder, out)
    assert files_of(out) == before
    write(folder, ["new"])
    (folder / "p00.png").unlink()
    (folder / "p00.txt").unlink()
    run(folder, out)
    assert read_manifest(out).approximate == first
    exact, found = ranked(out, k=IMAGES, exact=True), ranked(out, k=IMAGES)
    for hits, own in zip(exact, found, strict=True):
        assert dict(own).items() <= dict(hits).items()
        assert "new.png" in dict(own)
        assert "p00.png" not in dict(own)
    assert verify(out)[1] == []


def test_it_is_built_anew_when_a_fifth_has_changed_or_something_else_is_asked(made):
    folder, out = made
    run(folder, out, index=FACTORY)
    first = read_manifest(out).approximate
    write(folder, [f"p{i:02d}" for i in range(30)], seed=1)
    run(folder, out)
    second = read_manifest(out).approximate
    assert second.file != first.file
    assert second.pieces == read_manifest(out).images.pieces
    run(folder, out, min_recall=0.5)
    third = read_manifest(out).approximate
    assert (third.file, third.min_recall) == (second.file, 0.5)
    run(folder, out, index="SQ8")
    assert read_manifest(out).approximate.factory == "SQ8"
    run(folder, out, index="flat")
    assert read_manifest(out).approximate is None
    assert not [name for name in read_manifest(out).files if name.startswith("approximate")]
    run(folder, out)
    assert read_manifest(out).approximate is None


def test_auto_leaves_a_small_index_exact(made):
    folder, out = made
    run(folder, out, index="auto")
    assert read_manifest(out).approximate is None


def test_a_recall_out_of_reach_is_said_and_the_index_is_exact(made, monkeypatch):
    folder, out = made
    monkeypatch.setattr(
        "felga.indexing.approximation.depths", lambda searcher, n: [type(searcher.depth)(1, 1)]
    )
    with pytest.raises(BadInputError, match=r"finds 0\.\d+ of the ten best images at most, 1 was asked for"):
        run(folder, out, index=FACTORY, min_recall=1.0)
    assert read_manifest(out).approximate is None
    assert list(out.glob("approximate-*")) == []
    assert len(ranked(out)[0]) == 10
    assert verify(out)[1] == []


@pytest.mark.parametrize(
    ("how", "wrong"),
    [({"index": "IVF0,Nonsense"}, "by 'IVF0,Nonsense'"), ({"min_recall": 0.0}, "min_recall must lie"),
     ({"index": FACTORY, "min_recall": 1.5}, "min_recall must lie")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_encoded(made, how, wrong, monkeypatch):
    from tests.made import nothing_may_be_encoded

    folder, out = made
    nothing_may_be_encoded(monkeypatch)
    with pytest.raises(BadInputError, match=wrong):
        run(folder, out, **how)


def test_damaged_codes_are_made_again(made):
    folder, out = made
    run(folder, out, index=FACTORY)
    entry = read_manifest(out).approximate
    path = out / entry.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadIndexError, match=f"{entry.file} was changed"):
        Engine.open(out)
    run(folder, out)
    assert read_manifest(out).approximate.file == entry.file
    assert verify(out)[1] == []


def test_another_fenet_gets_codes_of_its_own(made, tmp_path):
    folder, out = made
    run(folder, out, index=FACTORY)
    first = read_manifest(out).approximate
    apply_fenet(out, train_fenet(out, tmp_path / "fenet.safetensors"), device="cpu")
    second = read_manifest(out).approximate
    assert second.factory == first.factory
    assert second.file != first.file
    assert verify(out)[1] == []
    assert len(ranked(out)[0]) == 10
