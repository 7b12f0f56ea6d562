"""LanceDB's side of bench/speed.py, in an environment of its own: reads base.npy and words.npy, prints json.

    python lancedb_peer.py FOLDER REGIONS K

LanceDB does not group: three rows for each image wanted are fetched and grouped here, twice as many while
fewer images come back, as its users would do.
"""

import json
import sys
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

folder, (regions, k) = Path(sys.argv[1]), map(int, sys.argv[2:4])
BATCH = 16_384


def table():
    """The table with its index, made unless it is there; and how long its index took."""
    base = np.load(folder / "base.npy", mmap_mode="r")
    database = lancedb.connect(str(folder / "lancedb"))
    if (folder / "lancedb.json").exists():
        return database.open_table("regions"), json.loads((folder / "lancedb.json").read_text())["seconds"]
    dim = base.shape[1]
    schema = pa.schema([("image", pa.int32()), ("vector", pa.list_(pa.float32(), dim))])

    def batches():
        for start in range(0, len(base), BATCH):
            part = np.ascontiguousarray(base[start : start + BATCH])
            images = np.arange(start, start + len(part), dtype=np.int32) // regions
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), dim)
            yield pa.record_batch([pa.array(images), vectors], schema)

    start = time.perf_counter()
    made = database.create_table("regions", batches(), schema=schema, mode="overwrite")
    made.create_index(metric="dot", index_type="IVF_RQ", vector_column_name="vector")
    seconds = time.perf_counter() - start
    (folder / "lancedb.json").write_text(json.dumps({"seconds": seconds}))
    return made, seconds


def best(made, query, nprobes, refine):
    """The best images of a query."""
    fetch = 3 * k
    while True:
        asked = made.search(query).distance_type("dot").nprobes(nprobes).refine_factor(refine)
        images = asked.limit(fetch).select(["image"]).to_arrow()["image"].to_pylist()
        found = list(dict.fromkeys(images))[:k]
        if len(found) == k or len(images) < fetch:
            return found
        fetch *= 2


made, seconds = table()
queries = np.load(folder / "words.npy")
rows = []
for nprobes, refine in ((20, 10), (64, 20), (128, 20), (256, 20), (512, 30)):
    for query in queries[:8]:
        best(made, query, nprobes, refine)
    found, times = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(best(made, query, nprobes, refine))
        times.append(time.perf_counter() - start)
    rows.append({"nprobes": nprobes, "refine": refine, "found": found, "ms": 1e3 * float(np.median(times))})
size = sum(path.stat().st_size for path in (folder / "lancedb").rglob("*") if path.is_file())
print(json.dumps({"version": lancedb.__version__, "build_seconds": seconds, "bytes": size, "rows": rows}))
