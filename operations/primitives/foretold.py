"""What operations ask about a node: in one command for all of them, as long as none of them has changed it."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from facts.several import Question, Several

# Seconds for which an answer holds: a node changes without us, too, and other nodes may keep this one waiting.
HOLDS_S = 30

Operation = TypeVar("Operation", bound=Callable[..., Any])
Answered = tuple[Question, Any, float]  # when: monotonic seconds
# By the node's name: what its operations are still to ask, in their order; and answers that nobody has taken yet.
_ahead: dict[str, list[Question]] = {}
_answered: dict[str, list[Answered]] = {}


def united(questions: Iterable[Question]) -> list[tuple[Question, list[Question]]]:
    """Fewer questions, each with those that it answers: of one fact, what differs in its tuples of names only is
    asked about all the names."""
    alike: dict[Any, list[Question]] = {}
    for one in questions:
        rest = tuple((key, tuple if isinstance(said, tuple) else said) for key, said in one.arguments.items())
        alike.setdefault((one.fact, rest), []).append(one)
    return [
        (
            Question(fact, {key: _all(key, group) if said is tuple else said for key, said in rest}),
            group,
        )
        for (fact, rest), group in alike.items()
    ]


def _all(key: str, questions: Iterable[Question]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in questions for name in one.arguments[key]))


def taken(answered: list[Answered], question: Question, now: float) -> list[Any]:
    """The answer to a question, if it is there and holds at `now`: a list of one, or of none. Nobody gets it twice:
    who asks again wants to know what has become of it."""
    for one in answered:
        if one[0] == question and now - one[2] <= HOLDS_S:
            answered.remove(one)
            return [one[1]]
    return []


def answered(questions: Iterable[Question], answers: Iterable[Any]) -> None:
    """What was asked of the node in hand just now, for whoever asks the same."""
    now, known = time.monotonic(), _answered.setdefault(_node().name, [])
    known.extend((question, answer, now) for question, answer in zip(questions, answers, strict=True))


def foretold(question: Callable[..., Question]) -> Callable[[Operation], Operation]:
    """For an operation that asks one question, which its arguments tell: it stands among those asked at once.

    The operation asks by `present`, before it changes anything, and reads an answer that may tell of more names than
    it asked for.
    """

    def decorator(operation: Operation) -> Operation:
        @functools.wraps(operation)
        def called(**arguments: Any) -> Any:
            _ahead.setdefault(_node().name, []).append(question(**arguments))
            return operation(**arguments)

        return cast(Operation, called)

    return decorator


def present(question: Question) -> Any:
    """What is so now: from an answer that no operation has made untrue since, or else from the node."""
    node = _node()
    # As operations are put together, later ones are not known yet; and whatever is found then is asked again.
    if not node.state.is_executing or _changed(node):
        return node.get_fact(question.fact, **question.arguments)
    ahead, known = _ahead.setdefault(node.name, []), _answered.setdefault(node.name, [])
    if question in ahead:
        ahead.remove(question)
    if found := taken(known, question, time.monotonic()):
        return found[0]
    groups = united([question, *ahead])
    answers: list[Any] = node.get_fact(Several, questions=tuple(asked for asked, _ in groups))
    known.clear()
    if len(answers) != len(groups):
        return question.fact().default()  # as of a fact that failed; pyinfra has said why
    for (_, group), answer in zip(groups, answers, strict=True):
        answered(group, [answer] * len(group))
    return taken(known, question, time.monotonic())[0]


def _changed(node: Host) -> bool:
    """Whether an operation of this run has run a command on the node, and be it one that failed."""
    return any(one.operation_meta.executed for one in node.state.ops[node].values())


def _node() -> Host:
    return cast(Host, ctx_host.get())  # type: ignore[no-untyped-call] # pyinfra's own
