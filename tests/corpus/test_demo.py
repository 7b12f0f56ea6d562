from __future__ import annotations

import json

from PIL import Image

from felga.corpus.demo import HEIGHT, WIDTH, write_demo


def test_objects_fill_part_of_their_scene_and_do_not_overlap(tmp_path):
    made = write_demo(tmp_path)
    assert len(made.boxes) == 16
    for name, boxes in made.boxes.items():
        with Image.open(tmp_path / name) as scene:
            assert scene.size == (WIDTH, HEIGHT)
        for x1, y1, x2, y2 in boxes.values():
            assert 0 <= x1 < x2 <= WIDTH
            assert 0 <= y1 < y2 <= HEIGHT
            assert 0.08 <= (x2 - x1) * (y2 - y1) / (WIDTH * HEIGHT) <= 0.4
        (a, b) = boxes.values()
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1]), (
            f"{name}: parts overlap"
        )
        assert len((tmp_path / name).with_suffix(".txt").read_text().splitlines()) == 4
    assert set(json.loads((tmp_path / "boxes.json").read_text())) == set(made.boxes)
    assert made.assignment.image_id in made.boxes


def test_writing_it_again_changes_nothing(tmp_path):
    write_demo(tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.png")}
    write_demo(tmp_path)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*.png")}
    assert before == after
