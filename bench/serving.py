"""How many word searches `felga serve` answers, and how fast, on loopback, also while its index is updated.

    python -m venv E && E/bin/pip install locust
    python bench/serving.py --locust E/bin/locust [--corpus IMAGES] [--out bench/results/serving.json]

The load is locust's (bench/locustfile.py), which has an environment of its own. Server and clients are
processes of their own and share the machine's cores. A word is a class name of COCO; its vector is in the
cache after the first round, which does not count. Locust rounds times from 100 ms on to two digits.
``load_before`` is the machine's load average when it began: what else it had to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from felga.client import connect
from felga.corpus.class_names import NAMES
from felga.evaluation.results import commit, machine

CLIENTS = 1, 8, 32
MIDDLE = 8  # clients, while the index is updated
LATER = 3  # seconds that they go on after the update
FELGA = [sys.executable, "-m", "felga"]
LOAD = Path(__file__).with_name("locustfile.py")


class Load:
    """Clients of a server, by locust, for some seconds or until they are told to stop."""

    def __init__(self, locust: str, url: str, clients: int, seconds: float | None = None) -> None:
        count = str(clients)
        command = [locust, "--locustfile", str(LOAD), "--host", url, "--users", count, "--spawn-rate", count]
        command += ["--headless", "--json", "--skip-log", "--exit-code-on-error", "0"]
        command += [] if seconds is None else ["--run-time", f"{seconds:g}"]
        environment = {**os.environ, "WORDS": json.dumps(list(NAMES))}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)

    def stop(self) -> None:
        """Let the clients finish what they have asked."""
        self._process.send_signal(signal.SIGTERM)

    def result(self) -> dict[str, Any]:
        """What was measured, in the end."""
        out, _ = self._process.communicate()
        (found,) = json.loads(out)
        taken = found["last_request_timestamp"] - found["start_time"]
        return {
            "requests": found["num_requests"],
            "requests_per_second": round(found["num_requests"] / taken, 1),
            "median_ms": reached(found["response_times"], 0.5),
            "p95_ms": reached(found["response_times"], 0.95),
            "failures": found["num_failures"],
        }


def reached(times: dict[str, int], share: float) -> float:
    """The time in ms within which a share of the requests was answered; ``times`` counts them by time."""
    left = share * sum(times.values())
    for milliseconds, count in sorted((float(key), count) for key, count in times.items()):
        left -= count
        if left <= 0:
            return milliseconds
    raise ValueError("no request was answered")


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


def measure(locust: str, corpus: Path, folder: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Every number of clients on an index at rest, then the middle one while images are added to it."""
    images = sorted(path for path in corpus.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    first, index = folder / "photos", folder / "index"
    first.mkdir()
    late = images[:: max(2, len(images) // 20)]  # added in the end
    for path in images:
        if path not in late:
            shutil.copy(path, first)
    subprocess.run(index_command(first, index), check=True)
    server, url = start(index)
    try:
        cases = {}
        for clients in (MIDDLE, *CLIENTS):  # the first round does not count
            cases[f"{clients} clients"] = Load(locust, url, clients, seconds).result()
        for path in late:
            shutil.copy(path, first)
        load = Load(locust, url, MIDDLE)
        subprocess.run(index_command(first, index), check=True, capture_output=True)
        time.sleep(LATER)
        states = connect(url).info()["state"]
        load.stop()
        cases[f"{MIDDLE} clients, index updated"] = {
            "images_added": len(late),
            **load.result(),
            "states": states,
        }
    finally:
        server.terminate()
        server.wait()
    return {name: cases[name] for name in sorted(cases, key=lambda name: ("," in name, int(name.split()[0])))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--locust", default="locust", help="the program")
    parser.add_argument(
        "--corpus", type=Path, help="a folder of images; default: the demo corpus", default=None
    )
    parser.add_argument("--seconds", type=float, default=15, help="of each number of clients")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    options = parser.parse_args()
    if shutil.which(options.locust) is None:
        raise SystemExit(
            f"there is no {options.locust}: make it by `python -m venv E && E/bin/pip install locust`, "
            "and name E/bin/locust with --locust"
        )
    about = {"commit": commit(), "machine": machine(), "load_before": round(os.getloadavg()[0], 1)}
    version = subprocess.run([options.locust, "--version"], check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = options.corpus
        if corpus is None:
            from felga.corpus.demo import write_demo

            corpus = write_demo(folder / "demo").folder
        cases = measure(options.locust, corpus, folder, options.seconds)
    result = {
        **about,
        "locust": version.split()[1],
        "seconds": options.seconds,
        "corpus": corpus.name,
        "cases": cases,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for case, entry in cases.items():
        print(f"{case:26} {entry['requests_per_second']:7.1f} /s   p95 {entry['p95_ms']:7.1f} ms")


if __name__ == "__main__":
    main()
