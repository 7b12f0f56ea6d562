"""What a probe says, against what indexing then takes."""

from __future__ import annotations

import tempfile

import pytest

from felga.corpus.folder import FolderCorpus
from felga.corpus.items import ImageItem, make_listing
from felga.errors import BadInputError
from felga.indexing.probe import PROBED, forecast_job
from felga.search.approximate import factory_for
from felga.store.manifest import read_manifest
from tests.made import CHEAP, run, write


@pytest.fixture
def corpus(tmp_path, toy, monkeypatch):
    folder = tmp_path / "corpus"
    write(folder, [f"p{i:03d}" for i in range(150)])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return folder


class Many:
    """A corpus of one image under many names; which were read is in ``seen``."""

    kind = "many"

    def __init__(self, folder, count):
        self.root, self._count, self.seen = folder, count, set()
        self._image = (folder / "p000.png").read_bytes()

    def settings(self):
        return {}

    def scan(self):
        names = (f"{n:06d}" for n in range(self._count))
        return make_listing((ImageItem(name, name, len(self._image), 1) for name in names), [], [])

    def read(self, item):
        self.seen.add(int(item.image_id))
        return self._image


def test_the_forecast_is_near_what_indexing_takes(corpus, tmp_path):
    found = forecast_job(FolderCorpus(corpus), CHEAP)
    report = run(corpus, tmp_path / "index")
    manifest = read_manifest(tmp_path / "index")
    assert (found.images, found.texts, found.probed_images, found.probed_texts) == (150, 150, 100, 100)
    assert found.regions == report.images.fragments
    assert found.keywords == pytest.approx(report.texts.fragments, rel=0.02)
    assert found.disk_bytes == pytest.approx(sum(file.size for file in manifest.files.values()), rel=0.1)
    assert 0 < found.seconds["total"] < 100 * report.seconds["total"]
    assert found.memory_bytes > 0
    assert found.approximate is None


def test_nothing_is_left_behind(corpus, tmp_path):
    before = sorted(corpus.iterdir())
    forecast_job(FolderCorpus(corpus), CHEAP)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(corpus.iterdir()) == before


def test_few_images_of_a_large_corpus_are_read_from_all_of_it(corpus):
    many = Many(corpus, 60_000)
    found = forecast_job(many, CHEAP)
    assert len(many.seen) <= PROBED + 8
    assert min(many.seen) == 0
    assert max(many.seen) > 59_000
    small = forecast_job(Many(corpus, 600), CHEAP)
    assert found.regions == 100 * small.regions
    assert small.approximate is None
    assert found.approximate == factory_for(found.regions, 8) is not None
    assert found.disk_bytes > 20 * small.disk_bytes


def test_unreadable_images_are_counted(corpus):
    for name in ("p000", "p003"):
        (corpus / f"{name}.png").write_bytes(b"junk")
    assert forecast_job(FolderCorpus(corpus), CHEAP).unreadable == 2


def test_an_empty_corpus_is_refused(tmp_path, toy):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no image and no text"):
        forecast_job(FolderCorpus(tmp_path / "empty"), CHEAP)


def test_a_corpus_of_texts_alone_is_forecast(tmp_path, toy):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("A boat on a lake.\n")
    found = forecast_job(FolderCorpus(tmp_path / "texts"), CHEAP)
    assert (found.images, found.texts, found.regions) == (0, 1, 0)
    assert found.keywords > 0
