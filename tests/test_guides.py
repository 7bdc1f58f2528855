"""The guides: their code is the examples', and what they promise comes true."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from gradwatch.findings import Health

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "guides" / "diagnose-and-treat.md"
EXAMPLE = ROOT / "examples" / "diagnose_and_treat.py"


@pytest.fixture(scope="module")
def printed():
    """Return what the example prints."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    lines = []
    main = runpy.run_path(str(EXAMPLE))["main"]
    main.__globals__["print"] = lambda *words: lines.append(" ".join(map(str, words)))
    try:
        main()
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    return "\n".join(lines)


def blocks(kind):
    """Return the guide's blocks of a language."""
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


def test_the_guide_shows_the_example_s_code():
    """Each line of it, so that a reader finds it there."""
    code = {line.strip() for line in EXAMPLE.read_text("utf-8").splitlines()}
    shown = [line.strip() for block in blocks("python") for line in block.splitlines()]
    assert len(shown) > 10
    assert not [line for line in shown if line not in code]


def test_a_sick_network_is_named_treated_and_learns(printed):
    """From guessing to reading, on digits that no training has seen."""
    before, after = map(int, re.findall(r"(\d+)% of new digits", printed))
    assert before < 40
    assert after > 85
    assert "CRITICAL  GW101 vanishing-gradient" in printed
    assert re.search(r"use \[0\] .*\n  trial +D .* decades; loss .*: HELPED", printed)
    assert f"\n{Health.HEALTHY.value}: No sign of a gradient defect" in printed


def test_the_guide_shows_what_the_example_prints(printed):
    """The parts of a card stand in both; numbers may differ from machine to machine."""
    labels = r"^  (layers|evidence|since|use \[0\]|trial|why|risk|record) "
    for text in (printed, "\n".join(blocks("text"))):
        assert len(set(re.findall(labels, text, re.MULTILINE))) == 8
        assert "Next: " in text
        assert "activation Sigmoid -> " in text
