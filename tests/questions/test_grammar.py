"""What a query says: the way back from words built at random, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from felga.errors import BadInputError
from felga.questions.grammar import Question, Term, parse

WORD = st.text("abcz'é-1", min_size=1, max_size=6).filter(lambda word: word not in ("-", "+"))
PHRASE = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
SIGNED = st.lists(st.tuples(st.sampled_from([1, -1]), PHRASE), max_size=2)
WEIGHT = st.sampled_from([None, "2", "0.5", "1.25", ".5"])
SPACE = st.sampled_from([" ", "  ", "\t"])


@st.composite
def terms(draw, weighted=True):
    """A term, and how it is written."""
    first, rest = draw(PHRASE), draw(SIGNED)
    text = first + "".join(f" {'+' if sign == 1 else '-'} {phrase}" for sign, phrase in rest)
    weight = draw(WEIGHT) if weighted and not first[0].isdigit() else None
    written = text if weight is None else f"{weight}:{text}"
    return Term(text, ((1, first), *rest), float(weight or 1)), written


@given(terms(), st.lists(st.one_of(terms(), terms(False).map(lambda one: ("NOT", one)))), SPACE)
def test_a_question_is_read_as_it_was_written(first, others, space):
    wanted, unwanted, query = [first[0]], [], first[1]
    for other in others:
        if other[0] == "NOT":
            unwanted.append(other[1][0])
            query += f"{space}NOT {other[1][1]}"
        else:
            wanted.append(other[0])
            query += f" AND{space}{other[1]}"
    assert parse(query) == Question(tuple(wanted), tuple(unwanted))


@given(st.text(max_size=30))
@example("salt and pepper")
@example("  a t-shirt, not torn ")
@example("16:9 photo")
@example("7:30")
@example("ANDROID NOTHING")
@example("boat+beach")
def test_words_without_operators_stay_as_they_are(query):
    tokens = query.split()
    if {"AND", "NOT", "+", "-"}.isdisjoint(tokens) and ":" not in query.replace("16:9", "").replace(
        "7:30", ""
    ):
        assert parse(query) == Question((Term(query, ((1, query),)),))


@given(st.lists(st.sampled_from(["AND", "NOT", "+", "-", "2:", "0:a", "-1:b", "a", "b c", " ", "\n", "é"])))
def test_anything_is_read_or_refused_in_one_sentence(parts):
    reason = ""
    try:
        question = parse(" ".join(parts))
    except BadInputError as error:
        reason = str(error)
    else:
        assert question.wanted
        assert all(term.weight > 0 for term in question.wanted)
        assert all(term.parts[0][0] == 1 for term in (*question.wanted, *question.unwanted))
    assert "\n" not in reason
    assert not reason or "expected" in reason or "begin with" in reason


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("AND", "lacks words beside AND"),
        ("boat AND", "lacks words beside AND"),
        ("AND boat", "lacks words beside AND"),
        ("boat AND AND car", "lacks words beside AND"),
        ("boat NOT", "lacks words beside NOT"),
        ("NOT car", "begin with what it must"),
        ("boat + ", r"lacks words beside \+"),
        ("- boat", "lacks words beside -"),
        ("boat AND + car", r"lacks words beside \+"),
        ("2:", "lacks words beside the weight"),
        ("0:boat", "has the weight 0: expected a number above 0"),
        ("-2:boat AND car", "has the weight -2"),
        ("boat NOT 2:car", "has the weight 2: .* none after NOT"),
        ("9" * 400 + ":boat", "expected a number above 0"),
    ],
)
def test_what_is_refused(query, reason):
    with pytest.raises(BadInputError, match=reason):
        parse(query)


def test_and_not_is_not():
    assert parse("boat AND NOT car") == parse("boat NOT car")


def test_one_vector_answers_one_term():
    assert all(parse(query).alone for query in ("boat", "2:boat", "boat + beach - person"))
    assert not any(parse(query).alone for query in ("boat AND car", "boat NOT car"))


def test_phrases_and_the_sentence():
    question = parse("2:a boat AND person NOT car - bus")
    assert question.phrases == ["a boat", "person", "car", "bus"]
    assert question.sentence == "a boat and person"
    assert parse("boat + sea AND person").sentence is None
