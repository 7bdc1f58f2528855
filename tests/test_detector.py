"""Confirmation, clearing, grouping, ignoring, and the health of net and layers."""

import math

import pytest

from gradwatch.detector import Detector, health_of, layer_health
from gradwatch.errors import SettingsError
from gradwatch.findings import Confidence, Health, Severity, Trend
from gradwatch.history import History
from gradwatch.records import Coverage
from gradwatch.rules.causes import LINKS
from gradwatch.settings import Settings
from gradwatch.testing import (
    layer_names,
    make_activation,
    make_chain,
    make_history,
    make_layer,
    make_parameter,
    make_pulses,
    make_step,
    make_structure,
)

NAMES = [*layer_names(6), "head"]
STRUCTURE = make_structure()
SETTINGS = Settings()


def sick(step, decades=3.0, **fields):
    """Return a probe whose gradient fades and whose lower layers starve."""
    ratios = [1e-6, 1e-6, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3]
    weights = [
        make_parameter(n, update_ratio=r) for n, r in zip(NAMES, ratios, strict=True)
    ]
    given = {"chains": [make_chain(decades=decades)], "parameters": weights} | fields
    return make_step(step, **given)


def run(*probes, pulses=(), ignore=(), settings=SETTINGS):
    """Feed probes one by one, as a session does."""
    detector, history = Detector(settings, ignore=ignore), History()
    waiting = list(pulses)
    for probe in probes:
        while waiting and waiting[0].step <= probe.step:
            history.add_pulse(waiting.pop(0))
        history.add_probe(probe)
        detector.update(history, STRUCTURE)
    return detector, history


def health(detector, history, settings=SETTINGS):
    """Return the health of the network."""
    return health_of(detector.standing, history, STRUCTURE, settings)


def test_one_probe_is_low_two_confirm_three_are_certain():
    """2 of 3 probes confirm; step 0 counts."""
    probes = [sick(step) for step in (0, 1, 2)]
    for count, confidence in enumerate(Confidence, start=1):
        detector, _ = run(*probes[:count])
        assert detector.standing[0].confidence is confidence
        assert detector.standing[0].is_alarm is (count > 1)
        assert detector.standing[0].since_step == 0


def test_two_of_three_need_not_be_in_a_row():
    """A miss in between does not undo the first vote."""
    detector, _ = run(sick(0), make_step(1), sick(2))
    assert detector.standing[0].confidence is Confidence.MEDIUM


def test_one_sighting_goes_away_unsaid():
    """It was never confirmed, so it is not kept as cleared either."""
    detector, history = run(sick(0), make_step(1), make_step(2), make_step(5))
    assert detector.standing == detector.cleared == ()
    assert health(detector, history) is Health.HEALTHY


def test_a_confirmed_finding_clears_the_same_way():
    """2 of 3 probes without it; the report keeps when it went."""
    detector, _ = run(sick(0), sick(1), make_step(2))
    assert detector.standing[0].is_alarm
    detector, history = run(sick(0), sick(1), make_step(2), make_step(5))
    assert detector.standing == ()
    assert [f.cleared_step for f in detector.cleared] == [5]
    assert not detector.cleared[0].is_alarm
    assert health(detector, history) is Health.HEALTHY


def test_a_probe_that_cannot_be_judged_is_no_vote():
    """Not measured is not healthy: without a trunk nothing clears."""
    blind = [make_step(step, chains=[]) for step in (2, 5, 10)]
    detector, _ = run(sick(0), sick(1), *blind)
    assert detector.standing[0].is_alarm


def test_a_severity_needs_its_votes_too():
    """One warning among notes does not make an alarm."""
    note = make_step(0, chains=[make_chain(decades=3.0)])
    detector, _ = run(note, sick(1))
    assert detector.standing[0].severity is Severity.NOTE
    detector, _ = run(note, sick(1), sick(2))
    assert detector.standing[0].severity is Severity.WARNING


def test_an_update_without_a_new_probe_counts_no_vote():
    """At report time the detector is asked once more."""
    detector, history = run(sick(0))
    for _ in range(3):
        detector.update(history, STRUCTURE)
    assert detector.standing[0].confidence is Confidence.LOW


def test_pulse_rules_refresh_without_a_new_probe():
    """A NaN after the last probe is in the report."""
    detector, history = run(make_step(0), make_step(1))
    for pulse in make_pulses([math.nan], finite=False, start=7):
        history.add_pulse(pulse)
    detector.update(history, STRUCTURE)
    (finding,) = detector.standing
    assert finding.code == "GW205"
    assert finding.confidence is Confidence.HIGH
    assert finding.since_step == 7


@pytest.mark.parametrize(
    ("decades", "trend"),
    [(6.0, Trend.GROWING), (3.1, Trend.STEADY), (2.2, Trend.SHRINKING)],
)
def test_the_trend_compares_with_the_first_sighting(decades, trend):
    """By more than a tenth."""
    detector, _ = run(sick(0), sick(1, decades))
    assert detector.standing[0].trend is trend


def test_newly_fired_names_a_code_once_and_again_when_it_turns_an_alarm():
    """A session starts a burst of probes then."""
    detector, history = Detector(SETTINGS), History()
    note = make_step(0, chains=[make_chain(decades=3.0)])
    seen = []
    for probe in (note, sick(1), sick(2)):
        history.add_probe(probe)
        detector.update(history, STRUCTURE)
        seen.append(detector.newly_fired)
    assert seen == [("GW101",), ("GW101",), ()]


IGNORED = {
    "code": "GW101",
    "name": "vanishing-gradient",
    "code and layers": "GW101:layers.*",
}


@pytest.mark.parametrize("pattern", IGNORED.values(), ids=IGNORED)
def test_ignored_findings_are_counted_not_lost(pattern):
    """As linters do."""
    detector, history = run(sick(0), sick(1), ignore=[pattern])
    assert detector.standing == ()
    assert [f.code for f in detector.ignored] == ["GW101"]
    assert health(detector, history) is Health.HEALTHY


def test_a_layer_pattern_hides_only_its_layers():
    """The rest of the finding stands."""
    detector, _ = run(sick(0), sick(1), ignore=["GW101:*.0"])
    assert detector.standing[0].layers == ("layers.1",)
    assert detector.ignored[0].layers == ("layers.0", "layers.1")


def test_an_unknown_code_in_the_ignore_list_is_refused():
    """With the value and what was expected."""
    with pytest.raises(SettingsError, match=r"`ignore` \(='GW999'\)"):
        Detector(SETTINGS, ignore=["GW999"])


# --- one cause, one finding


def codes(detector):
    """Return the codes of the standing findings."""
    return [finding.code for finding in detector.standing]


def test_a_lost_signal_goes_under_the_vanishing_gradient():
    """The ordered phase does both."""
    layers = [make_layer(n, i, sample_signal=0.7 * 0.3**i) for i, n in enumerate(NAMES)]
    detector, _ = run(*(sick(s, layers=layers) for s in (0, 1)))
    assert codes(detector) == ["GW101"]
    (finding,) = detector.standing
    assert "GW105 signal-collapse" in finding.consequences[0]
    assert "layers.5" in finding.affected


def test_dead_units_go_before_the_vanishing_gradient():
    """A dead layer lets nothing through."""
    dead = [make_activation("layers.4", dead_units=64)]
    weights = [make_parameter(n, grad_norm=0.0) for n in NAMES]
    probes = [sick(s, activations=dead, parameters=weights) for s in (0, 1)]
    detector, history = run(*probes)
    assert codes(detector) == ["GW103"]
    assert health(detector, history) is Health.DEAD


def test_half_dead_units_go_under_the_vanishing_gradient():
    """In the ordered phase every second unit is off for every sample."""
    dead = [make_activation("layers.4", dead_units=40)]
    detector, history = run(*(sick(s, activations=dead) for s in (0, 1)))
    assert codes(detector) == ["GW101"]
    assert health(detector, history) is Health.VANISHING


def test_saturation_goes_before_the_break_that_it_makes():
    """In the same layers only."""
    chain = make_chain(norms=[1e-3, 1e-3, 1e-3, 1.0, 1.0, 1.0])
    for layer, expected in (("layers.2", ["GW104"]), ("layers.5", ["GW101", "GW104"])):
        tanh = [make_activation(layer, "tanh", saturated_share=0.9)]
        probes = [sick(s, chains=[chain], activations=tanh) for s in (0, 1)]
        assert codes(run(*probes)[0]) == expected


def growing(step, decades=-5.0, **fields):
    """Return a probe that explodes forward and backward."""
    layers = [make_layer(n, i, output_rms=5.0**i) for i, n in enumerate(NAMES)]
    return make_step(
        step, **({"chains": [make_chain(decades=decades)], "layers": layers} | fields)
    )


def test_forward_growth_merges_into_the_exploding_gradient():
    """Unless it began first."""
    detector, _ = run(growing(0), growing(1))
    assert codes(detector) == ["GW201"]
    detector, _ = run(growing(0, 0.0), growing(1, 0.0), growing(2), growing(5))
    assert codes(detector) == ["GW203"]


def test_large_updates_follow_from_a_profile_that_explodes_at_first():
    """And are the cause where they came first."""
    huge = [make_parameter(n, update_ratio=1.5) for n in NAMES]
    detector, _ = run(growing(0, parameters=huge), growing(1, parameters=huge))
    assert codes(detector) == ["GW201"]
    first = [make_step(s, parameters=huge) for s in (0, 1)]
    later = [growing(s, parameters=huge) for s in (2, 5)]
    detector, history = run(*first, *later)
    assert codes(detector) == ["GW301"]
    assert detector.standing[0].severity is Severity.CRITICAL
    assert health(detector, history) is Health.UNSTABLE


def nan(step, **fields):
    """Return a probe full of NaN."""
    layers = [
        make_layer(n, i, output_finite=False, grad_finite=False)
        for i, n in enumerate(NAMES)
    ]
    return make_step(step, layers=layers, chains=[], loss=math.nan, **fields)


def test_a_nan_explains_all_that_comes_with_it():
    """And what stood before neither clears nor grows."""
    dead = [make_activation("layers.4", dead_units=64)]
    weights = [make_parameter(n, grad_norm=0.0) for n in NAMES]
    probes = [nan(s, activations=dead, parameters=weights) for s in (2, 5, 10)]
    detector, history = run(make_step(0), make_step(1), *probes)
    assert codes(detector) == ["GW205"]
    assert health(detector, history) is Health.NON_FINITE


def test_an_explosion_before_a_nan_is_its_cause():
    """One vote and a NaN confirm it."""
    detector, history = run(growing(0), nan(1), nan(2), nan(5))
    assert codes(detector) == ["GW201"]
    assert detector.standing[0].severity is Severity.CRITICAL
    assert any("GW205" in line for line in detector.standing[0].consequences)
    assert health(detector, history) is Health.NON_FINITE


def test_a_note_explains_no_alarm():
    """It would decide the kind of sickness on weak grounds."""
    note = [make_step(s, chains=[make_chain(decades=-2.2)]) for s in (0, 1)]
    detector, history = run(*note, nan(2), nan(5))
    assert codes(detector)[0] == "GW205"
    assert health(detector, history) is Health.NON_FINITE


def test_the_causal_table_names_rules_and_no_cause_of_itself():
    """Each line is about other rules."""
    from gradwatch.rules import RULES

    known = {rule.code for rule in RULES}
    for link in LINKS:
        assert {link.cause, *link.effects} <= known
        assert link.cause not in link.effects


# --- health


def test_a_healthy_network_needs_probes_and_coverage():
    """Two probes, and 80 % of the trainable weight layers observed."""
    detector, history = run(make_step(0))
    assert health(detector, history) is Health.UNKNOWN
    detector, history = run(make_step(0), make_step(1))
    assert health(detector, history) is Health.HEALTHY
    unseen = dict.fromkeys(NAMES, Coverage.OBSERVED)
    unseen |= dict.fromkeys(NAMES[:2], Coverage.NOT_SEEN)
    probes = [make_step(s, coverage=unseen) for s in (0, 1)]
    detector, history = run(*probes)
    assert codes(detector) == ["GW901"]
    assert health(detector, history) is Health.UNKNOWN


def test_a_warning_that_waits_for_a_second_look_is_not_healthy():
    """Nor sick."""
    detector, history = run(make_step(0), make_step(1), sick(2))
    assert health(detector, history) is Health.UNKNOWN


def test_notes_leave_a_network_healthy():
    """A note is never an alarm."""
    probes = [make_step(s, chains=[make_chain(decades=5.3)]) for s in (0, 1)]
    detector, history = run(*probes)
    assert codes(detector) == ["GW101"]
    assert health(detector, history) is Health.HEALTHY


def test_the_worst_alarm_is_the_health_of_the_network():
    """In the order of design section 4."""
    tanh = [make_activation("layers.5", "tanh", saturated_share=0.9)]
    detector, history = run(*(sick(s, activations=tanh) for s in (0, 1)))
    assert codes(detector) == ["GW101", "GW104"]
    assert health(detector, history) is Health.VANISHING


def test_layers_get_their_own_verdicts():
    """Sick, affected, frozen, not seen, healthy."""
    states = dict.fromkeys(NAMES, Coverage.OBSERVED)
    states |= {"layers.3": Coverage.NO_GRADIENT, "layers.4": Coverage.NOT_SEEN}
    layers = [make_layer("layers.5", 5, sample_signal=0.01)]
    probes = [sick(s, layers=layers, coverage=states) for s in (0, 1)]
    detector, history = run(*probes)
    verdicts = layer_health(detector.standing, history, STRUCTURE, SETTINGS)
    assert verdicts == {
        "layers.0": Health.VANISHING,
        "layers.1": Health.VANISHING,
        "layers.2": Health.HEALTHY,
        "layers.3": Health.NO_GRADIENT,
        "layers.4": Health.UNKNOWN,
        "layers.5": Health.VANISHING,
        "head": Health.HEALTHY,
    }


def test_an_expert_that_the_newest_batch_left_out_was_seen():
    """Coverage is the best over the kept probes."""
    without = dict.fromkeys(NAMES[:4], Coverage.OBSERVED)
    without |= dict.fromkeys(NAMES[4:], Coverage.NO_GRADIENT)
    history = make_history(make_step(0), make_step(1, coverage=without))
    assert layer_health((), history, STRUCTURE, SETTINGS)["head"] is Health.HEALTHY


def test_nothing_is_said_without_a_probe():
    """No record, no verdict."""
    detector = Detector(SETTINGS)
    assert detector.update(History(), STRUCTURE) == ()
    assert health_of((), History(), STRUCTURE, SETTINGS) is Health.UNKNOWN
