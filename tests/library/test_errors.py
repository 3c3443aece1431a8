"""Lists and values in messages: short enough to be read, whatever is in them."""

from __future__ import annotations

import pytest

from fti.errors import LONGEST, MESSAGE, SHOWN, few, short


@pytest.mark.parametrize("values", [[], ["a"], ["it's", 1, None], [f"v{number}" for number in range(SHOWN)]])
def test_a_short_list_is_written_as_python_writes_it(values):
    """Nothing of it is left out."""
    assert few(values) == str(values)


def test_of_a_long_list_the_first_are_written_and_how_many_more():
    """However many labels a column has, the message fits a screen."""
    text = few(f"label {number}" for number in range(6714))
    assert text.startswith("['label 0', 'label 1', ")
    assert text.endswith(f"'label {SHOWN - 1}', and 6,694 more]")
    assert len(text) < 400


def test_sentences_stand_by_themselves():
    """Joined by what is asked for, without quotes."""
    assert few(["one", "two"], "; ") == "one; two"
    assert few(["no"] * (SHOWN + 1), "; ").endswith("no; and 1 more")


def test_a_long_value_is_cut_off_and_says_how_long_it_is():
    """A text of a megabyte in a cell is no line of a log."""
    assert short("x" * LONGEST) == "x" * LONGEST
    assert short("x" * 10**6) == "x" * LONGEST + "... (1,000,000 characters)"
    assert len(few(["x" * 10**6] * 10**4)) < SHOWN * (LONGEST + 40)
    assert len(few(["x" * 10**6] * 10**4, "; ")) < SHOWN * (MESSAGE + 40)
