import pytest

from edgeprof.core.errors import UsageError
from edgeprof.train.evaluate.prompts import Prompt, built_in_prompts, read_prompts


def test_a_text_file_holds_a_prompt_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("One?\n\n  Two?  \n")
    assert read_prompts(path) == [Prompt(prompt_set="mine", text="One?"), Prompt(prompt_set="mine", text="Two?")]


def test_a_jsonl_file_may_name_sets_and_hold_an_empty_prompt(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a\\nb", "set": "hard"}\n{"prompt": ""}\n')
    assert read_prompts(path) == [Prompt(prompt_set="hard", text="a\nb"), Prompt(prompt_set="mine", text="")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "a", "not a .txt or .jsonl file"),
        ("p.txt", " \n", "holds no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "a"}\n', "line 2: "),
        ("p.jsonl", "not json\n", "line 1: is no JSON"),
        ("p.jsonl", '{"prompt": 3}\n', "line 1: prompt: "),
        ("p.jsonl", "[" * 100_000, "line 1: is no JSON"),
    ],
)
def test_a_wrong_file_is_refused_by_its_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=said):
        read_prompts(path)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_prompts(tmp_path / "b.txt")


def test_the_prompts_that_ship_have_four_sets_one_of_them_empty():
    prompts = built_in_prompts()
    assert list(dict.fromkeys(p.prompt_set for p in prompts)) == ["question", "list", "reasoning", "empty"]
    assert [p.text for p in prompts if p.prompt_set == "empty"] == [""]
