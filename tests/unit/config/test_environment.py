from __future__ import annotations

import pytest

from mep.base.errors import InputError
from mep.config.environment import load_user_environment


def test_values_are_texts_and_the_accounts_variables_stay() -> None:
    text = "PATH: /opt/bin:/bin\nN: 3\nE:\nHOME: /evil\nUSER: root\n"
    assert load_user_environment(text, source="f") == {"PATH": "/opt/bin:/bin", "N": "3", "E": ""}
    assert load_user_environment("# only comments\n", source="f") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A: [1]\n", "f line 1: A: found [1], wanted one text"),
        ("A: 1\n'B=C': 2\n", "f line 2: B=C: cannot name an environment variable"),
        ("'B C': 2\n", "cannot name"),
        ('A: "x\\0y"\n', "wanted one text"),
        ("- A\n", "wanted `NAME: value` lines"),
    ],
)
def test_a_fault_names_file_line_and_variable(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_user_environment(text, source="f")
    assert says in caught.value.user_text
