"""Scripts for objects that decide: what happens, and what they must want done, in the order it is read.

    book = Playbook(session, now=0.0)
    assert (
        book
        >> call.start()
        << MakeOffer(params)
        >> after(0.1)
        >> call.worker_event(taken)
        << some(Reply, text=holds('"type":"Begin"'))
    )

`>>` calls a method of the object, `<<` names one effect it must return; after a `>>`, all effects must be named. With
`now`, each call is given the present time as its last argument, and `after` lets time pass. A script runs where it is
asserted, may be continued and asserted again, and shows the whole play with its differences when it fails. One that is
never asserted is an error, since it would test nothing.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Call:
    """A method and what it is called with; write `call.name(...)`."""

    name: str
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.arguments))})"


class _Caller:
    def __getattr__(self, name: str) -> Callable[..., Call]:
        return lambda *arguments: Call(name, arguments)


call = _Caller()


@dataclass(frozen=True)
class after:  # noqa: N801 reads as a word in a script
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True)
class raises:  # noqa: N801 reads as a word in a script
    """Instead of effects: the call must raise `kind`, and its text must contain `text`."""

    kind: type[Exception]
    text: str = ""


class some:  # noqa: N801 reads as a word in a script
    """Equal to any `kind` whose named attributes equal the given values, or satisfy them where they are functions."""

    def __init__(self, kind: type, **attributes: Any) -> None:
        self.kind = kind
        self.attributes = attributes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self.kind) and all(
            wanted(getattr(other, name)) if callable(wanted) else wanted == getattr(other, name)
            for name, wanted in self.attributes.items()
        )

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={_name(wanted)}" for name, wanted in self.attributes.items())
        return f"some {self.kind.__name__}({inner})"


def holds(text: str) -> Callable[[str], bool]:
    """For `some`: the attribute contains `text`."""

    def contains(found: str) -> bool:
        return text in found

    contains.__name__ = f"holds({text!r})"
    return contains


def _name(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted)) if callable(wanted) else repr(wanted)


class Playbook:
    """A script for `actor`; see the module."""

    def __init__(self, actor: Any, now: float | None = None) -> None:
        self.actor = actor
        self.now = now
        #: Every effect so far, for what a script cannot say.
        self.effects: list[Any] = []
        self._script: list[tuple[Any, list[Any]]] = []
        self._played: list[tuple[str, list[Any]]] = []  # of what has run: the line, what was wanted of it
        self._found: list[list[Any]] = []

    def __rshift__(self, happening: Call | after) -> Self:
        self._script.append((happening, []))
        return self

    def __lshift__(self, wanted: Any) -> Self:
        if not self._script:
            raise TypeError("a script begins with >>")
        self._script[-1][1].append(wanted)
        return self

    def __bool__(self) -> bool:
        script, self._script = self._script, []
        if not script:
            raise TypeError("nothing to play")
        for happening, wanted in script:
            self._played.append((f">> {happening!r}", wanted))
            self._found.append(self._play(happening, wanted))
            if self._found[-1] != wanted:
                raise AssertionError(self._differences())
        return True

    def __del__(self) -> None:
        if self._script:
            raise RuntimeError(f"a script was never asserted: {self._script}")

    def _play(self, happening: Call | after, wanted: list[Any]) -> list[Any]:
        if isinstance(happening, after):
            if self.now is None:
                raise TypeError("a playbook without `now` has no time to pass")
            self.now += happening.seconds
            return []
        arguments = happening.arguments if self.now is None else (*happening.arguments, self.now)
        refusal = wanted[0] if wanted and isinstance(wanted[0], raises) else None
        try:
            effects = list(getattr(self.actor, happening.name)(*arguments))
        except Exception as error:
            if refusal and isinstance(error, refusal.kind) and refusal.text in str(error):
                return [refusal]
            raise
        self.effects.extend(effects)
        return effects

    def _differences(self) -> str:
        wanted, found = [], []
        for (line, wants), finds in zip(self._played, self._found, strict=True):
            wanted += [line, *(f"<< {want!r}" for want in wants)]
            # What matches is shown as it was asked for, so that only real differences stand out.
            asked = [want if want == find else find for want, find in zip(wants, finds, strict=False)]
            found += [line, *(f"<< {find!r}" for find in (*asked, *finds[len(wants) :]))]
        lines = difflib.ndiff(wanted, found)
        return "the play went otherwise (- wanted, + found):\n" + "\n".join(line.rstrip() for line in lines)
