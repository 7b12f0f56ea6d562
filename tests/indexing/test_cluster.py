"""Ray itself: a cluster of two workers on this machine, some of which are killed."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from felga.errors import BadInputError, MissingError, NotFoundError
from felga.indexing import index
from felga.indexing.cluster import ray_engine
from felga.store.owner_table import OwnerTable
from felga.store.verify import verify
from tests.corpus.badpack import write_bad_pack
from tests.indexing.watched import BuggyCorpus, UnmountedCorpus, WatchedCorpus
from tests.made import CHEAP, run, state, write

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'felga[ray]'")

EVERY = CHEAP.commit_every


@pytest.fixture(scope="module")
def cluster(toy_site):
    """Ray with room for two workers that find the third-party encoder and the tests."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(toy_site), str(Path(__file__).parents[2])])
    try:
        ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, logging_level="error")
        yield
    finally:
        ray.shutdown()
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def corpus(tmp_path, toy):
    """Images in seven blocks."""
    write(tmp_path / "corpus", [f"p{i:02}" for i in range(7 * EVERY - 1)])
    return tmp_path / "corpus"


def over_ray(corpus, out):
    with ray_engine() as engine:
        return index(corpus, out, CHEAP, engine=engine)


def test_a_killed_worker_costs_its_block_alone_and_the_index_is_the_same(cluster, corpus, tmp_path):
    bad = write_bad_pack(corpus)  # sorted before the images
    run(corpus, tmp_path / "local")
    watched = WatchedCorpus(corpus, tmp_path / "log", fatal="p09.png", deaths=1)
    report = over_ray(watched, tmp_path / "ray")
    assert state(tmp_path / "ray") == state(tmp_path / "local")
    assert report.images.quarantined == sum(reason is not None for reason in bad.values())
    assert verify(tmp_path / "ray")[1] == []
    assert report.seconds["encoding"] > 0
    order = OwnerTable(tmp_path / "local" / "images.lance").read(["image_id"]).column(0).to_pylist()
    start = order.index("p09.png") // EVERY * EVERY
    reads = Counter(what for _, what in watched.reads())
    sample = order[0]  # each worker reads one image to see whether the corpus is there
    again = {what for what, count in reads.items() if count > 1} - {sample}
    assert "p09.png" in again
    assert again <= set(order[start : start + EVERY])
    assert set(reads) == {*order, "killed"}
    assert len({process for process, _ in watched.reads()}) >= 2


@pytest.mark.parametrize(
    ("fatal", "message"),
    [
        ("p09.png", r"3 workers of Ray died over the images p08\.png to p11\.png"),
        ("p00.png", r"3 workers of Ray died while they loaded models \(The actor is dead"),
    ],
)
def test_what_kills_every_worker_ends_the_run_with_a_sentence_and_is_resumed(
    cluster, corpus, tmp_path, fatal, message
):
    run(corpus, tmp_path / "local")
    watched = WatchedCorpus(corpus, tmp_path / "log", fatal=fatal, deaths=99)
    with pytest.raises(MissingError, match=message):
        over_ray(watched, tmp_path / "ray")
    assert len(watched.killed()) >= 3
    run(corpus, tmp_path / "ray")
    assert state(tmp_path / "ray") == state(tmp_path / "local")


def test_a_bug_in_a_worker_keeps_its_traceback(cluster, corpus, tmp_path):
    with pytest.raises(ZeroDivisionError, match=r'(?s)watched\.py", line \d+, in read.*a bug'):
        over_ray(BuggyCorpus(corpus, tmp_path / "log", fatal="p09.png"), tmp_path / "ray")


def test_a_corpus_that_workers_do_not_see_is_said_and_nothing_is_quarantined(cluster, corpus, tmp_path):
    with pytest.raises(NotFoundError, match=r"cannot read p00\.png of .*the corpus at the same path"):
        over_ray(UnmountedCorpus(corpus, tmp_path / "log"), tmp_path / "ray")
    assert len(OwnerTable(tmp_path / "ray" / "images.lance")) == 0


def test_a_corpus_that_cannot_be_sent_is_said(cluster, corpus, tmp_path):
    watched = WatchedCorpus(corpus, tmp_path / "log")
    watched.lock = threading.Lock()
    with pytest.raises(BadInputError, match="'folder' cannot be sent to workers"):
        over_ray(watched, tmp_path / "ray")


def test_a_gpu_that_the_cluster_lacks_is_said(cluster, corpus, tmp_path):
    with ray_engine() as engine, pytest.raises(MissingError, match="this Ray cluster has none"):
        index(corpus, tmp_path / "ray", replace(CHEAP, device="cuda"), engine=engine)
