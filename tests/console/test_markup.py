"""`console.markup`: no text becomes markup."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from console.markup import Html, h, join, raw

#: HTML knows no other characters than these, and reads a carriage return as a line feed.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=50)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@given(TEXT, TEXT)
def test_text_and_traits_come_out_as_they_went_in(text, trait):
    found = read(h("p", text, title=trait))
    assert found.tags == [("p", {"title": trait})]
    assert found.text == text


def test_elements_are_put_into_elements():
    made = h("ul", h("li", "1 < 2", cls="a"), None, h("li", 3, data_s=4, hidden=True, title=None))
    assert made == '<ul><li class="a">1 &lt; 2</li><li data-s="4" hidden>3</li></ul>'


def test_an_element_may_have_a_trait_called_name():
    assert h("meta", name="viewport") == '<meta name="viewport">'
    assert h("path", d="M0 0") == '<path d="M0 0"/>'


def test_only_what_is_ours_is_taken_as_it_is():
    assert join("<b>", raw("<b>"), Html("<i>"), None) == "&lt;b&gt;<b><i>"
