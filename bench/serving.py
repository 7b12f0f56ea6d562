"""How many word searches `felga serve` answers, and how fast, on loopback, also while its index is updated.

    python bench/serving.py [--corpus IMAGES] [--seconds 10] [--out bench/results/serving.json]

The server is a process of its own, started as a command. Clients are threads of this program; each keeps its
connection and asks the next word when the last one is answered. They share the machine's cores with it. A
word is a class name of COCO; its vector is in the cache after the first round, which does not count.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from felga.evaluation.class_names import NAMES
from felga.evaluation.results import commit, machine

CLIENTS = 1, 8, 32
WORDS = list(NAMES)
FELGA = [sys.executable, "-m", "felga"]


class Load:
    """Clients that ask in turn until they are told to stop: seconds of each answer, and what went wrong."""

    def __init__(self, url: str, clients: int) -> None:
        self._url, self._stop = urlsplit(url), threading.Event()
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.states: set[int] = set()
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in range(clients)]

    def run(self, seconds: float) -> float:
        """Ask for a while; the seconds it took."""
        started = time.perf_counter()
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        return self._end(started)

    def run_beside(self, command: list[str]) -> float:
        """Ask until a command has ended, and a little longer; the seconds it took."""
        started = time.perf_counter()
        for thread in self._threads:
            thread.start()
        subprocess.run(command, check=True, capture_output=True)
        time.sleep(3)
        return self._end(started)

    def _end(self, started: float) -> float:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return time.perf_counter() - started

    def _ask(self, turn: int) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=60)
        while not self._stop.is_set():
            turn += 1
            started = time.perf_counter()
            connection.request("GET", f"/api/search?k=10&q={quote(WORDS[turn % len(WORDS)])}")
            answer = connection.getresponse()
            body = answer.read()
            self.seconds.append(time.perf_counter() - started)
            if answer.status == 200:
                self.states.add(json.loads(body)["state"])
            else:
                self.failures.append(body.decode())

    def result(self, taken: float) -> dict[str, float | int]:
        """Rounded, for the json file."""
        ordered = sorted(self.seconds)
        return {
            "requests": len(ordered),
            "requests_per_second": round(len(ordered) / taken, 1),
            "median_ms": round(1000 * statistics.median(ordered), 1),
            "p95_ms": round(1000 * ordered[int(0.95 * (len(ordered) - 1))], 1),
            "failures": len(self.failures),
            "states": len(self.states),
        }


def start(index: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server of ``index`` on a free port, and its URL."""
    command = [*FELGA, "serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert server.stderr is not None
    line = server.stderr.readline().decode()
    if " at http://" not in line:
        raise SystemExit(line + server.stderr.read().decode())
    return server, line.split(" at ")[1].split("/;")[0]


def index_command(corpus: Path, index: Path) -> list[str]:
    return [*FELGA, "index", str(corpus), "--out", str(index), "--device", "cpu"]


def measure(corpus: Path, folder: Path, seconds: float) -> dict[str, dict[str, float | int]]:
    """Every number of clients on an index at rest, then the middle one while images are added to it."""
    images = sorted(path for path in corpus.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    first, index = folder / "photos", folder / "index"
    first.mkdir()
    late = images[:: max(1, len(images) // 20)]  # added in the end
    for path in images:
        if path not in late:
            shutil.copy(path, first)
    subprocess.run(index_command(first, index), check=True)
    server, url = start(index)
    try:
        Load(url, 8).run(min(seconds, 3))
        cases = {}
        for clients in CLIENTS:
            load = Load(url, clients)
            cases[f"{clients} clients"] = load.result(load.run(seconds))
        for path in late:
            shutil.copy(path, first)
        load = Load(url, 8)
        taken = load.run_beside(index_command(first, index))
        cases["8 clients, index updated"] = {"images_added": len(late), **load.result(taken)}
    finally:
        server.terminate()
        server.wait()
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--corpus", type=Path, help="a folder of images; default: the demo corpus", default=None
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    options = parser.parse_args()
    about = {"commit": commit(), "machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = options.corpus
        if corpus is None:
            from felga.corpus.demo import write_demo

            corpus = write_demo(folder / "demo").folder
        cases = measure(corpus, folder, options.seconds)
    result = {**about, "seconds": options.seconds, "corpus": corpus.name, "cases": cases}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for case, entry in cases.items():
        print(f"{case:26} {entry['requests_per_second']:7.1f} /s   p95 {entry['p95_ms']:7.1f} ms")


if __name__ == "__main__":
    main()
