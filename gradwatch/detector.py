"""Run the rules, confirm them over probes, and group one cause into one finding."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gradwatch.findings import (
    HEALTH_ORDER,
    Confidence,
    Finding,
    Health,
    Severity,
    Trend,
)
from gradwatch.history import History
from gradwatch.plugins import warn
from gradwatch.records import Coverage
from gradwatch.rule_plugins import all_rules, ask, unmet
from gradwatch.rules import Rule
from gradwatch.rules.causes import group
from gradwatch.rules.ignoring import parse_ignore, strip
from gradwatch.settings import Settings
from gradwatch.structure import Structure

#: Cleared findings kept in memory.
_MOST_CLEARED = 100
#: Consecutive probes that make a finding certain (design section 4).
_CERTAIN_PROBES = 3
#: Relative change of the deciding number that counts as a trend (chosen).
_TREND = 0.1
#: Causes of NaN and Inf: they may still be seen in the probe that holds the NaN.
_CAUSES_OF_NON_FINITE = frozenset({"GW201", "GW202", "GW203", "GW301"})


@dataclass(slots=True)
class _Track:
    """What one rule said at the last probes."""

    votes: deque[Finding | None]
    latest: Finding
    since_step: int = 0
    first_value: float | None = None
    num_seen: int = 0
    in_a_row: int = 0
    confirmed: bool = False

    @property
    def hits(self) -> int:
        """Probes of the window at which the rule fired."""
        return sum(vote is not None for vote in self.votes)

    def severity(self, needed: int) -> Severity:
        """Return the severity that `needed` probes of the window agree on, at least."""
        seen = sorted((vote.severity for vote in self.votes if vote), reverse=True)
        return seen[min(needed, len(seen)) - 1] if seen else self.latest.severity


class Detector:
    """Runs the rules after each probe and says what is confirmed.

    A finding is confirmed when `confirm_probes` of the last `confirm_window` probes
    agree, and it clears the same way. A probe at which a rule cannot be judged counts
    neither for nor against it; nor does one that is full of NaN, except for the NaN
    and for what may have caused it.

    Args:
        settings: The limits.
        rules: The rules to run; ours and those of plug-ins if None.
        ignore: Codes or names of rules, optionally with a layer pattern, such as
            ``GW103:encoder.*``. What they hide is kept in `ignored`.

    Raises:
        SettingsError: If a pattern of `ignore` names no rule.
    """

    def __init__(
        self,
        settings: Settings,
        rules: Sequence[Rule] | None = None,
        ignore: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        self._rules = all_rules() if rules is None else tuple(rules)
        self._ignore = parse_ignore(ignore, self._rules)
        self._failed: set[str] = set()
        self._tracks: dict[str, _Track] = {}
        self._num_probes = 0
        self._fired: set[tuple[str, bool]] = set()
        self._cleared: deque[Finding] = deque(maxlen=_MOST_CLEARED)
        self._hidden: tuple[Finding, ...] = ()
        self._standing: tuple[Finding, ...] = ()
        self._newly_fired: tuple[str, ...] = ()

    @property
    def standing(self) -> tuple[Finding, ...]:
        """Findings that stand, grouped by cause, most severe first."""
        return self._standing

    @property
    def cleared(self) -> tuple[Finding, ...]:
        """Findings that were confirmed and are gone, each with its `cleared_step`."""
        return tuple(self._cleared)

    @property
    def ignored(self) -> tuple[Finding, ...]:
        """Standing findings that the ignore list hides, wholly or in part."""
        return self._hidden

    @property
    def newly_fired(self) -> tuple[str, ...]:
        """Codes that the last update saw for the first time, or first as an alarm.

        Rules that one look confirms are left out: more probes would add nothing.
        """
        return self._newly_fired

    def update(self, history: History, structure: Structure) -> tuple[Finding, ...]:
        """Judge the newest probe; without a new one, refresh rules that need no vote.

        Args:
            history: What was measured.
            structure: The network.

        Returns:
            The standing findings.
        """
        record = history.latest
        self._newly_fired = ()
        if record is None:
            return self._standing
        is_new = history.num_probes != self._num_probes
        self._num_probes = history.num_probes
        found = {
            rule.code: self._judge(rule, history, structure)
            for rule in self._rules
            if is_new or rule.confirm == 1
        }
        broken = found.get("GW205")
        frozen = broken is not None and broken.severity > Severity.NOTE
        for rule in self._rules:
            if rule.code not in found:
                continue
            finding = found[rule.code]
            if frozen and not self._may_vote(rule.code, finding):
                continue
            if finding is None and (
                not is_new or unmet(rule, history, structure, self._settings)
            ):
                continue
            self._vote(rule, finding, record.step, is_new=is_new)
        if frozen:
            self._confirm_causes()
        self._publish(record.step)
        return self._standing

    def _judge(
        self, rule: Rule, history: History, structure: Structure
    ) -> Finding | None:
        finding, error = ask(rule, history, structure, self._settings)
        if error and rule.code not in self._failed:
            self._failed.add(rule.code)
            warn(
                f"The rule {rule.code} {rule.name} of {type(rule).__module__} failed "
                f"({error}); it says nothing, and all other rules go on."
            )
        return finding

    @staticmethod
    def _may_vote(code: str, finding: Finding | None) -> bool:
        if code in {"GW205", "GW901"}:
            return True
        return code in _CAUSES_OF_NON_FINITE and finding is not None

    def _needed(self, rule: Rule) -> int:
        if rule.confirm is not None:
            return rule.confirm
        return min(self._settings.confirm_probes, self._settings.confirm_window)

    def _vote(
        self, rule: Rule, finding: Finding | None, step: int, *, is_new: bool
    ) -> None:
        track = self._tracks.get(rule.code)
        if track is None:
            if finding is None:
                return
            votes: deque[Finding | None] = deque(maxlen=self._settings.confirm_window)
            track = _Track(votes, finding, since_step=step)
            if rule.confirm == 1:
                # Such a rule has a window of its own: it says itself since when.
                track.since_step = finding.evidence[0].steps[0]
            track.first_value = finding.evidence[0].value
            self._tracks[rule.code] = track
        if is_new or not track.votes:
            track.votes.append(finding)
            track.in_a_row = track.in_a_row + 1 if finding is not None else 0
            track.num_seen += finding is not None
        else:
            track.votes[-1] = finding
        if finding is not None:
            track.latest = finding
            if rule.confirm is None:
                self._note_first(rule.code, finding)
        if track.hits >= self._needed(rule):
            track.confirmed = True

    def _note_first(self, code: str, finding: Finding) -> None:
        key = (code, finding.severity >= Severity.WARNING)
        if key not in self._fired:
            self._fired |= {key, (code, False)}
            self._newly_fired = (*self._newly_fired, code)

    def _confirm_causes(self) -> None:
        """Let a NaN confirm what was on its way to it, seen once before or with it."""
        for code in _CAUSES_OF_NON_FINITE & self._tracks.keys():
            track = self._tracks[code]
            if track.latest.severity >= Severity.WARNING:
                track.confirmed = True

    def _publish(self, step: int) -> None:
        """Drop what is gone, hide what is ignored, group the rest."""
        shown: list[Finding] = []
        hidden: list[Finding] = []
        for rule in self._rules:
            track = self._tracks.get(rule.code)
            if track is None:
                continue
            if self._is_gone(track):
                if track.confirmed:
                    finding = self._finding(rule, track)
                    self._cleared.append(replace(finding, cleared_step=step))
                del self._tracks[rule.code]
                continue
            if not track.confirmed and track.votes[-1] is None:
                continue
            finding = self._finding(rule, track)
            left = strip(finding, self._ignore)
            if left is not None:
                shown.append(left)
            if left is not finding:
                hidden.append(finding)
        self._hidden = tuple(hidden)
        self._standing = group(shown)

    def _is_gone(self, track: _Track) -> bool:
        misses = len(track.votes) - track.hits
        if track.confirmed:
            return misses >= min(
                self._settings.confirm_probes, self._settings.confirm_window
            )
        return track.hits == 0

    def _finding(self, rule: Rule, track: _Track) -> Finding:
        latest, needed = track.latest, self._needed(rule)
        confidence = Confidence.LOW
        if track.confirmed:
            certain = rule.confirm == 1 or track.in_a_row >= _CERTAIN_PROBES
            confidence = Confidence.HIGH if certain else Confidence.MEDIUM
        severity = track.severity(needed) if track.confirmed else latest.severity
        return replace(
            latest,
            severity=severity,
            confidence=confidence,
            since_step=track.since_step,
            trend=_trend(track, latest),
        )


def _trend(track: _Track, latest: Finding) -> Trend:
    first, now = track.first_value, latest.evidence[0].value
    if first is None or track.num_seen < 2:
        return Trend.UNKNOWN
    change = abs(now) - abs(first)
    if change > _TREND * abs(first):
        return Trend.GROWING
    if change < -_TREND * abs(first):
        return Trend.SHRINKING
    return Trend.STEADY


def health_of(
    findings: Iterable[Finding],
    history: History,
    structure: Structure,
    settings: Settings,
) -> Health:
    """Return the worst confirmed state of the network.

    Args:
        findings: Standing findings.
        history: What was measured.
        structure: The network.
        settings: The limits.

    Returns:
        The worst health among the alarms; without any, HEALTHY if enough probes saw
        enough of the network and no warning waits for a second look, else UNKNOWN.
    """
    standing = [f for f in findings if f.cleared_step is None]
    alarms = {f.ends_in or f.health for f in standing if f.is_alarm}
    for health in HEALTH_ORDER:
        if health in alarms:
            return health
    if any(f.severity >= Severity.WARNING for f in standing):
        return Health.UNKNOWN
    enough = _has_seen_enough(history, structure, settings)
    return Health.HEALTHY if enough else Health.UNKNOWN


def _has_seen_enough(
    history: History, structure: Structure, settings: Settings
) -> bool:
    """Whether enough probes saw enough trainable weight layers."""
    # Layers without a gradient (unused, a second optimizer's turn) are left out.
    if history.num_probes < settings.healthy_probes:
        return False
    states, _ = history.best_coverage()
    wanted = [info.name for info in structure.weight_layers()] or list(states)
    judged = [n for n in wanted if states.get(n) is not Coverage.NO_GRADIENT]
    seen = sum(states.get(name) is Coverage.OBSERVED for name in judged)
    return bool(judged) and seen / len(judged) >= settings.healthy_coverage


def layer_health(
    findings: Iterable[Finding],
    history: History,
    structure: Structure,
    settings: Settings,
) -> dict[str, Health]:
    """Return the state of every layer.

    Args:
        findings: Standing findings.
        history: What was measured.
        structure: The network.
        settings: The limits.

    Returns:
        By layer: the worst health of the alarms that list it, as sick or affected;
        else what its coverage and the number of probes allow to say.
    """
    states, _ = history.best_coverage()
    verdicts: dict[str, Health] = {}
    for layer in dict.fromkeys([*structure.layers, *states]):
        state = states.get(layer)
        enough = history.num_probes >= settings.healthy_probes
        if state is Coverage.NO_GRADIENT:
            verdicts[layer] = Health.NO_GRADIENT
        elif state is Coverage.OBSERVED and enough:
            verdicts[layer] = Health.HEALTHY
        else:
            verdicts[layer] = Health.UNKNOWN
    alarms = [finding for finding in findings if finding.is_alarm]
    worst_last = sorted(
        alarms, key=lambda f: HEALTH_ORDER.index(f.health), reverse=True
    )
    for sick_too in (True, False):
        for finding in worst_last:
            for layer in finding.affected if sick_too else finding.layers:
                verdicts[layer] = finding.health
    return verdicts
