import pytest

from edgeprof.train.evaluate.doom_loop import Loop, doom_loop_ratio, find_loop, judge, wilson
from edgeprof.train.evaluate.generation import Generation
from edgeprof.train.evaluate.prompts import Prompt

SENTENCE = "Wait, let me check. "
LOOPING = "The answer is 4. " + SENTENCE * 6


def test_the_onset_is_the_second_occurrence():
    assert find_loop(LOOPING) == Loop(onset=17 - 2 + 20, period=20, repeats=6)  # ". " before it repeats, too


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 4.",
        "x" * 59,
        "abcdefghijklmnopqrst" * 3,
        "-" * 80 + "\nThe table ends here, and the text goes on.",
        "".join(f"{n}. item\n" for n in range(40)),
        "".join(chr(0x4E00 + n) for n in range(1025)) * 4,
    ],
    ids=["nothing", "a sentence", "59 characters", "3 repeats", "a ruled line within", "a list", "a period of 1025"],
)
def test_what_does_not_repeat_endlessly_is_no_loop(text):
    assert find_loop(text) is None


def test_a_period_of_1024_is_a_loop():
    loop = find_loop("".join(chr(0x4E00 + n) for n in range(1024)) * 4)
    assert loop == Loop(onset=1024, period=1024, repeats=4)


def test_a_long_text_takes_no_longer_than_its_length():
    steps = 0

    class Counted(str):
        def __getitem__(self, key):
            nonlocal steps
            steps += 1
            return Counted(super().__getitem__(key)) if isinstance(key, slice) else super().__getitem__(key)

    find_loop(Counted("ab" * 20_000 + "c" + "ab" * 20_000))
    assert steps < 4 * 80_001


def outcomes():
    texts = {"loops": LOOPING, "ends": "Done."}

    def generate(prompt, temperature):
        text = texts[prompt.text]
        return [Generation(text=text, tokens=9, ended=text == "Done.")] * (1 if temperature == 0 else 4)

    prompts = [Prompt(prompt_set=a, text=b) for a, b in (("one", "loops"), ("one", "ends"), ("two", "ends"))]
    return list(judge(generate, prompts, [0.0, 0.7]))


def test_the_ratio_is_counted_by_temperature_and_set_and_over_all_sets():
    rows = {(row.prompt_set, row.temperature): (row.loops, row.n, row.ended) for row in doom_loop_ratio(outcomes())}
    assert rows == {
        ("one", 0.0): (1, 2, 1),
        ("two", 0.0): (0, 1, 1),
        ("all", 0.0): (1, 3, 2),
        ("one", 0.7): (4, 8, 4),
        ("two", 0.7): (0, 4, 4),
        ("all", 0.7): (4, 12, 8),
    }


def test_an_interrupted_evaluation_has_rows_of_what_was_done():
    rows = doom_loop_ratio([o for o in outcomes() if o.prompt.prompt_set == "one" or o.temperature == 0])
    assert [(row.prompt_set, row.temperature) for row in rows if row.temperature > 0] == [("one", 0.7), ("all", 0.7)]


def test_onsets_are_those_of_the_loops_alone():
    rows = {(row.prompt_set, row.temperature): row for row in doom_loop_ratio(outcomes())}
    assert rows["one", 0.7].onset.p50 == 35
    assert rows["one", 0.7].onset.n_samples == 4
    assert rows["two", 0.7].onset is None


def test_the_interval_is_wilsons():
    n, p, z = 12, 4 / 12, 1.959963984540054
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert wilson(4, 12) == pytest.approx(((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)))
    assert wilson(0, 5)[0] == 0
    assert wilson(0, 5)[1] > 0.3
