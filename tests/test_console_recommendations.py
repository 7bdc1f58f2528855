"""What a user reads of recommendations: snapshots, order, words, code to paste.

The snapshots lie in `tests/snapshots`; see `test_console.py`.
"""

import ast
import io
import itertools
import json
import math
import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.anatomy import ActivationSite
from gradwatch.console import emit, report_html, report_text
from gradwatch.console_trials import trial_text
from gradwatch.findings import Health, Severity
from gradwatch.recommendations import (
    Change,
    ProfileSeen,
    Recommendation,
    Rejection,
    Risk,
    TrialResult,
    Verdict,
)
from gradwatch.report import SCHEMA_VERSION, Report
from tests.sample_recommendations import (
    CLIP,
    FAILED,
    HELPED,
    HURT,
    KUMAR,
    NO_CHANGE,
    RATE,
    RESIDUAL,
    SAMPLES,
    SWAP,
    UNSHOWN,
    crowded,
    fading,
    recommended,
    sick,
    tried,
)
from tests.sample_reports import healthy, make_finding, make_report

SNAPSHOTS = Path(__file__).parent / "snapshots"
HOSTILE = "[red]x[/red]\x1b[2J\x1b]0;title\x07\r\u202e\x9b31m"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]")


def words(text):
    """Return the text with line breaks and runs of spaces as one space."""
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", SAMPLES)
def test_recommendations_read_as_before(name, width):
    """The whole report, as text, at two widths."""
    text = report_text(SAMPLES[name](), width) + "\n"
    file = SNAPSHOTS / f"{name}.{width}.txt"
    if os.environ.get("GRADWATCH_WRITE_SNAPSHOTS"):
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_line_is_wider_than_the_console(name, width):
    """Nothing is cut off by the terminal."""
    assert max(map(len, report_text(SAMPLES[name](), width).splitlines())) <= width


def test_a_crowded_report_stays_one():
    """Three findings with nine remedies and six rejections: about 90 lines."""
    assert len(report_text(crowded()).splitlines()) <= 95


def test_a_card_says_what_why_risk_caution_code_and_record():
    """All that a user needs to decide stands in the first card."""
    text = words(report_text(recommended()))
    for part in (SWAP.title, SWAP.why, SWAP.caution, SWAP.record):
        assert part in text
    assert "Glorot, Bordes & Bengio (2011); He et al. (2015)" in text
    assert "Delving" not in text
    assert "RESHAPES: the network computes something else" in text


@pytest.mark.parametrize(
    ("risk", "says"),
    [
        (Risk.SAFE, "SAFE: nothing learned is lost"),
        (Risk.REINITIALISES, "REINITIALISES: what these weights have learned is lost"),
        (Risk.RESHAPES, "RESHAPES: the network computes something else"),
        (Risk.ADVICE, "ADVICE: no code of gradwatch's can do this"),
    ],
)
def test_a_risk_is_said_in_words(risk, says):
    """Also without colour."""
    report = sick((fading(),), (replace(SWAP, risk=risk),))
    assert says in words(report_text(report))


def test_the_code_can_be_pasted():
    """Taken from the screen, the lines are Python again, word for word."""
    lines = report_text(recommended()).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    for i in"))
    taken = itertools.takewhile(lambda line: line.startswith("    "), lines[first:])
    assert textwrap.dedent("\n".join(taken)) == SWAP.code
    assert not re.search("[│|┃╭╰]", SWAP.code)


def test_long_code_is_folded_where_python_allows_it():
    """Within brackets a line may break; what is left out is named."""
    names = ", ".join(f'"encoder.blocks.{i}.mlp.fc1"' for i in range(12))
    long = replace(SWAP, code=f"for name in [{names}]:\n    print(name)")
    lines = report_text(sick((fading(),), (long,))).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("    for name"))
    taken = itertools.takewhile(lambda line: line.startswith("    "), lines[first:])
    pasted = ast.parse(textwrap.dedent("\n".join(taken)))
    assert ast.dump(pasted) == ast.dump(ast.parse(long.code))
    many = replace(SWAP, code="\n".join(f"step_{i}()" for i in range(40)))
    text = report_text(sick((fading(),), (many,)))
    assert "    step_11()\n    # and 28 more lines: print(report.rec" in text
    assert "step_12" not in text


def test_a_trial_stands_beside_its_recommendation():
    """Helped, no change, hurt and failed: each in its own words, with the numbers."""
    text = words(report_text(tried()))
    assert "trial D 6.2 → 0.3 decades; loss after 100 steps 2.30 → 0.41: HELPED" in text
    numbers = "D 6.2 → 5.9 decades; loss after 100 steps 2.31 → 2.30"
    assert f"std 0.45 {numbers}: did not help" in text
    assert f"scaled 0.35 HURT: {HURT.reason}" in text
    assert re.findall(r"(\w+) \[\d\]", text)[:3] == ["use", "not", "not"]
    report = sick((fading(),), (replace(SWAP, trial=FAILED),))
    assert "model.acts" not in report_text(report)
    assert f"could not be tried: {FAILED.reason}" in words(report_text(report))


def test_what_a_replay_cannot_show_is_not_held_against_a_remedy():
    """A learning rate changes nothing of one batch: it stays a thing to try."""
    rate = replace(RATE, answers=("GW101",), trial=UNSHOWN)
    report = sick((fading(),), (rate,))
    text = words(report_text(report))
    assert f"try [0] {RATE.title} trial no change: {UNSHOWN.reason}" in text
    assert "did not help" not in text
    assert report.next_step.startswith(f"{RATE.title}: the lines stand above.")


@pytest.mark.parametrize(
    ("code", "before", "after", "says"),
    [
        ("GW101", {"decades": 6.2}, {"decades": math.inf}, "D 6.2 → Inf decades"),
        (
            "GW102",
            {"time_decades": 14.5},
            {"time_decades": 0.04},
            "lost through time 14.5 → 0.0 decades",
        ),
        ("GW103", {"dead_share": 1.0}, {"dead_share": 0.031}, "dead units 100% → 3%"),
        (
            "GW104",
            {"saturated_share": 0.97},
            {"saturated_share": 0.0},
            "saturated outputs 97% → 0%",
        ),
        (
            "GW105",
            {"sample_signal": 0.0012},
            {"sample_signal": 0.8},
            "sample signal 0.0012 → 0.8",
        ),
        ("GW203", {"output_growth": 4.5}, {"output_growth": 0.5}, "growth 4.5 → 0.5"),
        ("GW205", {"finite": False}, {"loss": 2.3}, "NaN or Inf → finite"),
        ("GW301", {"loss": 230.0}, {"loss": 2.0}, "loss 230 → 2.00"),
    ],
)
def test_a_trial_shows_the_number_the_finding_is_about(code, before, after, says):
    """Dead units are not judged by D, nor a fading gradient by dead units."""
    everything = {"decades": None}
    result = replace(
        HELPED,
        before=ProfileSeen(**(everything | before)),
        after=ProfileSeen(**(everything | after)),
        losses_before=(),
        losses_after=(),
    )
    assert says in trial_text(result, (code,)).plain


def test_a_trial_without_numbers_gives_its_reason():
    """Nothing is invented where nothing was measured."""
    result = TrialResult(Verdict.NO_CHANGE, "too short to say")
    assert trial_text(result).plain == "no change: too short to say"


def test_a_verdict_that_its_numbers_do_not_show_keeps_its_reason():
    """A lower loss that stays flat, or a training too short to say."""
    flat = replace(NO_CHANGE, losses_after=(1.0,) * 100, reason="it does not fall")
    assert trial_text(flat).plain.endswith("decades; did not help: it does not fall")
    short = replace(NO_CHANGE, losses_after=(1.0,) * 5, reason="too short")
    assert trial_text(short).plain.endswith("did not help: too short")


def test_the_loss_of_a_trial_is_the_median_of_its_end():
    """One batch is noise: the last fifth of the steps counts, as in the verdict."""
    ends = {"losses_before": (9.0,) * 8 + (1, 3), "losses_after": (9.0,) * 9 + (1.0,)}
    text = trial_text(replace(HELPED, **ends)).plain
    assert "loss after 100 steps 2.00 → 5.00" in text
    diverged = replace(HELPED, losses_before=(1.0,) * 30 + (math.nan,))
    assert "NaN → 0.41" in trial_text(diverged).plain


def test_advice_names_the_place_that_the_user_must_change():
    """`can_apply` decides, whatever the risk."""
    text = words(report_text(sick((fading(),), (RESIDUAL,))))
    assert "computes something else; you change this: train.py:27" in text
    assert text.endswith(
        f"Next: {RESIDUAL.title}; you change this at train.py:27. "
        "`gradwatch explain GW101` says more."
    )


def test_each_stands_under_the_finding_it_answers_and_only_once():
    """What answers two findings stands under the first, and the second points there."""
    text = report_text(crowded())
    heads = [text.index(code) for code in ("  GW101", "  GW105", "  GW302", "Layers,")]
    places = [text.index(f"[{index}]") for index in range(9)]
    assert sorted(places) == places
    counts = [sum(a < x < b for x in places) for a, b in itertools.pairwise(heads)]
    assert counts == [3, 3, 3]
    assert "see above: [0] may help here too" in text[heads[1] : heads[2]]
    assert text.count(SWAP.title) == 2  # in its card and as the next step


def test_three_at_most_and_of_different_remedies():
    """Variants of one remedy do not push out another; the rest is counted."""
    variants = tuple(replace(SWAP, title=f"Swap for {to}") for to in "ABCDE")
    text = report_text(sick((fading(),), (*variants, KUMAR)))
    assert "try [0]" in text
    assert "or [1]" in text
    assert "or [5]" in text
    assert "or [2]" not in text
    assert "and 3 more in report.recommendations" in text


def test_rejections_are_one_line_each_and_folded():
    """Those for the first finding come first; the rest is counted."""
    rejections = [
        *(Rejection(f"late-{i}", "of no use", ("GW302",)) for i in range(4)),
        CLIP,
        Rejection("other", "answers nothing here", ("GW999",)),
    ]
    findings = (fading(), make_finding("GW302", name="update-too-small"))
    text = report_text(sick(findings, (SWAP,), rejections))
    assert "  not clip-gradients: clipping cannot enlarge a gradient\n" in text
    assert [f"late-{i}:" in text for i in range(4)] == [True, True, False, False]
    assert "and 3 more left out: report.rejections" in text


def test_what_helped_comes_first_and_what_hurt_last():
    """The next step is what helped; else the first untried; else to say so."""
    hurt, helped = replace(SWAP, trial=HURT), replace(KUMAR, trial=HELPED)
    report = sick((fading(),), (hurt, RATE, helped))
    assert report.next_step == (
        f"{KUMAR.title} (it helped in its trial): `gradwatch.treat(model, "
        "report.recommendations[2])` returns a copy so treated."
    )
    text = report_text(report)
    assert text.index("[2]") < text.index("[0]")
    rate = replace(RATE, answers=("GW101",))
    assert sick((fading(),), (hurt, rate)).next_step.startswith(RATE.title)
    vain = sick((fading(),), (hurt, replace(rate, trial=NO_CHANGE)))
    assert vain.next_step.startswith("All 2 remedies were tried; none helped. Look at")


def test_without_recommendations_the_next_step_is_the_finding_s_help():
    """And a healthy report says what was checked, whatever remedies it carries."""
    assert sick((fading(),), (), ()).next_step.startswith(fading().help)
    assert "help  " in report_text(sick((fading(),), (), ()))
    assert "rules checked" in healthy().next_step


def test_recommendations_for_what_no_longer_stands_are_not_lost():
    """They have a place of their own."""
    note = make_finding("GW302", severity=Severity.NOTE)
    text = report_text(sick((note,), (SWAP,), ()))
    assert f"Against what no longer stands\n  try [0]   {SWAP.title}" in text


def test_everything_from_outside_is_inert():
    """No field reaches the terminal with something that it could obey."""
    site = ActivationSite(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), HOSTILE)
    trial = replace(FAILED, reason=HOSTILE)
    fields = dict.fromkeys(
        ("remedy", "title", "why", "code", "caution", "source", "record"), HOSTILE
    )
    bad = Recommendation(
        **fields, answers=("GW101",), layers=(HOSTILE,), risk=Risk.ADVICE,
        sites=(site,), options={HOSTILE: HOSTILE}, can_apply=False, where=HOSTILE,
    )  # fmt: skip
    both = (bad, replace(bad, trial=trial), replace(bad, remedy="x"))
    report = sick((fading(),), both, (Rejection(HOSTILE, HOSTILE, ("GW101",)),))
    text = report_text(report)
    assert text.count("[red]x[/red]") > 10
    assert not UNSAFE.search(text)
    coloured = report_text(report, colour=True)
    assert "\x1b" not in re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert "<script>" not in report_html(
        sick((fading(),), (replace(SWAP, title="<script>", code="<script>"),))
    )


def test_an_ascii_log_reads_the_same():
    """Arrows become `->`; nothing is lost."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    emit(report_text(tried()), stream)
    text = raw.getvalue().decode("ascii")
    assert "D 6.2 -> 0.3 decades; loss after 100 steps 2.30 -> 0.41: HELPED" in text
    assert "?" not in text


# The report as data.

floats = st.floats()
options = st.dictionaries(
    st.text(),
    st.one_of(
        st.text().filter(lambda text: text not in {"NaN", "Infinity", "-Infinity"}),
        floats,
        st.integers(-(2**53), 2**53),
        st.booleans(),
    ),
)


@given(options, floats, st.text())
def test_recommendations_survive_the_round_trip(options, value, text):
    """Types too: True stays True, 1.0 stays 1.0, NaN and infinities stay."""
    profile = ProfileSeen(decades=value, finite=False, layers=((text, value),))
    trial = TrialResult(
        Verdict.NO_CHANGE,
        text,
        before=profile,
        losses_before=(value, 1.0),
        changes=(Change(text, text, text, text),),
    )
    sites = (ActivationSite("a", "relu", None, ("b", text), text, False, text),)
    given_ = replace(SWAP, options=options, sites=sites, trial=trial, why=text)
    left = (Rejection(text, text, ("GW101",)),)
    report = make_report(recommendations=(given_, RATE), rejections=left)
    read = Report.from_json(report.to_json())
    (again, rate) = read.recommendations
    assert repr(again) == repr(replace(given_, options=dict(options)))
    assert rate == RATE
    assert read.rejections == left
    assert read.to_json() == report.to_json()


def test_the_json_is_strict_and_of_the_same_schema():
    """Enums by value, no NaN literal; older files have neither field."""
    text = tried().to_json()
    fields = json.loads(text, parse_constant=pytest.fail)
    assert fields["schema_version"] == SCHEMA_VERSION == 1
    first = fields["recommendations"][0]
    assert first["risk"] == "reshapes"
    assert first["options"] == {"to": "relu", "gain": 2.0, "layers": 9, "bias": True}
    assert first["trial"]["verdict"] == "helped"
    assert first["sites"][0]["layer"] == "layers.0"
    del fields["recommendations"], fields["rejections"]
    old = Report.from_json(json.dumps(fields))
    assert old.recommendations == old.rejections == ()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_survive_the_round_trip(name):
    """And read the same on the console."""
    report = SAMPLES[name]()
    read = Report.from_json(report.to_json())
    assert read == report
    assert report_text(read) == report_text(report)
    assert read.health is Health.VANISHING
