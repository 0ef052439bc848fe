"""OKOME's library: a cache in front of the GPU, budgets in front of both.

    from okome import Budgets, Cache, CachePolicy, Cap, Ledger, Msgpack, Rate, connect, key_of

docs/03_PLANNER.md shows all of it at work. A name is imported when it is first asked for: whoever wants only
okome.acl, as the deploy does, need not have redis or msgspec.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from okome.budget import Budgets
    from okome.cache import Cache
    from okome.client import connect, connect_cluster, connect_sentinel
    from okome.decision import Decision, Lease, Outcome
    from okome.entry import Cached
    from okome.envelope import Bytes, Codec, Msgpack
    from okome.errors import (
        CallerError,
        CircularError,
        ComputeCancelledError,
        EvictingServerError,
        NotCachedError,
        OkomeError,
        OverloadedError,
        RememberedError,
        StateLostError,
    )
    from okome.headers import Directives, Quota, Status
    from okome.keys import is_deterministic, key_of
    from okome.ledger import Ledger
    from okome.metered import Metered, OverBudgetError
    from okome.mode import Mode
    from okome.policy import CachePolicy
    from okome.rules import Cap, Period, Rate, Rule
    from okome.stream import CachedStream

__all__ = [
    "Budgets",
    "Bytes",
    "Cache",
    "CachePolicy",
    "Cached",
    "CachedStream",
    "CallerError",
    "Cap",
    "CircularError",
    "Codec",
    "ComputeCancelledError",
    "Decision",
    "Directives",
    "EvictingServerError",
    "Lease",
    "Ledger",
    "Metered",
    "Mode",
    "Msgpack",
    "NotCachedError",
    "OkomeError",
    "Outcome",
    "OverBudgetError",
    "OverloadedError",
    "Period",
    "Quota",
    "Rate",
    "RememberedError",
    "Rule",
    "StateLostError",
    "Status",
    "connect",
    "connect_cluster",
    "connect_sentinel",
    "is_deterministic",
    "key_of",
]

_MODULES = {
    "budget": {"Budgets"},
    "cache": {"Cache"},
    "client": {"connect", "connect_cluster", "connect_sentinel"},
    "decision": {"Decision", "Lease", "Outcome"},
    "entry": {"Cached"},
    "envelope": {"Bytes", "Codec", "Msgpack"},
    "headers": {"Directives", "Quota", "Status"},
    "keys": {"is_deterministic", "key_of"},
    "ledger": {"Ledger"},
    "metered": {"Metered", "OverBudgetError"},
    "mode": {"Mode"},
    "policy": {"CachePolicy"},
    "rules": {"Cap", "Period", "Rate", "Rule"},
    "stream": {"CachedStream"},
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "errors")
    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
