"""What becomes of a value that was computed: as a hit would have it, and what of it is stored, for how long."""

import logging
from collections import Counter
from typing import Any

from okome.connection import Clock
from okome.entry import of_too_large, of_value
from okome.envelope import Envelope, Kind
from okome.flight import Work
from okome.policy import CachePolicy
from okome.tee import Tee

log = logging.getLogger(__name__)


class Keeping:
    def __init__(self, policy: CachePolicy, clock: Clock, counts: Counter[str]) -> None:
        self._policy = policy
        self._clock = clock
        self._counts = counts

    def pack(
        self,
        work: Work,
        token: bytes,
        generations: dict[str, bytes | None],
        value: Any,
        compute: float,
        *,
        tee: Tee | None = None,
    ) -> tuple[Any, Envelope | None]:
        """The value as a hit would have it, and what to store: the value, that it is too large, or (None) nothing."""
        if tee is not None and tee.overflowed:
            self._counts["oversize"] += 1
            return value, of_too_large(self._policy, work.codec.name, token, self._clock.now())
        value, body = self.carried(work, value)
        if body is None:
            return value, None
        return value, self.envelope(work, token, generations, value, body, compute)

    def envelope(
        self,
        work: Work,
        token: bytes,
        generations: dict[str, bytes | None],
        value: Any,
        body: bytes,
        compute: float,
    ) -> Envelope | None:
        """What to store of a value and its bytes."""
        now, codec = self._clock.now(), work.codec.name
        fresh = self._lifetime(work, value)
        if not fresh:
            self._counts["cut_short" if work.streams else "declined"] += 1
            return None
        tags = {tag: generation for tag, generation in generations.items() if generation is not None}
        envelope = of_value(self._policy, codec, token, now, body, compute, tags, fresh)
        if envelope.kind is Kind.PASS:
            self._counts["oversize"] += 1
        return envelope

    def carried(self, work: Work, value: Any) -> tuple[Any, bytes | None]:
        """The value as it comes back from Redis, so that a miss has the type of a hit; and encoded. As it is,
        and None, if it can't be.
        """
        try:
            return self.carry(work, value)
        except Exception:
            self._counts["unencodable"] += 1
            log.exception("a value could not be encoded, and was not stored")
            return value, None

    def carry(self, work: Work, value: Any) -> tuple[Any, bytes]:
        """Likewise. Raises whatever the codec does, and TypeError for one that makes no bytes of it."""
        body = work.codec.encode(value)
        if not isinstance(body, bytes):
            raise TypeError(
                f"the codec {work.codec.name} made {type(body).__name__} of a value, and not bytes"
            )
        # A stream's readers have its chunks already.
        return (value if work.streams else work.codec.decode(body)), body

    def _lifetime(self, work: Work, value: Any) -> float:
        """Seconds for which it is fresh; 0: it is not stored."""
        if work.keep is None:
            return self._policy.fresh
        try:
            return self._policy.lifetime(work.keep(value))
        except Exception:
            self._counts["undecided"] += 1
            log.exception("whether to keep a value could not be told, and it was not stored")
            return 0.0
