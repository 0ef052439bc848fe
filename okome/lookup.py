"""Whether Redis has an answer, or who computes it: the way from a question to a value or to a flight."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from okome.computation import Computations
from okome.connection import Clock
from okome.entry import Cached, Entry, draw, due, longest_draw, usable
from okome.errors import NotCachedError, RememberedError
from okome.flight import Caller, Flight, Flights, Work
from okome.headers import Directives
from okome.policy import CachePolicy
from okome.store import Store


class Lookup:
    """`uniform`: 0 to 1, for early recomputation."""

    def __init__(
        self,
        store: Store,
        flights: Flights,
        computations: Computations,
        policy: CachePolicy,
        clock: Clock,
        counts: Counter[str],
        uniform: Callable[[], float],
    ) -> None:
        self._store = store
        self._flights = flights
        self._computations = computations
        self._policy = policy
        self._clock = clock
        self._counts = counts
        self._uniform = uniform
        self._reach = longest_draw(policy.beta)

    async def find(
        self, work: Work, directives: Directives
    ) -> Cached[Any] | tuple[Flight[Cached[Any]], Caller[Cached[Any]]]:
        """A value that can be served at once, or the flight that was entered, and by whom."""
        flights, name = self._flights, work.name
        flight = flights.look(name)
        try:
            fallback = None
            if work.force:
                flight = flights.renewing(name)
            elif flight is None or flight.background or flight.force or directives.only_if_cached:
                entry = await self._store.read(name, work.tags, work.codec)
                if entry is not None:
                    now = self._clock.now()
                    cached = usable(entry, now)
                    if cached is not None:
                        if cached.ttl <= entry.envelope.compute * self._reach:
                            self._refresh_if_due(work, entry, cached.ttl, now)
                        return cached
                    if entry.error_type is not None:
                        self._counts["negative"] += 1
                        raise RememberedError(entry.error_type)
                    fallback = entry
                if directives.only_if_cached:
                    raise NotCachedError("only-if-cached, and it is not")
                flight = flights.joinable(name)
            flights.require_outside(name)
            caller: Caller[Cached[Any]] = Caller(work)
            if flight is None:
                flight = self._computations.launch(caller, fallback)
            flight.enter(caller)
            return flight, caller
        finally:
            flights.looked(name)

    def _refresh_if_due(self, work: Work, entry: Entry, ttl: float, now: float) -> None:
        if not due(entry, ttl, now, draw(self._policy.beta, self._uniform())):
            return
        if ttl > 0:
            self._counts["early"] += 1
        if work.name not in self._flights and not self._store.left_alone:
            self._computations.launch(Caller(work), entry, background=True)


def require_answerable(directives: Directives) -> None:
    """Raises NotCachedError where nothing is left to answer with, TypeError for what are no directives."""
    if not isinstance(directives, Directives):
        raise TypeError(
            f"directives are Directives, such as Directives.parse(a Cache-Control header), not {directives!r}"
        )
    if directives.only_if_cached and (directives.no_cache or directives.no_store):
        raise NotCachedError("only-if-cached with no-cache or no-store leaves nothing to answer with")
