"""Several processes: one rhythm and one record for all ranks that watch.

No collective runs before every rank has said, through the store that torch.distributed
keeps anyway, that it watches the same model at the same step; nobody waits for that. If
one does not say so, each rank stays with its own statistics, which its records tell.
The collectives run on a group of our own, which torch's list of groups does not know,
with a time limit; a rank that does not come ends them and nothing else.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from gradwatch._version import __version__
from gradwatch.errors import GradWatchWarning
from gradwatch.probe import Probe
from gradwatch.processes_handshake import Handshake
from gradwatch.processes_record import (
    OwnPart,
    Terms,
    Unit,
    alike,
    layout_of,
    merge,
    reduced_norm,
)
from gradwatch.ranks import world
from gradwatch.records import StepRecord
from gradwatch.rhythm import Rhythm
from gradwatch.settings import Settings
from gradwatch.statistics import plain
from gradwatch.watched_model import WatchedModel

#: Seconds that a rank waits for the others in one of our collectives.
TIMEOUT_S = 60.0
#: Units whose masks are summed at a probe; the dead ones of larger models are not
#: counted over ranks.
_MAX_UNITS = 1 << 17
#: Relative spread of the ranks' reduced gradients that counts as none: rounding of
#: unlike devices.
_SAME_GRADIENT = 1e-3


class Processes:
    """The ranks that train one model, as one of their watches sees them.

    Args:
        settings: Options; equal on all ranks that join.
        rhythm: Follows rank 0's once they have.
        watched: The model.

    Attributes:
        meeting: Step of the next common probe; None before they join and after.
        why_alone: Why the statistics are one rank's; empty while that is open, and
            where they are global.
    """

    def __init__(
        self, settings: Settings, rhythm: Rhythm, watched: WatchedModel
    ) -> None:
        self.meeting: int | None = None
        self.why_alone = ""
        self._settings = settings
        self._rhythm = rhythm
        self._watched = watched
        self._closed = True
        self._rank, self._ranks = 0, 1
        self._store: Any = None
        self._group: Any = None
        self._length = 0
        self._began = False
        self._handshake: Handshake | None = None
        self._met = False
        self._sharded = False
        self._moved: dict[str, int] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report must know."""
        why = self.why_alone
        if self._ranks > 1 and not self._met:
            why = why or "the run was too short for the ranks to agree on common probes"
        if not why:
            return self._shard_notes()
        since = " since their last common probe" if self._met else ""
        return (f"The statistics are those of rank {self._rank} alone{since}: {why}.",)

    @property
    def busy(self) -> bool:
        """Whether every step must be looked at: the handshake is under way."""
        return self._handshake is not None

    def _shard_notes(self) -> tuple[str, ...]:
        if not self._sharded:
            return ()
        return (
            "Gradients are sharded: the norms of steps between common probes are those "
            f"of rank {self._rank}'s shards.",
        )

    def open(self) -> None:
        """Look for the other ranks from now on: not so for a copy of ours."""
        self._closed = False

    def receive(self, record: StepRecord, probe: Probe) -> StepRecord:
        """Return the record of all ranks where they meet at its step; else our own.

        Args:
            record: Our own record.
            probe: The probe that it was built from.

        Returns:
            The record, which tells whose it is.
        """
        rank, ranks = world()
        if ranks == 1 or self._closed:
            return record
        own = self._own_part(probe)
        self._sharded = bool(own.shards)
        if not self._began:
            self._rank, self._ranks, self._began = rank, ranks, True
            self._begin(record, own)
        elif self.meets(record.step):
            record_of_all = self._meet(record, own)
            if record_of_all is not None:
                return record_of_all
        return replace(record, local_rank=rank)

    def meets(self, step: int) -> bool:
        """Whether the ranks exchange the probe of this step, and so wait for it."""
        return self.meeting is not None and step >= self.meeting

    def end_step(self, step: int) -> None:
        """Go on with the handshake at the end of a step. Never waits.

        Args:
            step: The step that ends.
        """
        handshake = self._handshake
        if handshake is None:
            return
        handshake.end_step(step)
        if handshake.why_not:
            self._stay_alone(handshake.why_not)
        elif handshake.joined:
            self._handshake, self._store = None, handshake.store
            self.meeting = self._rhythm.first_common(step)
            self._rhythm.agree(self.meeting)

    def close(self) -> None:
        """Take part in nothing any more."""
        self._closed = True
        self._end()

    # -- handshake ----------------------------------------------------------------

    def _begin(self, record: StepRecord, own: OwnPart) -> None:
        """Tell the store what is watched: one count for each such thing."""
        why_not = self._why_not()
        if why_not:
            self._stay_alone(why_not)
            return
        terms = Terms()
        self._collect(terms, record, own, 0)
        # Room for probes of more calls than the first one.
        self._length = 1 << (2 * len(terms.own) + 64).bit_length()
        facts = self._facts(record, own)
        try:
            self._handshake = Handshake(facts, record.step, self._rank, self._ranks)
        except Exception as error:  # a backend without a store
            self._stay_alone(f"the ranks have no store ({type(error).__name__})")

    def _why_not(self) -> str:
        """Return why the ranks' statistics cannot be joined; empty if they can."""
        if not getattr(torch.distributed, "is_gloo_available", bool)():
            return "torch was built without gloo"
        sharded = [p for p in self._watched.parameters.values() if _mesh(p) is not None]
        model = self._watched.model
        if not sharded or model is None:
            return ""
        modules = model.modules()
        if not any(
            kind.__name__ == "FSDPModule" for m in modules for kind in type(m).__mro__
        ):
            return "its tensors are distributed in another way than by fully_shard"
        for parameter in sharded:
            mesh = _mesh(parameter)
            if mesh.ndim != 1 or mesh.size() != self._ranks:
                return "it is sharded over a part of the ranks"
        return ""

    def _facts(self, record: StepRecord, own: OwnPart) -> list[object]:
        """Return what ranks have in common only if their numbers can be summed.

        The reduced gradient is in it: it is the same on all ranks at the same step of
        one training, and nowhere else.
        """
        norm = reduced_norm(record, own)
        return [
            __version__,
            torch.__version__,
            self._ranks,
            self._settings.model_dump_json(),
            sorted((f.name, f.kind) for f in self._watched.facts.values()),
            [(n, tuple(p.shape)) for n, p in self._watched.parameters.items()],
            sorted(own.shards),
            None if norm is None else f"{norm:.5e}",
            record.step,
            self._length,
        ]

    # -- common probes ------------------------------------------------------------

    def _meet(self, record: StepRecord, own: OwnPart) -> StepRecord | None:
        """Exchange a probe; None if it cannot be joined with the others'."""
        collected = Terms()
        following = self._rhythm.next_probe(record.step)
        self._collect(collected, record, own, following)
        if len(collected.own) > self._length:  # far more calls than at the first probe
            collected = Terms()
            self._collect(collected, record, own, following, too_long=True)
        try:
            totals = self._sum(collected.own)
        except Exception as error:
            self._stay_alone(
                f"a rank did not come to the probe of step {record.step} "
                f"({_first_line(error)})",
                warn=True,
            )
            return None
        terms = Terms(totals)
        same_step, same_layout, same_gradient, following, joined = self._collect(
            terms, record, own, 0
        )
        if not same_step or following <= record.step:
            self._stay_alone("the ranks probed different steps")
            return None
        if not same_gradient:
            self._stay_alone("their gradients differ: they do not train one model")
            return None
        self.meeting = following
        self._rhythm.agree(following)
        self._met = True
        if not same_layout:
            return None  # layers ran on one rank that did not run on another
        for parameter in joined.parameters:
            if parameter.name in own.shards and parameter.grad_norm:
                self._moved[parameter.name] = record.step
        return joined

    def _collect(
        self,
        terms: Terms,
        record: StepRecord,
        own: OwnPart,
        following: int,
        *,
        too_long: bool = False,
    ) -> tuple[bool, bool, bool, int, StepRecord]:
        """Collect what is summed, or read the sums.

        Returns:
            Whether all ranks are at one step, measured the same things and have the
            same gradient; rank 0's next step; the record of all.
        """
        digest = hashlib.sha256(layout_of(record, own).encode()).digest()
        # Numbers below 2^16: their squares are summed exactly.
        same_step = alike(terms, float(record.step % (1 << 16)), 0.0)
        next_step = int(terms.total(following if self._rank == 0 else 0))
        norm = reduced_norm(record, own)
        same_gradient = alike(terms, norm or 0.0, _SAME_GRADIENT)
        parts = (int.from_bytes(digest[at : at + 2], "big") for at in (0, 2, 4))
        same_parts = [alike(terms, float(part), 0.0) for part in parts]
        same_layout = all(same_parts) and not terms.total(too_long)
        joined = record
        if same_layout:  # so in the pass that collects, unless it is too long
            joined = merge(record, own, terms, self._ranks)
        return same_step, same_layout, same_gradient, next_step, joined

    def _sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all ranks: the one collective of a probe."""
        if self._group is None:
            limit = timedelta(seconds=TIMEOUT_S)
            distributed: Any = torch.distributed
            store = distributed.PrefixStore("group", self._store)
            self._group = distributed.ProcessGroupGloo(
                store, self._rank, self._ranks, timeout=limit
            )
        vector = torch.zeros(self._length, dtype=torch.float64)
        vector[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        self._group.allreduce([vector]).wait()
        total: list[float] = vector.tolist()
        return total

    def _own_part(self, probe: Probe) -> OwnPart:
        shards, idle, count = {}, {}, 0
        for entry in probe.at_step.parameters.values():
            if _mesh(entry.parameter) is not None and _is_split(entry.parameter):
                local = plain(entry.parameter)
                shards[entry.name] = 0 if local is None else local.numel()
        for activation in probe.activations:
            if activation.idle is not None:
                key: Unit = activation.layer, activation.activation, activation.call
                count += activation.idle.numel()
                idle[key] = activation.idle
        masks = {key: mask.tolist() for key, mask in idle.items()}
        return OwnPart(
            samples=float(probe.batch_size or 1),
            shards=shards,
            idle=masks if count <= _MAX_UNITS else {},
            moved=self._moved,
        )

    # -- the end ------------------------------------------------------------------

    def _stay_alone(self, why: str, *, warn: bool = False) -> None:
        """Go on with our own statistics; every rank finds out for itself."""
        self.why_alone = why
        self._end()
        if warn:
            with warnings.catch_warnings():
                # A user's `-W error` must not turn this into the end of the run.
                warnings.simplefilter("default", GradWatchWarning)
                warnings.warn(
                    f"gradwatch: {why}. Training is unaffected; from here on the "
                    f"statistics are those of rank {self._rank} alone.",
                    GradWatchWarning,
                    stacklevel=2,
                )

    def _end(self) -> None:
        if self._handshake is not None:
            self._handshake.withdraw()
        self._handshake = None
        self.meeting = None
        self._rhythm.agree(None)
        self._group = self._store = None


def _mesh(tensor: Tensor) -> Any:
    """Return the device mesh of a distributed tensor; None for any other."""
    return getattr(tensor, "device_mesh", None) if hasattr(tensor, "to_local") else None


def _is_split(tensor: Any) -> bool:
    return any(placement.is_shard() for placement in tensor.placements)


def _first_line(error: Exception) -> str:
    """Return what failed, without the place in torch's code."""
    text = str(error).strip().partition("\n")[0]
    if "timeout" in text or "Timed out" in text:
        return f"nothing came for {TIMEOUT_S:g} s"
    if text.startswith("[") and "] " in text:
        text = text.partition("] ")[2]
    return f"{type(error).__name__}: {text.partition('. ')[0][:120]}"
