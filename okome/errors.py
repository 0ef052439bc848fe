"""What the library raises of its own: each is an OkomeError. What a computation raises comes as it is."""


class OkomeError(Exception):
    """The base of them all."""


class CallerError(OkomeError):
    """A failure that concerns the caller and not the key: over budget, not allowed. Raise it, or a class of your own
    that is one, inside a computation: it reaches that caller alone and is never remembered, and whoever waits for the
    same key computes for himself. So does a group that has one in it.
    """


def is_callers(error: Exception) -> bool:
    """Whether it is a CallerError, or a group with one in it: a task group raises those."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(CallerError) is not None
    return isinstance(error, CallerError)


class CircularError(OkomeError, RuntimeError):
    """A key was asked for inside its own computation, directly or by way of others. It would wait for itself."""


class NotCachedError(OkomeError, LookupError):
    """only-if-cached, and it is not: HTTP 504."""


class RememberedError(OkomeError):
    """The computation failed a moment ago, in another process or for an earlier caller. `error_type`: of
    what.
    """

    def __init__(self, error_type: str) -> None:
        super().__init__(f"the computation failed a moment ago with {error_type}")
        self.error_type = error_type


class ComputeCancelledError(OkomeError, RuntimeError):
    """The computation was cancelled from within, or the cache was closed, though somebody was waiting."""


class OverloadedError(OkomeError, RuntimeError):
    """Redis is gone, and so many computations are under way that no slot became free in time: HTTP 503."""


class EvictingServerError(OkomeError, RuntimeError):
    """Hard caps without a ledger on a server that evicts, or does not say whether it does."""


class StateLostError(OkomeError, RuntimeError):
    """A settlement found its counter gone, and there is no ledger to rebuild it from."""
