from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from felga.indexing import Options, encode, workers
from felga.indexing.workers import ahead, shared_cores
from tests.made import CHEAP, run, state, toy_module, write


@pytest.mark.parametrize("options", [Options(device="cpu", commit_every=6), CHEAP], ids=["default", "toy"])
def test_the_index_is_the_same_to_the_bit_for_any_number_of_workers(tmp_path, toy, monkeypatch, options):
    """Neither the order in which threads are done, nor torch's threads, nor cores decide a bit."""
    write(tmp_path / "corpus", [f"p{i}" for i in range(26)])
    found = []
    for count, torch_threads in ((1, 1), (2, 2), (5, 3)):
        monkeypatch.setattr(workers, "workers", lambda count=count: count)
        before = torch.get_num_threads()
        torch.set_num_threads(torch_threads)
        try:
            run(tmp_path / "corpus", tmp_path / str(count), options)
        finally:
            torch.set_num_threads(before)
        found.append(state(tmp_path / str(count)))
    assert found[0] == found[1] == found[2]


def test_images_and_texts_are_encoded_by_several_threads_at_once(tmp_path, toy, monkeypatch):
    """A barrier that two calls must reach together: one thread alone would wait until it breaks."""
    write(tmp_path / "corpus", [f"p{i:02d}" for i in range(16)])
    monkeypatch.setattr(workers, "workers", lambda: 2)
    together = {what: threading.Barrier(2, timeout=30) for what in ("regions", "keywords")}
    monkeypatch.setattr(toy_module(), "hook", lambda what: together[what].wait())
    run(tmp_path / "corpus", tmp_path / "index", replace(CHEAP, commit_every=8))


def test_with_a_gpu_regions_are_encoded_by_one_thread_to_the_same_index(tmp_path, toy, monkeypatch):
    """Its memory holds one batch at a time. The toy encoder has no device, so none is needed here."""
    write(tmp_path / "corpus", [f"p{i}" for i in range(20)])
    monkeypatch.setattr(workers, "workers", lambda: 2)
    run(tmp_path / "corpus", tmp_path / "cpu")
    threads = set()
    monkeypatch.setattr(
        toy_module(), "hook", lambda what: what == "regions" and threads.add(threading.current_thread())
    )
    monkeypatch.setattr(encode, "pick_device", lambda name: torch.device("cuda"))
    run(tmp_path / "corpus", tmp_path / "gpu")
    assert threads == {threading.main_thread()}
    assert state(tmp_path / "gpu") == state(tmp_path / "cpu")


def test_torchs_threads_are_one_while_it_runs_and_what_they_were_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with shared_cores():
            assert list(ahead(lambda _: torch.get_num_threads(), iter(range(4)), 2)) == [1] * 4
            with pytest.raises(ZeroDivisionError):
                list(ahead(lambda one: 1 // one, iter([1, 0]), 2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
