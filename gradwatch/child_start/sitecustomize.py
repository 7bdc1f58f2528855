"""Imported by Python at start in the processes below `gradwatch run`.

Starts watching where a launcher started this process as another rank; otherwise it does
nothing. Then it hands on to the sitecustomize that it stands in front of.
"""

import importlib.machinery
import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _is_other_rank() -> bool:
    rank = os.environ.get("LOCAL_RANK", "")
    return (
        "GRADWATCH_RUN" in os.environ
        and rank != ""
        and rank != os.environ.get("GRADWATCH_RUN_RANK", "")
        and "gradwatch" not in sys.orig_argv[1:3]
    )


if _is_other_rank():
    try:
        from gradwatch.script import start_in_child

        start_in_child()
    except Exception as error:  # the user's process must start whatever happens
        sys.stderr.write(f"gradwatch: this rank is not watched: {error!r}\n")

sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
# Not by `import`: that name is this module's while it is being imported.
_next = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
if _next is not None and _next.loader is not None:
    _next.loader.exec_module(importlib.util.module_from_spec(_next))
