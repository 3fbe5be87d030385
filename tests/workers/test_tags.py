import pytest

from workers.tags import PROMPTS, prompt, read


@pytest.mark.parametrize(
    "texts, words, held, language",
    [
        ([" bon", "jour"], (0, 1), 0, None),
        ([" bon", "jour", ".", " <fr-FR>"], (0, 1, 2), 0, "fr"),
        ([" hi", " <", "en", "-", "US", ">", " there"], (0, 6), 0, "en"),
        ([" hi", " <", "en"], (0,), 2, None),
        ([" a", " <", " b"], (0, 1, 2), 0, None),
        ([" a<", "b"], (), 2, None),
        ([" <de-DE>", " gut", " <fr-FR>", " bon", " <e"], (1, 3), 1, "fr"),
        ([], (), 0, None),
    ],
)
def test_tags_are_told_from_words(
    texts: list[str], words: tuple[int, ...], held: int, language: str | None
) -> None:
    found = read(texts, [0.9] * len(texts))
    assert (found.words, found.held, found.language) == (words, held, language)


def test_a_language_is_as_sure_as_all_tokens_of_its_tag() -> None:
    assert read([" a", " <", "fr", ">"], [0.1, 0.5, 0.5, 1.0]).confidence == 0.25


def test_a_model_s_own_dictionary_comes_first() -> None:
    assert prompt("fr", {}, 101) == PROMPTS["fr"]
    assert prompt("fr", {"fr": 77}, 101) == 77
    assert prompt(None, {}, 101) == prompt("tlh", {}, 101) == 101
