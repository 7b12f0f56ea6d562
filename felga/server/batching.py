"""Word searches that arrive together are answered together: one pass over the vectors for all of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from felga.errors import BusyError
from felga.questions.doubt import doubt
from felga.server.following import Following, State
from felga.server.messages import ImageAnswer, SearchAnswer, inner_path

MOST_WAITING = 512  # requests
MOST_TOGETHER = 64  # queries


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its queries, what else it asks for, and where its answer goes."""

    queries: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]
    answer: Future[SearchAnswer]


class Batcher:
    """A queue and the thread that empties it. Nobody waits for company: what has gathered goes together."""

    def __init__(self, following: Following, observe: Callable[[int], None] = lambda size: None) -> None:
        """``observe`` is told how many queries were answered together."""
        self._following, self._observe = following, observe
        self._waiting: queue.Queue[Asked | None] = queue.Queue(MOST_WAITING)
        self._worker = threading.Thread(target=self._work, name="felga-search", daemon=True)
        self._worker.start()

    def ask(self, queries: Sequence[str], options: dict[str, Any]) -> Future[SearchAnswer]:
        """Queue a request: what ``Engine.search_all(queries, **options)`` returns, later.

        The option ``fenet`` False asks the engine of the index before its FENet.

        Raises:
            BusyError: too many wait already.
        """
        asked = Asked(tuple(queries), tuple(sorted(options.items())), Future())
        try:
            self._waiting.put_nowait(asked)
        except queue.Full as error:
            raise BusyError(f"{MOST_WAITING} searches wait already: try again in a moment") from error
        return asked.answer

    def close(self) -> None:
        """Answer what waits, and stop."""
        self._waiting.put(None)
        self._worker.join()

    def _work(self) -> None:
        going_on = True
        while going_on:
            together = [self._waiting.get()]
            while None not in together and sum(len(one.queries) for one in together if one) < MOST_TOGETHER:
                try:
                    together.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            going_on = None not in together
            alike: dict[tuple[tuple[str, Any], ...], list[Asked]] = {}
            for one in together:
                if one is not None and one.answer.set_running_or_notify_cancel():
                    alike.setdefault(one.options, []).append(one)
            for group in alike.values():
                self._answer(group)

    def _answer(self, group: list[Asked]) -> None:
        """Answer requests that differ in their queries only."""
        try:
            with self._following.state() as state:
                queries = [query for asked in group for query in asked.queries]
                self._observe(len(queries))
                answers = iter(_answers(state, queries, dict(group[0].options)))
        except Exception as error:
            if len(group) == 1:
                group[0].answer.set_exception(error)
            else:  # one of them is at fault: each on its own
                for asked in group:
                    self._answer([asked])
            return
        for asked in group:
            own = [next(answers) for _ in asked.queries]
            asked.answer.set_result(SearchAnswer(answers=own, state=state.number))


def _answers(state: State, queries: Sequence[str], options: dict[str, Any]) -> list[ImageAnswer]:
    engine = state.asked(options.pop("fenet", True))
    found = engine.search_all(queries, **options)
    return [
        ImageAnswer(
            query=query,
            hits=[replace(hit, path=inner_path(hit.path, engine.root)) for hit in hits],
            unknown=engine.unknown_words(query),
            doubt=doubt(engine, query, hits),
        )
        for query, hits in zip(queries, found, strict=True)
    ]
