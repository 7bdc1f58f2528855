"""The code blocks of the documentation's pages, and what they may take for granted.

A page says in comments that no reader sees what is to be done with its blocks:

- ``<!-- set-up: NAME -->``: its blocks find what `SETUPS[NAME]` returns (a model, an
  optimizer, ...). Without it they must stand by themselves.
- ``<!-- from: examples/FILE.py -->``: the Python blocks are parts of that example,
  which runs in CI; every line of theirs must stand in it.
- ``<!-- not run: REASON -->`` right before a block: it cannot run, and why.
- ``<!-- printed -->`` right before a text block: the blocks before it print this, up to
  its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import lightning_fits

ROOT = Path(__file__).resolve().parent.parent
_COMMENT = re.compile(r"<!-- (set-up|from|not run|printed):? ?(.*?) ?-->")
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Its page, from the repository's root.
        line: Line of its first line of code, from 1.
        kind: Language of the fence.
        code: What stands between the fences.
        reason: Why it is not run; empty if it is.
        printed: Whether the blocks before it print it.
    """

    page: str
    line: int
    kind: str
    code: str
    reason: str
    printed: bool

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One page and what its comments say."""

    name: str
    blocks: tuple[Block, ...]
    setup: str
    example: str

    def of(self, *kinds: str) -> list[Block]:
        """Return its blocks of some languages that are to be run."""
        return [b for b in self.blocks if b.kind in kinds and not b.reason]


def read(name: str, text: str) -> Page:
    """Read the text of one page."""
    said = dict(_COMMENT.findall(text))
    blocks = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip().rpartition("\n")[2]
        comment = _COMMENT.fullmatch(before.strip())
        verb, word = comment.groups() if comment else ("", "")
        blocks.append(
            Block(
                page=name,
                line=text.count("\n", 0, match.start(3)) + 1,
                kind=match[2],
                code=re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE),
                reason=word if verb == "not run" else "",
                printed=verb == "printed",
            )
        )
    return Page(name, tuple(blocks), said.get("set-up", ""), said.get("from", ""))


def pages() -> list[Page]:
    """Return the README and every page of the site."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        read(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
        for path in paths
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """Return the commands of a console block as words, comments left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").split()
        if words:
            yield words


def classifier() -> dict[str, Any]:
    """Return what most pages speak of: a small network, its data and its loop."""
    hidden = [m for _ in range(5) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = [(torch.randn(16, 16), torch.randint(4, (16,))) for _ in range(12)]

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    def train(model: nn.Module) -> None:
        for batch in loader:
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()

    return {
        "torch": torch,
        "nn": nn,
        "F": functional,
        "model": model,
        "optimizer": optimizer,
        "loader": loader,
        "batches": loader,
        "batch": loader[0],
        "loss_fn": loss_fn,
        "train": train,
    }


def compiling() -> dict[str, Any]:
    """Return `classifier`, with a `torch.compile` that needs no C++ compiler."""
    found = classifier()
    # Not `torch` itself: the page's `torch.compile` alone takes another back end.
    stand_in = type(
        "Torch", (), {"__getattr__": lambda _, name: getattr(torch, name)}
    )()
    stand_in.compile = partial(torch.compile, backend="eager")
    return found | {"torch": stand_in}


def transformers() -> dict[str, Any]:
    """Return a small GPT-2, its data and a Trainer's arguments."""
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate")
    library = pytest.importorskip("transformers")
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 3, "n_head": 2}
    config = library.GPT2Config(vocab_size=16, **shape)
    tokens = torch.randint(16, (32, 8))
    return {
        "model": library.GPT2LMHeadModel(config),
        "data": [{"input_ids": row, "labels": row} for row in tokens],
        "arguments": library.TrainingArguments(
            output_dir="trained",
            max_steps=6,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
        ),
    }


def lightning() -> dict[str, Any]:
    """Return a LightningModule and its data."""
    pytest.importorskip("lightning")
    return {"module": lightning_fits.module_class()(), "loader": lightning_fits.data()}


SETUPS: dict[str, Callable[[], dict[str, Any]]] = {
    "": dict,
    "classifier": classifier,
    "compiling": compiling,
    "lightning": lightning,
    "transformers": transformers,
}
