import pytest

from edgeprof.regress.correction import corrected


def test_p_values_are_corrected_over_the_suite():
    assert corrected({"a": 0.01, "b": 0.02, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.03, "c": 0.03})


def test_cases_of_which_nothing_is_known_do_not_help_the_others():
    assert corrected({"a": 0.01, "b": 1.0})["a"] == pytest.approx(0.02)


def test_an_empty_suite_needs_no_correction():
    assert corrected({}) == {}


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="p"):
        corrected({"a": 1.5})
