"""Where calls come from, and what is said of input that is wrong."""

import pytest

PAIR = "tasks:pair"


def test_each_argument_is_a_call(calls):
    assert calls(PAIR, "a", "b c") == ["tasks.pair('a')", "tasks.pair('b c')"]


def test_lists_are_multiplied_and_linked(calls):
    assert calls(PAIR, ":::", "1", "-2", ":::", "a", "--b") == [
        "tasks.pair('1', 'a')", "tasks.pair('1', '--b')", "tasks.pair('-2', 'a')", "tasks.pair('-2', '--b')",
    ]  # fmt: skip
    assert calls(PAIR, ":::", "1", "2", "3", ":::+", "a", "b") == ["tasks.pair('1', 'a')", "tasks.pair('2', 'b')"]


def test_lines_of_standard_input_or_a_file_are_calls(calls, command):
    assert calls(PAIR, text="a\n\n b \nc") == ["tasks.pair('a')", "tasks.pair(' b ')", "tasks.pair('c')"]
    assert calls(PAIR, "--from", "-", text="x") == ["tasks.pair('x')"]
    assert calls(PAIR, "--from", command.write("list", "p\nq\n")) == ["tasks.pair('p')", "tasks.pair('q')"]
    assert calls(PAIR, "--null", text="a\nb\0c\0") == ["tasks.pair('a\\nb')", "tasks.pair('c')"]


def test_json_lines_are_keyword_or_positional_arguments(calls, command):
    path = command.write("p.jsonl", '{"a": 1, "b": [2]}\n\n["x", null]\n')
    assert calls(PAIR, "--jsonl", path) == ["tasks.pair(a=1, b=[2])", "tasks.pair('x', None)"]
    assert calls(PAIR, "--jsonl", "-", text='{"a": "é"}') == ["tasks.pair(a='é')"]


def test_rows_are_keyword_arguments(calls, command):
    path = command.write("p.csv", '\ufeffa, b\n1,"x, y"\n2.5e3,007\ntrue,"line\nend"\n')
    assert calls(PAIR, "--csv", path) == [
        "tasks.pair(a='1', b='x, y')", "tasks.pair(a='2.5e3', b='007')", "tasks.pair(a='true', b='line\\nend')",
    ]  # fmt: skip
    assert calls(PAIR, "--csv", path, "--types") == [
        "tasks.pair(a=1, b='x, y')", "tasks.pair(a=2500.0, b='007')", "tasks.pair(a=True, b='line\\nend')",
    ]  # fmt: skip


def test_matches_are_calls_in_order_of_their_names(calls, command):
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (command.folder / name).parent.mkdir(exist_ok=True)
        (command.folder / name).touch()
    expected = ["tasks.pair('a.txt')", "tasks.pair('b.txt')", "tasks.pair('sub/c.txt')"]
    assert calls(PAIR, "--glob", "**/*.txt") == expected


def test_file_names_that_are_no_text_reach_the_function(command):
    (command.folder / "list").write_bytes(b"caf\xe9\n")
    ran = command("map", "tasks:double", "-q", "--from", "list")
    assert ran.values == ["caf\udce9caf\udce9"]


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["nothing:x", "1"], "", "there is no module 'nothing'"),
        (["task:pair", "1"], "", "did you mean tasks"),
        (["tasks:piar", "1"], "", "tasks has no function 'piar'; did you mean pair"),
        (["tasks.py:pair", "1"], "", "write the module's name, not its file: tasks:pair"),
        (["tasks", "1"], "", "write MODULE:FUNCTION"),
        (["tasks:waits", "1"], "", "is an `async def` function, and a task has no event loop"),
        (["tasks:os", "1"], "", "tasks:os is no function, but a module"),
        (["tasks:pair", "--from", "nowhere"], "", "cannot read nowhere: No such file"),
        (["tasks:pair", "--jsonl", "-"], '{"a": 1}\n{"a": }\n', "standard input, line 2, column 7: Expecting value"),
        (["tasks:pair", "--jsonl", "-"], "3\n", "standard input, line 1: an object"),
        (["tasks:pair", "--jsonl", "-"], '{"a": 1, "bb": 2}', "line 1: pair(a, b='-') cannot be called so"),
        (["tasks:pair", "--jsonl", "-"], '{"a": 1, "bb": 2}', "did you mean b?"),
        (["tasks:pair", "--jsonl", "-"], f'{{"a": {"1" * 5000}}}\n', "standard input, line 1: Exceeds the limit"),
        (["tasks:pair", "--csv", "-"], "a,b\n1\n", "line 2: 1 values, but the first line names 2 columns"),
        (["tasks:pair", "--csv", "-"], "a,a\n1,2\n", "two columns are called 'a'"),
        (["tasks:pair", "--csv", "-"], 'a\n"1\n', "line 2: "),
        (["tasks:pair", "1", "--glob", "*"], "", "inputs come from one place: choose one of arguments, --glob"),
        (["tasks:pair", "--glob", "*.none"], "", "nothing matches *.none"),
        (["tasks:pair", ":::+", "1"], "", "the first list begins with `:::`"),
        (["tasks:pair", "1", "-o", "no/where"], "", "cannot write no/where: No such file"),
        (["tasks:pair", "1", "--results", "tasks.py"], "", "tasks.py"),
        (["tasks:pair", "1", "--timeout", "soon"], "", "'soon' is no duration"),
        (["tasks:pair", "1", "--memory", "lots"], "", "not a size: 'lots'"),
        (["tasks:pair", "1", "--halt", "later,fail=1"], "", "does not say when to halt"),
        (["tasks:pair", "1", "--jobs", "many"], "", "is no number of workers"),
        (["tasks:pair", "1", "--journal", ""], "", "--journal has an empty name"),
        (["tasks:pair", "--from", ""], "", "--from has an empty name"),
        (["tasks:pair", "1", "--resume"], "", "--resume needs --journal"),
        (["broken:f", "1"], "", 'broken.py", line 2'),
    ],
)
def test_what_is_wrong_is_said_with_its_place(command, arguments, text, message):
    command.write("broken.py", "import os\n1 / 0\n")
    ran = command("map", *arguments, text=text)
    assert ran.code == 2
    assert message in ran.err
    assert ran.out == ""
    assert "_cli" not in ran.err


def test_nothing_runs_when_a_file_has_a_bad_line_far_below(command):
    path = command.write("p.jsonl", '{"a": 1}\n' * 500 + "{\n")
    ran = command("map", "tasks:pair", "--jsonl", path)
    assert (ran.code, ran.out) == (2, "")
    assert "p.jsonl, line 501, column 1" in ran.err


def test_what_came_before_a_bad_line_of_a_pipe_is_finished(command):
    ran = command("map", "tasks:pair", "--jsonl", "-", "--keep-order", text='{"a": 1}\n{"a": 2}\n[\n{"a": 4}')
    assert ran.code == 2
    assert [value[0] for value in ran.values] in ([], [1], [1, 2])  # what had begun
    assert "standard input, line 3" in ran.err
