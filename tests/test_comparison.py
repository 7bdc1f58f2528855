"""Comparisons of two runs: gone, new, unchanged, and what cannot be said."""

import json
import math

import pytest
from typer.testing import CliRunner

from gradwatch import cli
from gradwatch.comparison import Outcome, compare
from gradwatch.console_comparison import comparison_text
from gradwatch.errors import ReportError
from gradwatch.findings import Confidence, Health, Severity
from gradwatch.report import CheckedRule, Overhead, RunFacts, UncheckedRule
from gradwatch.runlog import read_run
from gradwatch.testing import make_activation, make_chain, make_history, make_step
from tests.recorded_runs import FakeRun
from tests.sample_reports import SAMPLES, make_finding, make_report

VANISHING = make_finding()
SPIKE = make_finding(
    "GW204",
    name="training-spike",
    health=Health.UNSTABLE,
    severity=Severity.WARNING,
)
NOTE = make_finding(severity=Severity.NOTE)
WAITING = make_finding(confidence=Confidence.LOW)


def report(*findings, steps=100, health=None, **given):
    """Return a report of findings; healthy without an alarm."""
    alarms = [finding for finding in findings if finding.is_alarm]
    usual = alarms[0].health if alarms else Health.HEALTHY
    facts = {"model": "Net", "steps": steps, "probe_steps": (0, 1, 2, 5)}
    return make_report(
        findings=findings,
        health=health or usual,
        run=RunFacts(**facts | given.pop("facts", {})),
        checked=[CheckedRule(code="GW101", name="vanishing-gradient", steps=(0, 50))],
        **given,
    )


@pytest.mark.parametrize(
    ("old", "new", "outcome", "words"),
    [
        ([VANISHING], [], "better", "1 alarm gone (GW101), none new"),
        ([VANISHING], [NOTE], "better", "1 alarm gone (GW101)"),
        ([], [VANISHING], "worse", "1 alarm new (GW101)"),
        ([VANISHING], [SPIKE], "mixed", "1 alarm gone (GW101), 1 alarm new (GW204)"),
        ([VANISHING], [VANISHING], "same", "1 alarm in both (GW101)"),
        ([VANISHING, SPIKE], [VANISHING], "better", "1 alarm left (GW101)"),
        ([], [], "same", "no alarm in either"),
        ([NOTE], [], "same", "no alarm in either"),
        ([VANISHING], [WAITING], "unclear", "1 alarm not judged again (GW101)"),
    ],
)
def test_alarms_decide_the_outcome(old, new, outcome, words):
    """Notes and unconfirmed findings do not."""
    comparison = compare(report(*old), report(*new))
    assert comparison.outcome is Outcome(outcome)
    assert words in comparison.sentence


def test_a_milder_and_a_graver_alarm_count():
    """CRITICAL to WARNING is better, the reverse worse."""
    mild = make_finding(severity=Severity.WARNING)
    assert compare(report(VANISHING), report(mild)).outcome is Outcome.BETTER
    assert compare(report(mild), report(VANISHING)).outcome is Outcome.WORSE
    (change,) = compare(report(VANISHING), report(mild)).unchanged
    assert (change.before.severity, change.after.severity) == ("critical", "warning")
    assert change.after.value == 5.76


def test_a_run_compared_with_itself_is_the_same():
    """For every sample: nothing gone, nothing new, no number that differs."""
    for make in SAMPLES.values():
        comparison = compare(make(), make())
        assert comparison.outcome in {Outcome.SAME, Outcome.UNCLEAR}
        assert comparison.gone == comparison.new == comparison.unknown == ()
        for measure in comparison.measures:
            assert str(measure.before) == str(measure.after)


def test_the_mirror_image_swaps_gone_and_new():
    """Compared the other way round, what went came."""
    one, other = report(VANISHING), report(SPIKE)
    there, back = compare(one, other), compare(other, one)
    assert [c.code for c in there.gone] == [c.code for c in back.new] == ["GW101"]
    assert [c.code for c in there.new] == [c.code for c in back.gone] == ["GW204"]


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (
            report(
                not_checked=[
                    UncheckedRule(code="GW101", name="x", reason="no trunk was read")
                ]
            ),
            "not judged in B: no trunk was read",
        ),
        (report(steps=30), "B ended after 30 steps; A shows it since step 40"),
        (report(facts={"failure": "ValueError: x"}), "gradwatch stopped in B"),
        (report(ignored=1), "may be ignored in B"),
    ],
    ids=["not judged", "too short", "failed", "ignored"],
)
def test_what_the_second_run_could_not_have_shown_is_not_gone(after, why):
    """It is unknown, with the reason, and so is the outcome."""
    comparison = compare(report(make_finding(since_step=40)), after)
    assert comparison.gone == ()
    (change,) = comparison.unknown
    assert change.note == why
    assert comparison.outcome is Outcome.UNCLEAR


def test_a_finding_that_a_recorded_run_ignores_is_not_gone(tmp_path):
    """A record says which codes were ignored."""
    sick = {"chains": [make_chain(decades=6.0)]}
    runs = []
    for ignore in ((), ("vanishing-gradient",)):
        run = FakeRun(tmp_path, ignore=ignore)
        for step in (0, 1, 2):
            run.probe(step, **sick)
        runs.append(run.finish())
    comparison = compare(*runs)
    assert [(c.code, c.note) for c in comparison.unknown] == [("GW101", "ignored in B")]


def test_what_came_and_went_is_told():
    """A finding that B had on the way is not just gone."""
    cleared = make_finding(since_step=2, cleared_step=20)
    comparison = compare(report(VANISHING), report(cleared=[cleared]))
    (change,) = comparison.gone
    assert change.note == "stood there from step 2 to 20"


def test_no_verdict_is_no_improvement():
    """A run too short for a verdict does not show that a fix helped."""
    comparison = compare(report(VANISHING), report(health=Health.UNKNOWN))
    assert comparison.outcome is Outcome.UNCLEAR
    assert "B has no verdict yet" in comparison.sentence


def test_the_numbers_stand_side_by_side():
    """D, median update ratio, worst dead share, losses and overhead."""
    histories = [
        make_history(
            make_step(
                0,
                chains=[
                    make_chain(decades=depth),
                    make_chain(decades=-1.0, main=False),
                ],
                activations=[make_activation("layers.0", dead_units=dead)],
                loss=2.0,
            ),
            make_step(1, chains=[make_chain(decades=depth)], loss=loss),
        )
        for depth, dead, loss in ((5.0, 48, 2.0), (0.5, 0, 0.25))
    ]
    sides = [make_report(history=h, overhead=Overhead(share=0.008)) for h in histories]
    numbers = {m.quantity: (m.before, m.after) for m in compare(*sides).measures}
    assert numbers["D"] == pytest.approx((5.0, 0.5))
    assert numbers["update ratio, median"] == (1e-3, 1e-3)
    assert numbers["loss, first"] == (2.0, 2.0)
    assert numbers["loss, last"] == (2.0, 0.25)
    assert numbers["overhead"] == (0.008, 0.008)
    assert "saturated, worst layer" not in numbers  # in neither


def test_records_compare_the_loss_at_a_common_step(tmp_path):
    """A run twice as long has had twice the time; notes say so."""
    runs = []
    for steps, speed in ((100, 1.0), (200, 2.0)):
        run = FakeRun(tmp_path)
        for step in range(steps):
            run.pulse(step, losses=[math.exp(-speed * step / 50)])
        run.probe(steps - 1)
        runs.append(run.finish())
    comparison = compare(*map(read_run, runs))
    (measure,) = [m for m in comparison.measures if "around" in m.quantity]
    assert measure.quantity == "loss, around step 99"
    assert measure.before == pytest.approx(math.exp(-97 / 50))
    assert measure.after == pytest.approx(math.exp(-2 * 97 / 50))
    assert "Loss around step 99: 0.144 → 0.0207." in comparison.sentence
    assert any("B ran longer (200 steps against 100)" in n for n in comparison.notes)


def test_nan_and_other_models_are_compared_without_a_fuss():
    """A diverged run against one of another class; the JSON stays strict."""
    diverged = report(
        VANISHING, facts={"first_loss": 2.0, "last_loss": math.nan, "model": "A"}
    )
    comparison = compare(diverged, report(facts={"last_loss": math.inf}))
    assert "A watched a A, B a Net." in comparison.notes
    fields = json.loads(comparison.to_json(), parse_constant=pytest.fail)
    assert fields["outcome"] == "better"
    assert "NaN" in comparison_text(comparison)


# -- on the console -------------------------------------------------------------------


def run(*words):
    """Return the result of `gradwatch compare`."""
    return CliRunner().invoke(cli.app, ["compare", *map(str, words)])


@pytest.fixture
def saved(tmp_path):
    """Return a saved report and a recorded run."""
    record = FakeRun(tmp_path)
    for step in (0, 1, 2):
        record.probe(step)
    return report(VANISHING).save(tmp_path / "a.json"), record.finish()


def test_the_command_prints_both_columns_within_80_columns(saved):
    """A saved report against a record; the status is 0 whatever the outcome."""
    for words in (saved, saved[::-1]):
        result = run(*words)
        assert result.exit_code == 0
        lines = result.output.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].startswith("gradwatch compare")
        assert "\x1b" not in result.output
    result = run(*saved)
    assert "Better: 1 alarm gone (GW101), none new." in result.output
    assert "health vanishing healthy" in " ".join(result.output.split())
    assert "Gone\n  GW101 vanishing-gradient: CRITICAL, D 5.76 decades" in result.output


def test_the_command_prints_the_json(saved):
    """The same content as the value."""
    fields = json.loads(run(*saved, "--json").output)
    assert fields["format"] == "gradwatch-comparison"
    assert fields["outcome"] == "better"
    assert fields["gone"][0]["code"] == "GW101"
    assert fields == json.loads(compare(*saved).to_json())


def test_what_cannot_be_read_is_refused(saved, tmp_path):
    """One clear error, as by `gradwatch report`."""
    result = run(saved[0], tmp_path / "gone")
    assert result.exit_code == 1
    assert isinstance(result.exception, ReportError)
    assert "cannot be read" in str(result.exception)


def test_hostile_names_are_shown_inert_at_any_width():
    """Markup and escapes in names of layers, findings and paths."""
    hostile = make_finding(
        name="[red]x", layers=("a\x1b[2J", "<b>", "\u202eb"), message="x"
    )
    text = comparison_text(compare(report(hostile), report(hostile)), width=60)
    assert not set("\x1b\u202e") & set(text)
    assert "[red]x" in text
    assert max(map(len, text.splitlines())) <= 60
