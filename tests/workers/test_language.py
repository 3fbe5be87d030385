import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.language import EARLY_MS, LOYALTY_S, MOST_S, STANDS_MS, Belief, combined, weigh

codes = st.sampled_from(["en", "es", "ja", "zh"])


def shares(**likely: float) -> dict[str, float]:
    rest = (1 - sum(likely.values())) / 2
    return {**likely, "la": rest, "cy": rest}


def test_long_speech_outweighs_a_first_guess() -> None:
    belief = Belief()
    for voiced_ms, heard in ((400, shares(en=0.7, pt=0.2)), (1_500, shares(en=0.5, pt=0.4))):
        belief.hear("en", heard, voiced_ms)
    assert not belief.stands
    now = shares(pt=0.95, en=0.01)
    told = combined(now, weigh(3_500), belief.prior())
    assert next(iter(told)) == "pt"
    belief.hear("pt", now, 3_500)
    assert (belief.language, belief.stands) == ("pt", True)
    assert belief.confidence == pytest.approx(told["pt"])


def test_a_sure_guess_stands_early_and_a_doubtful_one_does_not() -> None:
    sure, doubtful, short = Belief(), Belief(), Belief()
    sure.hear("ja", shares(ja=0.99), EARLY_MS)
    doubtful.hear("ja", shares(ja=0.6), STANDS_MS - 1)
    short.hear("ja", shares(ja=0.99), EARLY_MS - 1)
    assert (sure.stands, doubtful.stands, short.stands) == (True, False, False)


def test_a_short_answer_is_in_the_language_of_the_turn_before() -> None:
    belief = Belief()
    belief.hear("es", shares(es=0.99), 3_000)
    belief.finish()
    assert (belief.language, belief.stands, belief.before) == (None, False, "es")
    assert belief.prior() == {"es": LOYALTY_S}
    answer = shares(en=0.5, es=0.3)
    assert next(iter(combined(answer, weigh(500), belief.prior()))) == "es"
    assert next(iter(combined(shares(en=0.98), weigh(3_000), belief.prior()))) == "en"  # but may change


def test_a_turn_without_a_word_about_its_language_changes_nothing() -> None:
    belief = Belief(before="fr")
    belief.finish()
    assert belief.before == "fr"
    belief.hear("de", {}, 2_000)  # given by the client: the model was not asked
    assert (belief.language, belief.confidence, belief.stands) == ("de", 0.0, False)
    belief.hear(None, {}, 2_000)
    assert belief.language is None


def test_a_noise_is_no_evidence() -> None:
    belief = Belief(before="it")
    belief.hear("cy", shares(cy=0.9), 5_000)
    belief.forget()
    assert belief == Belief(before="it")


@given(
    st.dictionaries(codes, st.floats(0, 1), min_size=1),
    st.floats(0.1, MOST_S),
    st.dictionaries(codes, st.floats(0, 9)),
)
def test_probabilities_stay_probabilities(heard: dict, weight: float, prior: dict) -> None:
    told = combined(heard, weight, prior)
    assert told.keys() == heard.keys()
    values = list(told.values())
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    assert sum(values) <= 1 + 1e-9


def test_weights_are_bounded() -> None:
    assert [weigh(ms) for ms in (0, 1_000, 60_000)] == [0.1, 1.0, MOST_S]
