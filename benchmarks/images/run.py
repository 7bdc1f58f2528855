"""Train every image model with and without gradwatch and tabulate what it says.

`python -m benchmarks.images.run [--only NAME …] [--optimizer adamw|sgd] [--plain]
[--points]`. Writes `results/images.json` and prints a Markdown table; `--points` lists
the trunk of every chain. Exit status 1 if a run that trains has an alarm, or if a run
is not bit-identical.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.images.data import NUM_BATCHES
from benchmarks.images.zoo import Model, by_name

NUM_STEPS = 30
TRAINS_SHARE = 0.9
OPTIMIZERS = ("sgd", "adamw")
RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Result:
    """One model under one optimizer, without gradwatch and with it.

    Attributes:
        name: Name of the model.
        optimizer: `sgd` or `adamw`.
        first_loss: Mean loss of the first round of batches.
        last_loss: Mean loss of the last round.
        seconds: Seconds of a step without gradwatch.
        trains: Whether it trains, judged without gradwatch.
        identical: Whether the state is the same bit for bit.
        chains: Per chain: source, number of points, D at the first and last probe.
        points: Per chain: label, layer and gradient of each point.
        findings: Standing findings: code, severity, confidence, layers, message.
        cleared: Codes of findings that came and went.
        alarms: Codes of the confirmed warnings.
        observed: Trainable weight layers observed, and how many there are.
        unseen: Layers not observed, by reason.
        roles: Roles of the weight layers.
        activations: Activation that follows each weight layer.
        error: Traceback, if gradwatch broke the run.
    """

    name: str
    optimizer: str
    first_loss: float = math.nan
    last_loss: float = math.nan
    seconds: float = math.nan
    trains: bool = False
    identical: bool = True
    chains: list[dict[str, Any]] = field(default_factory=list)
    points: list[list[tuple[str, str, float | None]]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    observed: tuple[int, int] = (0, 0)
    unseen: dict[str, list[str]] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    activations: dict[str, str | None] = field(default_factory=dict)
    error: str = ""


def _optimizer(model: Model, net: nn.Module, name: str) -> torch.optim.Optimizer:
    rates = model.optimizers
    if name == "sgd":
        return torch.optim.SGD(net.parameters(), lr=rates.sgd, momentum=0.9)
    return torch.optim.AdamW(net.parameters(), lr=rates.adamw)


def _state(net: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    state = {name: value.detach().clone() for name, value in tensors.items()}
    state["rng"] = torch.get_rng_state()
    return state


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(value, right[name])
        or (value.is_floating_point() and value.isnan().any())
        for name, value in left.items()
    )


def train(
    model: Model, optimizer: str, *, watched: bool, steps: int = NUM_STEPS
) -> tuple[list[float], dict[str, Tensor], Any]:
    """Return the losses, the state and, if watched, gradwatch's watch."""
    torch.manual_seed(0)
    net = model.build().train()
    stepper = _optimizer(model, net, optimizer)
    context: Any = nullcontext()
    if watched:
        context = importlib.import_module("gradwatch").watch(net, console=None)
    losses = []
    with context as watch:
        for step in range(steps):
            inputs, target = model.batch(step)
            stepper.zero_grad()
            loss = model.loss(net(*inputs), target)
            loss.backward()
            stepper.step()
            losses.append(loss.item())
    return losses, _state(net), watch


def _read(result: Result, watch: Any) -> None:
    report = watch.report()
    probes = [p for p in watch.history.probes if p.chains]
    ends = {"first": probes[:1], "last": probes[-1:]}
    decades = {
        end: {chain.source: chain.decades() for r in records for chain in r.chains}
        for end, records in ends.items()
    }
    for chain in report.chains:
        result.chains.append(
            {
                "source": chain.source,
                "points": len(chain.points),
                "first": decades["first"].get(chain.source),
                "last": decades["last"].get(chain.source),
                "known": chain.structure_known,
            }
        )
        result.points.append([(p.label, p.layer, p.grad_norm) for p in chain.points])
    for finding in report.findings:
        result.findings.append(
            {
                "code": finding.code,
                "severity": finding.severity.name,
                "confidence": finding.confidence.name,
                "layers": list(finding.layers),
                "message": finding.message,
                "evidence": [(e.quantity, e.value, e.limit) for e in finding.evidence],
            }
        )
        if finding.is_alarm:
            result.alarms.append(finding.code)
    result.cleared = [finding.code for finding in report.cleared]
    coverage = report.coverage
    result.observed = (coverage.weight_layers_observed, coverage.num_weight_layers)
    result.unseen = {r.reason: list(r.layers) for r in coverage.reasons}
    for layer in report.layers:
        if layer.role.value in {"trunk", "branch", "head"}:
            result.roles[layer.name] = layer.role.value
            result.activations[layer.name] = layer.activation


def run_one(model: Model, optimizer: str, *, plain: bool = False) -> Result:
    """Train one model without and, unless `plain`, with gradwatch."""
    result = Result(model.name, optimizer)
    start = time.perf_counter()
    losses, state, _ = train(model, optimizer, watched=False)
    result.seconds = (time.perf_counter() - start) / NUM_STEPS
    result.first_loss = sum(losses[:NUM_BATCHES]) / NUM_BATCHES
    result.last_loss = sum(losses[-NUM_BATCHES:]) / NUM_BATCHES
    finite = all(map(math.isfinite, losses))
    # AdamW and SGD may overshoot at first: the lowest of the first round counts.
    least = min(losses[:NUM_BATCHES])
    result.trains = finite and result.last_loss <= TRAINS_SHARE * least
    if not plain:
        try:
            _, other, watch = train(model, optimizer, watched=True)
            result.identical = _same(state, other)
            _read(result, watch)
        except Exception:
            result.error = traceback.format_exc()
    return result


def row(result: Result) -> str:
    """Return one line of the Markdown table."""
    chains = "; ".join(
        f"{c['source']}({c['points']}) {_signed(c['first'])} {_signed(c['last'])}"
        for c in result.chains
    )
    notes = [f["code"] for f in result.findings if f["code"] not in result.alarms]
    notes += [f"({code})" for code in result.cleared]
    cells = [
        result.name,
        result.optimizer,
        f"{result.first_loss:.3g} → {result.last_loss:.3g}",
        "yes" if result.trains else "NO",
        chains or result.error.strip().splitlines()[-1:] or "",
        " ".join(result.alarms),
        " ".join(notes),
        "{}/{}".format(*result.observed),
        "yes" if result.identical else "NO",
        f"{result.seconds:.2f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def table(results: Sequence[Result]) -> str:
    """Return the Markdown table of all results."""
    head = (
        *("model", "optimizer", "loss", "trains", "chain(points) D first, last"),
        *("alarms", "notes", "observed", "identical", "s/step"),
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *map(row, results)])


def summary(results: Sequence[Result]) -> str:
    """Return what the table adds up to."""
    training = [r for r in results if r.trains]
    false = [r for r in training if r.alarms]
    codes = Counter(code for r in false for code in r.alarms)
    failed = [f"{r.name} ({r.optimizer})" for r in results if not r.trains]
    return "\n".join(
        [
            f"- {len({r.name for r in results})} models, {len(results)} runs, "
            f"{len(training)} train; not: {', '.join(failed) or 'none'}.",
            f"- Alarms on runs that train: {len(false)} of {len(training)} "
            f"({dict(codes)}): "
            + (", ".join(f"{r.name} ({r.optimizer})" for r in false) or "none")
            + ".",
            f"- Bit-identical: {sum(r.identical for r in results)} of {len(results)}.",
            f"- Errors: {', '.join(r.name for r in results if r.error) or 'none'}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.images.run")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--points", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "images.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = []
    for model in by_name(options.only):
        for optimizer in (options.optimizer,) if options.optimizer else OPTIMIZERS:
            result = run_one(model, optimizer, plain=options.plain)
            results.append(result)
            print(row(result), file=sys.stderr, flush=True)
            if result.error:
                print(result.error, file=sys.stderr)
            for chain in result.points if options.points else ():
                for label, _, norm in chain:
                    print(f"    {label:50} {norm or 0:.3e}", file=sys.stderr)
                print(file=sys.stderr)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(r) for r in results], indent=1))
    print(f"{table(results)}\n\n{summary(results)}")
    return int(
        any(r.error or not r.identical or (r.trains and r.alarms) for r in results)
    )


if __name__ == "__main__":
    sys.exit(main())
