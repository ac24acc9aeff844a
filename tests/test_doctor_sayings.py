"""The table of what the doctor says: each row has what it needs, and each is said by some check."""

from __future__ import annotations

import ast
from pathlib import Path
from string import Formatter

import pytest

from telefabric.doctor import finding
from telefabric.doctor.finding import OK, PROBLEM, SAYINGS, WARNING, say
from telefabric.doctor.ports import Answer

CHECKS = Path(finding.__file__).parent
TREES = [ast.parse(file.read_text("utf-8")) for file in CHECKS.glob("*.py")]
WORDS = {node.value for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Constant)}
WORDS |= {answer.value for answer in Answer} | {f"{answer.value} here" for answer in Answer}
ROWS = [(check, what) for check, rows in SAYINGS.items() for what in rows]


def values_given(check: str, what: str) -> set[str]:
    """By the calls of `say` that name the row, or else by those that choose one of the check's rows."""
    named: set[str] = set()
    chosen: set[str] = set()
    for call in (node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id == "say" and ast.literal_eval(call.args[0]) == check:
            values = {word.arg for word in call.keywords if word.arg}
            if not isinstance(call.args[1], ast.Constant):
                chosen |= values
            elif call.args[1].value == what:
                named |= values
    return named or chosen


@pytest.mark.parametrize(("check", "what"), ROWS, ids=[": ".join(row) for row in ROWS])
def test_each_row_has_a_state_a_sentence_a_remedy_and_its_values(check: str, what: str) -> None:
    state, sentence, *remedy = SAYINGS[check][what]
    assert state in (OK, WARNING, PROBLEM)
    assert sentence.endswith((".", ".{last}"))
    assert len(remedy) == (state != OK)
    fields = {name for text in (sentence, *remedy) for _, name, _, _ in Formatter().parse(text) if name}
    assert {name.partition(".")[0] for name in fields} <= values_given(check, what)
    assert what in WORDS or check == "refused", "the reasons of refusals are the broker's words"


def test_a_row_that_is_not_there_is_no_finding() -> None:
    with pytest.raises(KeyError):
        say("python", "slow")
