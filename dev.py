#!/usr/bin/env python3
"""Do a development job on a machine that has only Python: set up what is missing, run.

    python3 dev.py demo    gradwatch's main job: diagnose sick and healthy networks
    python3 dev.py test    the tests
    python3 dev.py setup   the environment of the tests and checks, and nothing else

Words after the job go to the command it runs: `python3 dev.py test -k hooks`. The
environment is `.venv`, beside this file; it is built on the first run and again when
pyproject.toml or constraints-dev.txt change. Delete the folder to start afresh.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
OLDEST = (3, 10)

# What each job needs of pyproject.toml's extras.
EXTRAS = {"demo": "demo", "test": "dev", "setup": "dev"}
# Extras that hold those of another.
CONTAINED_IN = {"demo": ["demo", "dev"], "dev": ["dev"]}


def main(words: list[str]) -> int:
    """Run the job that the words name and return its exit status."""
    if not words or words[0] not in EXTRAS:
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        print(f"gradwatch needs Python {wanted} or newer; this is {sys.version}.")
        return 1
    job, rest = words[0], words[1:]
    failed = prepare(EXTRAS[job])
    if failed or job == "setup":
        return failed
    # Two test processes that each start a thread a core only stand in each other's way.
    threads = {"OMP_NUM_THREADS": "1"} if job == "test" else {}
    return run(command(job, rest), threads)


def command(job: str, rest: list[str]) -> list[str]:
    """Return the command of a job."""
    if job == "demo":
        return [str(BIN / "gradwatch"), "demo", *rest]
    processes = str(min(os.cpu_count() or 1, 4))
    # `python -m` would put this folder on the path ahead of what is installed.
    return [str(BIN / "pytest"), "-n", processes, "--dist", "worksteal", *rest]


def prepare(extras: str) -> int:
    """Build the environment, unless one of this state is there."""
    state = fingerprint()
    done = [VENV / f"ready-{holder}" for holder in CONTAINED_IN[extras]]
    if any(stamp.exists() and stamp.read_text() == state for stamp in done):
        return 0
    python = str(BIN / "python")
    start = time.monotonic()
    print(
        f"Setting up {VENV} for `{extras}`. This downloads PyTorch and takes seconds "
        "to minutes; it is done once.",
        flush=True,
    )
    # venv writes pip last: without it the folder is half made.
    if not any(BIN.glob("pip*")):
        failed = run([sys.executable, "-m", "venv", str(VENV)])
        if failed:
            print(
                "No virtual environment could be made. On Debian and Ubuntu, "
                "`apt-get install python3-venv` adds what is missing."
            )
            return failed
    # The pins must be part of the first call: an unpinned torch, once there, stays.
    install = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        install.append("-qq")  # errors only; no progress bars in a log
    install += ["-c", "constraints-dev.txt", "-e", f".[{extras}]"]
    failed = run(install)
    if failed:
        print("The installation failed; the lines above say why.")
        return failed
    (VENV / f"ready-{extras}").write_text(state)
    print(f"Set up in {time.monotonic() - start:.0f} s.", flush=True)
    return 0


def fingerprint() -> str:
    """Return a hash of all that decides what is installed."""
    digest = hashlib.sha256(f"{ROOT} {sys.version_info[:2]}".encode())
    for name in ("pyproject.toml", "constraints-dev.txt", "gradwatch/_version.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def run(words: list[str], environment: dict[str, str] | None = None) -> int:
    """Print a command, run it from the root and return its exit status."""
    print("+", shlex.join(words), flush=True)
    try:
        # The user's own value of a variable stands.
        env = {**(environment or {}), **os.environ}
        return subprocess.run(words, cwd=ROOT, env=env, check=False).returncode
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"{words[0]} cannot be run: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
