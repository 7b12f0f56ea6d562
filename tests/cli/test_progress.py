"""Progress in a log, without a terminal."""

from __future__ import annotations

from felga.cli.progress import Log


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left():
    lines, now = [], [0.0]
    log = Log(lines.append, lambda: now[0])
    for done in range(101, 1001):  # 100 were done before
        log("images", done, 1000)
        now[0] += 0.5
    assert len(lines) == 44
    assert lines[0] == "images 121/1000, 0:07:20 left"
    assert lines[-1] == "images 981/1000, 0:00:10 left"


def test_quick_stages_are_silent_and_stages_have_their_own_pace():
    lines, now = [], [0.0]
    log = Log(lines.append, lambda: now[0])
    log("images", 0, 2)
    now[0] = 9.0
    log("images", 2, 2)
    log("texts", 0, 100)
    now[0] = 18.0
    log("texts", 50, 100)
    assert lines == []
    now[0] = 29.0
    log("texts", 50, 100, "a remark")
    assert lines == ["texts 50/100, 0:00:20 left, a remark"]


def test_a_stage_without_headway_promises_no_time():
    lines, now = [], [0.0]
    log = Log(lines.append, lambda: now[0])
    log("training", 5, 10)
    now[0] = 11.0
    log("training", 5, 10)
    assert lines == ["training 5/10"]
