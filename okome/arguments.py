"""What a caller may get wrong, said at the call: TypeError for what is of another kind, ValueError for what can't be,
and the argument's name in the sentence.
"""

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, TypeVar

T = TypeVar("T")

_NOT_PLAIN = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def require_name(what: str, name: object) -> None:
    """A text that is not empty: no user who is None or a number."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is a name, and so a text, not {name!r}")
    if not name:
        raise ValueError(f"{what} is empty")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} holds half of a surrogate pair: {name!r}") from None


def names_of(what: str, names: Collection[str]) -> tuple[str, ...]:
    """Several names, and not one where several are asked for. `what`: the argument, in the plural."""
    if isinstance(names, str | bytes):
        raise TypeError(f"{what} are several names, such as ({names!r},), not {names!r} alone")
    try:
        several = tuple(names)
    except TypeError:
        raise TypeError(f"{what} are several names, not {names!r}") from None
    for name in several:
        require_name(f"one of {what}", name)
    return several


def require_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """A length of time; `zero`: none is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if not 0 <= value < math.inf or (value == 0 and not zero):
        raise ValueError(f"{name} is a {'' if zero else 'positive '}number of seconds, not {value}")


def require_function(name: str, value: object, what: str) -> None:
    """Something to call. `what` it is, said instead of it."""
    if not callable(value):
        raise TypeError(f"{name} is {what}, not {value!r}")


def require_plain_function(name: str, value: object, what: str) -> None:
    """One that answers at once: what an async one says would have to be awaited, and is true whatever it says."""
    require_function(name, value, what)
    code = getattr(
        value, "__code__", None
    )  # which takes a fifth of the time of `inspect`: it is asked at each hit
    if code is not None and code.co_flags & _NOT_PLAIN:
        raise TypeError(
            f"{name} is {what}, and a plain one: it is called, and neither awaited nor iterated: {value!r}"
        )


def begun(name: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> Awaitable[T]:
    """What it returns, if that can be awaited."""
    work = function(*arguments)
    if not inspect.isawaitable(work):
        raise TypeError(f"{name} is an async function: {work!r}, which it returned, can't be awaited")
    return work


def opened(name: str, function: Callable[..., AsyncIterator[bytes]], *arguments: Any) -> AsyncIterator[bytes]:
    """What it returns, if `async for` can read that."""
    source = function(*arguments)
    if not hasattr(source, "__aiter__"):
        raise TypeError(
            f"{name} is an async generator's function: {source!r}, which it returned, can't be read by `async for`"
        )
    return source
