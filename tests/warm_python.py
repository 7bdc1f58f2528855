"""A Python that has imported torch already, for tests that run many programs.

Most of a program's time goes to `import torch` and to what torch imports at the first
optimizer step. A server does both once, and runs each program in a fork of itself: a
process of its own, with its own arguments, environment, streams and exit status. Tests
of how an interpreter starts need a real one.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Importing these starts no thread, which a fork would lose.
PRELOADED = ("torch", "torch._dynamo", "gradwatch", "gradwatch.cli", "gradwatch.demo")
SERVER = """
import importlib, json, os, runpy, signal, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
while True:
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    task = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
signal.alarm(task["timeout"])
for stream, number in ((os.devnull, 0), (task["stdout"], 1), (task["stderr"], 2)):
    file = os.open(stream, os.O_RDWR | os.O_CREAT)
    os.dup2(file, number)
    os.close(file)
sys.stdin = open(0, closefd=False)
os.environ.clear()
os.environ.update(task["environment"])
os.chdir(task["folder"])
sys.argv = task["command"]
sys.path[0] = task["folder"]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
elif sys.argv[0] == "-c":
    exec(sys.argv.pop(1), {"__name__": "__main__"})
else:
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


class WarmPython:
    """The server; started at the first program, ended with the tests."""

    def __init__(self):
        self._server = None

    def run(self, command, *, timeout=120, environment=None, folder=None):
        """Run `python *command`, a script or `-m module`, with its arguments.

        Args:
            command: What stands after `python`.
            timeout: Whole seconds after which it is killed.
            environment: Environment variables; those of the tests if None.
            folder: Working directory.

        Returns:
            A `subprocess.CompletedProcess` with text.
        """
        environment = dict(os.environ if environment is None else environment)
        if not hasattr(os, "fork"):
            return subprocess.run(
                [sys.executable, *command],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=environment,
                cwd=folder,
            )
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER, json.dumps(PRELOADED)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        with tempfile.TemporaryDirectory() as streams:
            files = {name: str(Path(streams, name)) for name in ("stdout", "stderr")}
            task = {
                "command": list(command),
                "timeout": timeout,
                "environment": environment,
                "folder": str(folder or Path.cwd()),
                **files,
            }
            self._server.stdin.write(json.dumps(task) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            texts = {
                name: Path(file).read_text("utf-8") for name, file in files.items()
            }
        return subprocess.CompletedProcess(command, status, **texts)

    def close(self):
        """End the server."""
        if self._server is not None:
            self._server.communicate()
            self._server = None
