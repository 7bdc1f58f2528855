"""Cached results of the bench, and the workers that make what is missing."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STORE = HERE / "results"


def fingerprint(*paths: Path) -> str:
    """Return a short hash of Python sources: files, and all below folders."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _prepare() -> None:
    """One thread a worker, or they stand in each other's way."""
    torch.set_num_threads(1)


def results(
    stage: str,
    work: Callable[..., Any],
    jobs: Mapping[Hashable, tuple[Any, ...]],
    prints: Mapping[Hashable, str],
    processes: int,
) -> dict[Hashable, Any]:
    """Return `work(*jobs[key])` for every key, from the cache where it is there.

    Args:
        stage: Name of the cache's folder.
        work: A function of a module, so that workers can import it.
        jobs: Arguments by key.
        prints: Fingerprint of what each result depends on.
        processes: Workers.

    Returns:
        The results by key.
    """
    folder = STORE / stage
    folder.mkdir(parents=True, exist_ok=True)
    files = {key: folder / f"{_name(key)}-{prints[key]}.pickle" for key in jobs}
    found: dict[Hashable, Any] = {}
    missing = []
    for key, file in files.items():
        if file.exists():
            found[key] = pickle.loads(file.read_bytes())  # our own, made here
        else:
            missing.append(key)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_prepare) as pool:
        futures = {pool.submit(work, *jobs[key]): key for key in missing}
        for count, future in enumerate(as_completed(futures), start=1):
            key = futures[future]
            found[key] = future.result()
            files[key].write_bytes(pickle.dumps(found[key]))
            if count % 25 == 0 or count == len(missing):
                took = time.monotonic() - began
                print(f"{stage} {count}/{len(missing)}, {took:.0f} s", file=sys.stderr)
    return found


def _name(key: Hashable) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:20]
