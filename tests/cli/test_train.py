from __future__ import annotations

import textwrap

import pytest

from audiogen.cli.train import recipes

RECIPE = textwrap.dedent('''
    """My recipe trains nothing."""
    from __future__ import annotations
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Recipe:
        steps: int = 10

        def run(self) -> int:
            print("trained", self.steps)
            return 0
''').lstrip()


@pytest.fixture
def own(tmp_path):
    (tmp_path / "my_own.py").write_text(RECIPE)
    return "my_own.py"


def test_without_a_name_the_recipes_are_listed_with_their_first_lines(audiogen):
    for words, code in ((["train"], 2), (["train", "--help"], 0)):
        said = audiogen(*words)
        assert said.code == code and said.err == ""
        for name, path in recipes().items():
            first = path.read_text().split('"""')[1].splitlines()[0]
            assert any(line.split() == [name, *first.split()] for line in said.out.splitlines())


def test_options_after_the_name_are_the_recipes(audiogen, own):
    assert audiogen("train", own, "--steps", 3).out == "trained 3\n"
    assert "My recipe trains nothing." in audiogen("train", own, "--help").out
    said = audiogen("train", own, "--stesp", 3)
    assert said.code == 2 and "audiogen train my_own.py has no option --stesp; did you mean --steps" in said.err


def test_options_of_a_part_that_may_be_absent_are_told_with_the_word_that_chooses_it(audiogen):
    said = audiogen("train", "generator", "--model.coarse.width", "16")
    assert said.code == 2
    assert said.err.endswith("did you mean model.coarse:gated-config --model.coarse.width?\n")


def test_unknown_and_broken_recipes_are_one_clear_line(audiogen, tmp_path):
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "empty.py").write_text("x = 1")
    some = next(iter(recipes()))
    for name, said in [(f"{some}s", f"did you mean '{some}'"), ("xyzzy", some), ("none.py", "no recipe file"),
                       ("broken.py", "broken.py:1 is no Python"), ("empty.py", "no dataclass Recipe")]:
        result = audiogen("train", name)
        assert result.code == 2 and said in result.err and result.err.count("\n") == 1
