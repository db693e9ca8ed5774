import pytest

from alitok.core.words import are, counted, listed


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (1, ("class", "classes"), "1 class"),
        (1000, ("class", "classes"), "1,000 classes"),
    ],
)
def test_a_number_with_what_it_counts(number, words, said):
    assert counted(number, *words) == said


def test_names_in_a_sentence():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(name for name in "abc") == "a, b and c"


def test_a_verb_with_its_number():
    assert [are(number) for number in (0, 1, 2)] == ["are", "is", "are"]
