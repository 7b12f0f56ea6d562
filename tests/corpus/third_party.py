"""Throw-away packages of third parties, installed as pip lays them out: corpora that are no folders."""

from __future__ import annotations

from pathlib import Path

TAR = '''
"""A shard of a web dataset: NAME.jpg or NAME.png in a tar file, with captions in NAME.txt."""
import os
import tarfile
import threading
from pathlib import Path

from felga.corpus.decode import UnreadableImage
from felga.corpus.items import BadItem, ImageItem, make_listing, texts_of
from felga.errors import BadInputError, NotFoundError


class TarCorpus:
    kind = "tar"

    def __init__(self, path, texts):
        self.root = Path(path).absolute()
        self._texts = texts
        self._lock = threading.Lock()
        try:
            self._tar = tarfile.open(self.root)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path} does not exist: name a tar file") from error
        except tarfile.TarError as error:
            raise BadInputError(f"{path} is not a tar file: {error}") from error

    def settings(self):
        return {"texts": self._texts}

    def scan(self):
        images, texts, bad = [], [], []
        for member in self._tar.getmembers():
            name, (stem, suffix) = member.name, os.path.splitext(member.name)
            if suffix in (".jpg", ".png"):
                images.append(ImageItem(name, name, member.size, int(member.mtime * 10**9)))
            elif suffix == ".txt":
                try:
                    lines = self._tar.extractfile(member).read().decode().split("\\n")
                except UnicodeDecodeError as error:
                    bad.append(BadItem("text", name, name, str(error)))
                else:
                    texts += texts_of(lines, stem, f"{stem}.jpg", self._texts)
        return make_listing(images, texts, bad)

    def read(self, item):
        with self._lock:
            try:
                return self._tar.extractfile(item.path).read()
            except (KeyError, tarfile.TarError) as error:
                raise UnreadableImage(f"{item.path}: {error}") from error


def tar(argument, *, texts):
    return TarCorpus(argument, texts)
'''

SLOPPY = '''
"""A corpus that keeps no rule of a listing: unsorted, doubled, unstorable."""
from felga.corpus.items import BadItem, ImageItem, Listing, TextItem
from felga.errors import BadInputError


class Sloppy:
    kind = "sloppy"

    def __init__(self, folder):
        from pathlib import Path
        self.root = Path(folder).absolute()

    def settings(self):
        return {}

    def scan(self):
        names = sorted((path.name for path in self.root.glob("*.png")), reverse=True)
        good = [ImageItem(name, name, (self.root / name).stat().st_size, 10**30) for name in names]
        wrong = [
            good[0],
            ImageItem("half\\ud800", "a.png", 1, 1),
            ImageItem("nul", "a\\0.png", 1, 1),
            ImageItem("path", "\\ud800.png", 1, 1),
            ImageItem("size", "a.png", -1, 1),
            ImageItem("huge", "a.png", 2**70, 1),
            ImageItem(7, "a.png", 1, 1),
            ImageItem("time", "a.png", 1, "yesterday"),
        ]
        texts = [
            TextItem("b", None, "A boat."),
            TextItem("a", names[0], "A cat."),
            TextItem("a", names[0], "A dog."),
            TextItem("c", None, "half \\udfff"),
            TextItem("d\\ud800", None, "A fox."),
            TextItem("e", "\\ud800", "A cow."),
            TextItem("f", None, None),
        ]
        return Listing([*good, *wrong], texts, [BadItem("image", "\\ud800", "\\ud800", "odd \\ud800")])

    def read(self, item):
        return (self.root / item.path).read_bytes()


def sloppy(argument, *, texts):
    return Sloppy(argument)


def deaf(argument, *, texts):
    """A corpus that cannot read."""
    corpus = Sloppy(argument)
    class Deaf:
        kind, root, settings, scan = "deaf", corpus.root, corpus.settings, corpus.scan
    return Deaf()
'''

POINTS = """[felga.corpora]
tar = felga_shards:tar
sloppy = felga_sloppy:sloppy
deaf = felga_sloppy:deaf
vanished = felga_sloppy:vanished
"""


def install(site: Path) -> None:
    """Write the packages into a folder."""
    info = site / "felga_shards-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "felga_shards.py").write_text(TAR)
    (site / "felga_sloppy.py").write_text(SLOPPY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: felga-shards\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
