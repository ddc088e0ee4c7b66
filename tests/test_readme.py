"""The Python of README.md runs as it stands, in the order in which it stands."""

import re
from pathlib import Path

import pytest

from tests.support import crash
from tinylm2.__main__ import main
from tinylm2.training import trained_model

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
RUN = [block for block in BLOCKS if "import tinylm2" in block or "tinylm2.load" in block]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where runs/tiny holds a run that has learned next to nothing."""
    home = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(trained_model, "curriculum", crash.curriculum)
        patch.setattr("tinylm2.cli.train.QUESTIONS", 2)
        assert main(["train", "--device", "cpu", "--eval-segments", "1"]) == 0
    return home


def test_the_library_section_runs_block_by_block(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names = {}
    assert len(RUN) == 2
    for block in RUN:
        exec(compile(block, "README.md", "exec"), names)
    assert names["logits"].shape == (3, 19, 50)
    assert names["bank"].shape == (3, 4, 16)
    assert names["grads"].keys() == names["params"].keys()
    assert "(16, 32)" in capsys.readouterr().out


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_python(block):
    compile(block, "README.md", "exec")
