"""What one client of `felga serve` asks, for locust: class names of COCO, one after the other.

bench/serving.py starts it, with locust in an environment of its own; by hand:

    locust --locustfile bench/locustfile.py --headless --users 8 --spawn-rate 8 --host http://127.0.0.1:8000

An answer counts as a failure if it is no success or has no hits. ``WORDS`` in the environment is a json list
of the words.
"""

from __future__ import annotations

import itertools
import json
import os

from locust import FastHttpUser, task

WORDS = json.loads(os.environ.get("WORDS", '["boat", "zebra", "pizza"]'))
starts = itertools.count()


class Person(FastHttpUser):
    """Asks the next word when the last one is answered; each begins at another."""

    def on_start(self) -> None:
        """Take a place in the list."""
        self.at = 7 * next(starts)

    @task
    def search(self) -> None:
        """One search."""
        self.at += 1
        asked = {"q": WORDS[self.at % len(WORDS)], "k": 10}
        with self.client.get("/api/search", params=asked, name="search", catch_response=True) as answer:
            if answer.status_code == 200 and not answer.json()["answers"][0]["hits"]:
                answer.failure("an answer without hits")
