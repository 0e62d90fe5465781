from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeprof.train.evaluate.doom_loop import MAX_PERIOD, MIN_CHARS, MIN_REPEATS, Loop, find_loop

# few letters, so that repetitions of many periods arise by chance, too
PIECES = st.text("ab", max_size=12)
TEXTS = st.tuples(st.text("abc ", max_size=30), PIECES, st.integers(0, 20), PIECES, st.integers(0, 40), PIECES).map(
    lambda t: t[0] + t[1] * t[2] + t[3] * t[4] + t[5]
)
LONG = st.tuples(
    st.integers(200, 1100), st.integers(1, 5), st.integers(0, 1100), st.randoms(use_true_random=False)
).map(lambda t: (lambda unit: "x" + unit * t[1] + unit[: t[2]])("".join(t[3].choices("abcdefgh", k=t[0]))))


def naive(text):
    """By the definition, period by period and character by character."""
    found = []
    for period in range(1, min(MAX_PERIOD, len(text)) + 1):
        length = period
        while length < len(text) and text[-1 - length] == text[-1 - length + period]:
            length += 1
        if length >= MIN_REPEATS * period and length >= MIN_CHARS:
            found.append((-length, period))
    if not found:
        return None
    length, period = min(found)
    return Loop(onset=len(text) + length + period, period=period, repeats=-length // period)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example("a" * 60)
@example("a" * 59)
@example(("a" * 70 + "b") * 5 + "a" * 70)
def test_a_loop_is_what_the_definition_says(text):
    assert find_loop(text) == naive(text)


@settings(max_examples=15, deadline=None)
@given(LONG)
def test_a_loop_of_long_period_is_what_the_definition_says(text):
    assert find_loop(text) == naive(text)


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=40), st.text(min_size=1, max_size=30), st.integers(4, 30))
def test_what_is_repeated_to_the_end_is_found_wherever_it_begins(before, unit, repeats):
    text = before + unit * max(repeats, -(-MIN_CHARS // len(unit)))
    loop = find_loop(text)
    assert loop is not None
    assert loop.onset - loop.period <= len(before)
    assert text[loop.onset - loop.period : -loop.period] == text[loop.onset :]
