"""Look first: what stands in the way of a deploy is asked in one command, and said at once, before anything changes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gevent import GreenletExit
from pyinfra import host, logger
from pyinfra.context import ctx_host

from facts.answer import Answer
from facts.several import Question, Several
from operations.primitives.foretold import answered


@dataclass(frozen=True)
class Look:
    """Questions, and what of their answers stands in the way: `findings` is pure, gets the answers in the order of
    the questions, and says one sentence for each obstacle, with what to do about it."""

    questions: tuple[Question, ...]
    findings: Callable[..., list[str]] = lambda *_: []


Seen = list[tuple[Question, Any]]
# By the node's name: what was asked of each in this run.
_seen: dict[str, Seen] = {}


def judged(looks: Iterable[Look], seen: Seen) -> list[str]:
    """The findings of all looks, in their order, each once."""
    found = [
        sentence
        for look in looks
        for sentence in look.findings(*(answer(seen, one) for one in look.questions))
    ]
    return list(dict.fromkeys(found))


def answer(seen: Seen, question: Question) -> Any:
    """Raises KeyError if it was not asked."""
    for asked, said in seen:
        if asked == question:
            return said
    raise KeyError(question)


def look(looks: Iterable[Look]) -> None:
    """Ask all that the looks ask, in one command; with findings, this node is through and nothing was changed."""
    looks = tuple(looks)
    questions: list[Question] = []
    for one in (one for look in looks for one in look.questions):
        if one not in questions:
            questions.append(one)
    answers: list[Any] = host.get_fact(Several, questions=tuple(questions))
    if len(answers) != len(questions):
        refuse(["it did not answer what was asked of it"])  # pyinfra has said why
    known = _seen.setdefault(host.name, [])
    known.extend(zip(questions, answers, strict=True))
    answered(questions, answers)
    refuse(judged(looks, known))


def seen(fact: type[Answer[Any]], **arguments: Any) -> Any:
    """What the preflight saw, or what is seen now. For phases as they are put together: an operation asks anew, since
    those before it have changed the node."""
    question, known = Question(fact, arguments), _seen.setdefault(host.name, [])
    if question not in (asked for asked, _ in known):
        known.append((question, host.get_fact(fact, **arguments)))
    return answer(known, question)


def refuse(findings: list[str]) -> None:
    """Say them all, and leave this node as it is; the others go on. Nothing, where there are none."""
    if not findings:
        return
    logger.error(f"{host.print_prefix}nothing was changed on this node:")
    for sentence in findings:
        logger.error(f"{host.print_prefix}- {sentence.rstrip('.')}.")
    host.state.fail_hosts({ctx_host.get()})  # type: ignore[no-untyped-call] # ends the run if there are no others
    # The end of this node's deploy file, and of no other's: any exception would be the end of the run.
    raise GreenletExit
