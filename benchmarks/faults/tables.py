"""Scores as Markdown tables, and the cases behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.faults.rivals import RULES, STEPS
from benchmarks.faults.scoring import FACTORS, Key, Verdict, flips, score, wilson
from benchmarks.faults.setups import SetUp
from benchmarks.faults.watched import Watched

Plain = Mapping[Key, Watched]
Scaled = Mapping[float, Mapping[Key, Watched]]
#: Verdicts of the rivals by factor, run, rule and step.
Rivals = Mapping[float, Mapping[Key, Mapping[str, Mapping[str, str | None]]]]


@dataclass(frozen=True, slots=True)
class Results:
    """All that was run: whole runs and first steps, plain and with a scaled loss."""

    verdicts: Sequence[Verdict]
    whole: Plain
    whole_scaled: Scaled
    first: Plain
    first_scaled: Scaled
    rivals: Rivals


def share(hits: int, total: int) -> str:
    """Return a share with its 95 % interval, such as `.95 (19/20) [.76, .99]`."""
    if total == 0:
        return "-"
    low, high = wilson(hits, total)
    return f"{hits / total:.3f} ({hits}/{total}) [{low:.2f}, {high:.2f}]"


def _row(name: str, verdicts: Sequence[Verdict]) -> str:
    counted = score(verdicts)
    cells = [
        name,
        str(counted.sick),
        str(counted.healthy),
        share(*counted.precision),
        share(*counted.recall),
        share(*counted.right_kind),
        str(counted.false),
    ]
    return f"| {' | '.join(cells)} |"


def main_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a row per family, the total and the hard negatives."""
    families = dict.fromkeys(verdict.setup.family for verdict in verdicts)
    hard = [verdict for verdict in verdicts if verdict.setup.hard_negative]
    return [
        "| family | sick runs | healthy runs | precision | recall | right kind "
        "| false alarms |",
        "|---|---|---|---|---|---|---|",
        *(
            _row(family, [v for v in verdicts if v.setup.family == family])
            for family in families
        ),
        _row("**all**", verdicts),
        _row("hard negatives", hard),
    ]


def rival_table(results: Results) -> list[str]:
    """Return a row per rule and step; the flips are of the kind that it names."""
    lines = [
        "| rule | step | precision | recall | right kind | false alarms | flips |",
        "|---|---|---|---|---|---|---|",
    ]
    setups: dict[Key, Verdict] = {(v.setup.name, v.seed): v for v in results.verdicts}
    for rule in RULES:
        for step in map(str, STEPS):
            kinds = {
                factor: {
                    key: frozenset({kind} if (kind := said[rule][step]) else ())
                    for key, said in runs.items()
                }
                for factor, runs in results.rivals.items()
            }
            plain = kinds.pop(1.0)
            verdicts = [
                Verdict(v.setup, v.seed, v.outcome, plain[key])
                for key, v in setups.items()
                if key in plain
            ]
            counted = score(verdicts)
            changed = len(flips(plain, kinds))
            total = sum(len(runs) for runs in kinds.values())
            lines.append(
                f"| {rule} | {step} | {share(*counted.precision)} "
                f"| {share(*counted.recall)} | {share(*counted.right_kind)} "
                f"| {counted.false} | {changed}/{total} |"
            )
    return lines


def flip_lines(results: Results) -> list[str]:
    """Return what changes under a scaled loss, counted and listed."""
    lines = []
    for title, plain, scaled, confirmed in (
        ("at step 0, any confidence", results.first, results.first_scaled, False),
        ("at the end, alarms", results.whole, results.whole_scaled, True),
    ):
        if not any(scaled.values()):
            continue
        before = {key: run.scale_free(confirmed) for key, run in plain.items()}
        after = {
            factor: {key: run.scale_free(confirmed) for key, run in runs.items()}
            for factor, runs in scaled.items()
        }
        changed = flips(before, after)
        total = sum(len(runs) for runs in scaled.values())
        lines.append(f"Flips of scale-free rules {title}: {len(changed)} of {total}.")
        lines += [
            f"- {name} seed {seed} x{factor:g}: {sorted(old)} -> {sorted(new)}"
            for (name, seed), factor, old, new in changed
        ]
    return lines


def _case(verdict: Verdict, watched: Watched) -> list[str]:
    setup = verdict.setup
    progress = verdict.outcome.progress[verdict.seed]
    accepted = "/".join(sorted(setup.accepted)) or "-"
    lines = [
        f"- {setup.name} seed {verdict.seed}: progress {progress}, "
        f"accepted {accepted}, reported {watched.health}"
    ]
    return lines + [f"    - {finding.line()}" for finding in watched.findings]


def case_lines(results: Results) -> list[str]:
    """Return every false alarm, miss, wrong kind and trouble with its findings."""
    groups: dict[str, list[Verdict]] = {
        "False alarms": [],
        "Misses": [],
        "Wrong kind": [],
        "Not scored, alarmed": [],
    }
    for verdict in results.verdicts:
        if not verdict.scored:
            if verdict.alarmed:
                groups["Not scored, alarmed"].append(verdict)
        elif not verdict.sick and verdict.alarmed:
            groups["False alarms"].append(verdict)
        elif verdict.sick and not verdict.alarmed:
            groups["Misses"].append(verdict)
        elif verdict.sick and not verdict.right:
            groups["Wrong kind"].append(verdict)
    lines: list[str] = []
    for title, verdicts in groups.items():
        lines.append(f"\n{title}: {len(verdicts)}")
        for verdict in verdicts:
            key = (verdict.setup.name, verdict.seed)
            lines += _case(verdict, results.whole[key])
    troubled = {key: run for key, run in results.whole.items() if run.trouble}
    lines.append(f"\nErrors and warnings of gradwatch: {len(troubled)}")
    lines += [
        f"- {name} seed {s}: {run.trouble}" for (name, s), run in troubled.items()
    ]
    changed = [
        (verdict.setup.name, verdict.seed)
        for verdict in results.verdicts
        if results.whole[verdict.setup.name, verdict.seed].final_loss
        != verdict.outcome.final_losses[verdict.seed]
    ]
    lines.append(f"\nRuns whose final loss is not the unwatched one: {len(changed)}")
    lines += [f"- {name} seed {seed}" for name, seed in changed]
    return lines


def summary(results: Results, setups: Sequence[SetUp]) -> list[str]:
    """Return the tables that documentation shows."""
    scored = [v for v in results.verdicts if v.scored]
    factors = " and ".join(f"x{factor:g}" for factor in FACTORS)
    lines = [
        f"{len(setups)} set-ups, {len(results.verdicts)} runs, {len(scored)} scored. "
        "Shares with Wilson 95 % intervals; right kind is a share of all sick runs.",
        "",
        *main_table(results.verdicts),
        "",
        *flip_lines(results),
    ]
    if results.rivals:
        lines += [
            "",
            "Rules of other tools, re-stated, judged at one step; flips: verdicts that "
            f"change under a loss {factors}.",
            "",
            *rival_table(results),
        ]
    return lines
