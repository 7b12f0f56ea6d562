"""Which images may be hits: by ids, paths and captions; the answer among them is exact."""

from __future__ import annotations

import pytest

from felga.engine import Engine
from felga.errors import BadInputError
from tests.made import run, write

NAMES = [f"p{i}" for i in range(12)]


@pytest.fixture
def engine(tmp_path, toy):
    folder = tmp_path / "corpus"
    write(folder, NAMES)
    (folder / "2024").mkdir()
    for name in NAMES[:5]:
        for suffix in (".png", ".txt"):
            (folder / f"{name}{suffix}").rename(folder / "2024" / f"{name}{suffix}")
    (folder / "2024" / "p1.txt").write_text("A RED door.\n")
    (folder / "p7.txt").write_text("a door that is red.\n")
    run(folder, folder.parent / "index")
    with Engine.open(folder.parent / "index", device="cpu") as opened:
        yield opened


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"path": "2024/*"}, {f"2024/p{i}.png" for i in range(5)}),
        ({"path": "*p1.png"}, {"2024/p1.png"}),
        ({"path": "*P1.png"}, set()),
        ({"ids": ["p7.png", "2024/p0.png", "gone"]}, {"p7.png", "2024/p0.png"}),
        ({"ids": []}, set()),
        ({"caption": "red"}, {"2024/p1.png", "p7.png"}),
        ({"caption": "Picture p11"}, {"p11.png"}),
        ({"caption": "red", "path": "p*"}, {"p7.png"}),
    ],
)
def test_hits_are_the_best_of_those_that_pass(engine, filters, passes):
    for query in ("door", "door AND red", "door NOT blue", "red - door"):
        hits = engine.search(query, k=3, **filters)
        every = [hit for hit in engine.search(query, k=99) if hit.image_id in passes][:3]
        assert [(hit.image_id, hit.score, hit.regions) for hit in hits] == [
            (hit.image_id, hit.score, hit.regions) for hit in every
        ]


def test_images_by_an_image_are_filtered_alike(engine):
    path = engine.search("door", k=1)[0].path
    hits = engine.search_image(path, k=99, path="2024/*", dedupe=True)
    assert {hit.image_id for hit in hits} == {f"2024/p{i}.png" for i in range(5)}


def test_one_string_is_no_list_of_ids(engine):
    with pytest.raises(BadInputError, match="ids are a list of image ids, got the string 'p1.png'"):
        engine.search("door", ids="p1.png")
