"""HTML put together so that text can never be read as markup: whatever is not `Html` already is escaped."""

from html import escape

#: Elements that have no inside and no end.
_EMPTY = frozenset({"meta", "path", "rect", "line", "link", "br"})

Trait = str | int | float | bool | None


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def h(name: str, /, *inside: "Html | str | int | None", **traits: Trait) -> Html:
    """An element: `h("p", "1 < 2", cls="note")`.

    Of a trait's name `cls` is `class`, and `_` is `-`; True is a trait without a value, None and False are none at all.
    """
    told = "".join(_trait(trait, value) for trait, value in traits.items())
    if name in _EMPTY:
        return Html(f"<{name}{told}/>" if name in ("path", "rect", "line") else f"<{name}{told}>")
    return Html(f"<{name}{told}>{join(*inside)}</{name}>")


def join(*parts: "Html | str | int | None") -> Html:
    """Parts one after the other; None is nothing."""
    return Html("".join(_safe(part) for part in parts if part is not None))


def raw(text: str) -> Html:
    """Markup of our own that is no element: a style sheet, a script."""
    return Html(text)


def _safe(part: "Html | str | int") -> str:
    return part if isinstance(part, Html) else escape(str(part))


def _trait(name: str, value: Trait) -> str:
    name = "class" if name == "cls" else name.strip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
