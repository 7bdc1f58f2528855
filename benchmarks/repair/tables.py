"""From outcomes to tables: top-1, top-3, rivals, cost, prediction."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.faults.catalogue import HELD_OUT_FAMILIES
from benchmarks.faults.labels import Outcome
from benchmarks.faults.scoring import wilson
from benchmarks.faults.setups import SetUp
from benchmarks.repair import menu, rivals, trying
from benchmarks.repair.keys import key_of
from benchmarks.repair.outcomes import scales
from gradwatch.recommendations import Recommendation

#: |D| after the treatment, in decades: bounds of the rows of the prediction table.
_BINS = (0.5, 1.0, 2.0, 4.0, float("inf"))


@dataclass(frozen=True, slots=True)
class Bench:
    """All results; keys are (name, seed) and (name, seed, treatment)."""

    setups: Sequence[SetUp]
    seeds: Sequence[int]
    frozen: Mapping[str, Outcome]
    seen: Mapping[Hashable, menu.Seen]
    ends: Mapping[Hashable, object]
    trials: Mapping[Hashable, trying.Tried]

    def sick(self, setup: SetUp) -> bool:
        """Whether the set-up is labelled sick."""
        return self.frozen[setup.name].label == "sick"

    def repaired(self, setup: SetUp, seed: int, offer: Recommendation) -> bool:
        """Whether a treatment repaired a run."""
        return self._repairs(setup, seed, key_of(offer))

    def _repairs(self, setup: SetUp, seed: int, key: str) -> bool:
        end = self.ends.get((setup.name, seed, key))
        if end is None or isinstance(end, str):
            return False
        assert isinstance(end, float)
        before = self.seen[setup.name, seed].final
        return scales()[setup.task].repaired(before, end)

    def cures(self, setup: SetUp, seed: int) -> list[Recommendation]:
        """Return the treatments of the menu that repair a run."""
        return [
            offer
            for offer in self.seen[setup.name, seed].menu()
            if self.repaired(setup, seed, offer)
        ]


@dataclass(frozen=True, slots=True)
class Row:
    """One sick run: what repairs it, and what each advisor would have tried."""

    setup: SetUp
    seed: int
    cures: tuple[str, ...]
    orders: Mapping[str, tuple[bool, ...]]
    alarms: tuple[str, ...]
    first: str
    tried: trying.Tried | None

    @property
    def held_out(self) -> bool:
        """Whether its family was kept out of every choice."""
        return self.setup.family in HELD_OUT_FAMILIES


def short(offer: Recommendation) -> str:
    """Return a treatment's name for a table."""
    options = " ".join(str(value) for value in offer.options.values())
    return f"{offer.remedy} {options}".strip()


def rows(bench: Bench) -> list[Row]:
    """Return a row for each sick run."""
    found = []
    for setup in bench.setups:
        if not bench.sick(setup):
            continue
        for seed in bench.seeds:
            seen = bench.seen[setup.name, seed]
            offers, everything = seen.offers(), seen.menu()
            tried = bench.trials.get((setup.name, seed))
            by_key = {key_of(offer): offer for offer in everything}
            orders = {
                "gradwatch, table only": offers,
                "random remedy": rivals.chance(setup.name, everything),
                "folk order": rivals.folk(everything),
                "AUTOTRAINER's order": rivals.autotrainer(seen.alarms, everything),
            }
            if tried is not None:
                best = [by_key[key] for key in tried.order if key in by_key]
                orders = {"gradwatch, after trials": best, **orders}
            found.append(
                Row(
                    setup,
                    seed,
                    tuple(short(offer) for offer in bench.cures(setup, seed)),
                    {
                        who: tuple(bench.repaired(setup, seed, o) for o in order)
                        for who, order in orders.items()
                    },
                    seen.alarms,
                    short(offers[0]) if offers else "nothing",
                    tried,
                )
            )
    return found


def render(bench: Bench) -> str:
    """Return all tables as Markdown."""
    every = rows(bench)
    parts = [_score(every), _rest(every), _healthy(bench), _cost(every)]
    parts += [_prediction(bench), _list(every)]
    return "\n\n".join(part for part in parts if part)


def _share(hits: int, total: int) -> str:
    if not total:
        return "none"
    low, high = wilson(hits, total)
    return f"{hits / total:.3f} ({hits}/{total}, {low:.2f} to {high:.2f})"


def _score(every: Sequence[Row]) -> str:
    lines = [
        "### Sick runs that the menu can repair",
        "",
        "| advisor | families | top-1 | top-3 |",
        "|---|---|---|---|",
    ]
    advisors = list(dict.fromkeys(who for row in every for who in row.orders))
    for who in advisors:
        for name, chosen in (
            ("tuned on", [r for r in every if not r.held_out]),
            ("held out", [r for r in every if r.held_out]),
            ("all", list(every)),
        ):
            able = [r for r in chosen if r.cures]
            if not able:
                continue
            first = sum(any(r.orders.get(who, ())[:1]) for r in able)
            third = sum(any(r.orders.get(who, ())[:3]) for r in able)
            lines.append(
                f"| {who} | {name} | {_share(first, len(able))} "
                f"| {_share(third, len(able))} |"
            )
    return "\n".join(lines)


def _rest(every: Sequence[Row]) -> str:
    rest = [row for row in every if not row.cures]
    silent = [r for r in rest if r.tried is None or not r.tried.helped]
    lines = [
        f"{len(rest)} sick runs are repaired by nothing on the menu; gradwatch says "
        f"that nothing helps, or offers nothing, on {len(silent)} of them.",
    ]
    lines += [
        f"- `{row.setup.name}`: says {row.tried.said}"
        for row in rest
        if row.tried is not None and row.tried.helped
    ]
    return "\n".join(lines)


def _healthy(bench: Bench) -> str:
    healthy = [setup for setup in bench.setups if not bench.sick(setup)]
    runs = [(setup, seed) for setup in healthy for seed in bench.seeds]
    offered = [(s, seed) for s, seed in runs if bench.seen[s.name, seed].offers()]
    worse = 0
    for setup, seed in offered:
        seen = bench.seen[setup.name, seed]
        ends = [
            bench.ends.get((setup.name, seed, key_of(offer)))
            for offer in seen.offers()[:3]
        ]
        scale = scales()[setup.task]
        finals = [end for end in ends if end is None or isinstance(end, float)]
        worse += any(scale.worse(seen.final, final) for final in finals)
    names = ", ".join(f"`{setup.name}`" for setup, _ in offered)
    return (
        f"{len(runs)} healthy runs: {len(offered)} got an offer beyond a note"
        f"{f' ({names})' if names else ''}; one of the best three made {worse} worse."
    )


def _cost(every: Sequence[Row]) -> str:
    costs = sorted(row.tried.runs for row in every if row.tried is not None)
    if not costs:
        return ""
    ninth = costs[min(len(costs) - 1, round(0.9 * (len(costs) - 1)))]
    return (
        "Cost of the trials, in multiples of one training run: median "
        f"{statistics.median(costs):.2f}, 90th percentile {ninth:.2f} "
        f"({len(costs)} runs)."
    )


def _prediction(bench: Bench) -> str:
    pairs = []
    for setup in bench.setups:
        for seed in bench.seeds:
            tried = bench.trials.get((setup.name, seed))
            if tried is None or not bench.sick(setup):
                continue
            for key, decades in tried.decades_after.items():
                pairs.append((decades, bench._repairs(setup, seed, key)))
    if not pairs:
        return ""
    lines = [
        "### What the replay predicts",
        "",
        "| abs(D) after, decades | treatments | repaired |",
        "|---|---|---|",
    ]
    low = 0.0
    for high in _BINS:
        group = [ok for d, ok in pairs if d is not None and low <= abs(d) < high]
        share = _share(sum(group), len(group))
        lines.append(f"| {low:g} to {high:g} | {len(group)} | {share} |")
        low = high
    unknown = [ok for d, ok in pairs if d is None]
    lines.append(
        f"| not finite or not known | {len(unknown)} | "
        f"{_share(sum(unknown), len(unknown))} |"
    )
    return "\n".join(lines)


def _list(every: Sequence[Row]) -> str:
    lines = [
        "### Every sick run",
        "",
        "| set-up | alarms | first offer | repaired by | table | trials |",
        "|---|---|---|---|---|---|",
    ]
    for row in every:
        some = ", ".join(row.cures[:4])
        cures = f"{len(row.cures)}: {some}" if row.cures else "none"
        lines.append(
            f"| {row.setup.name} | {' '.join(row.alarms) or 'none'} | {row.first} "
            f"| {cures} | {_rank(row, 'gradwatch, table only')} "
            f"| {_rank(row, 'gradwatch, after trials')} |"
        )
    return "\n".join(lines)


def _rank(row: Row, who: str) -> str:
    """Return the place of the first treatment that repairs, or a dash."""
    order = row.orders.get(who, ())
    return str(order.index(True) + 1) if True in order else "-"
