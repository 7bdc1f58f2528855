"""Runs a script or module as `python` would, with everything it trains watched."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradwatch.autowatch import AutoWatch
from gradwatch.errors import GradWatchError
from gradwatch.findings import Severity

#: Environment variables that tell the processes a launcher starts what to do.
OPTIONS_VARIABLE = "GRADWATCH_RUN"
RANK_VARIABLE = "GRADWATCH_RUN_RANK"
#: Exit status where `--fail-on` finds something and the script itself did not fail.
FOUND = 3
_INTERRUPTED = 130


def run(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    fail_on: Severity | None = None,
    **options: Any,
) -> int:
    """Run a script under gradwatch and return its exit status.

    Args:
        target: Path of the script, or name of the module.
        arguments: Its command line.
        module: Whether `target` is a module, as after `python -m`.
        fail_on: Least severity of a confirmed finding that makes the status `FOUND`.
        **options: Keyword arguments of `gradwatch.watch`, plain values.

    Returns:
        The script's own status; 3 where `fail_on` found something and the script's own
        was 0.

    Raises:
        GradWatchError: If there is no such script or module.
    """  # noqa: DOC502 - raised by what it calls
    main, code = _load_module(target) if module else _load_script(target)
    auto = AutoWatch(**options)
    saved = sys.argv[:], sys.path[:], sys.modules["__main__"]
    sys.argv = [main.__file__ or target, *arguments]
    sys.path[0] = os.getcwd() if module else str(Path(target).resolve().parent)
    sys.modules["__main__"] = main
    _tell_children(options)
    auto.install()
    try:
        status = _execute(code, main)
    finally:
        auto.close()
        sys.argv, sys.path[:], sys.modules["__main__"] = saved
    if not auto.watches:
        sys.stderr.write(
            "gradwatch: nothing was watched: the script made no torch.optim optimizer "
            "over the parameters of a module.\n"
        )
    if status == 0 and fail_on is not None and _found(auto, fail_on):
        return FOUND
    return status


def _load_script(target: str) -> tuple[types.ModuleType, types.CodeType]:
    path = Path(target)
    try:
        with io.open_code(str(path.resolve())) as file:
            source = file.read()
    except OSError as error:
        raise GradWatchError(
            f"`script` (={target!r}) cannot be read: {error.strerror}. Pass the path "
            "of a Python file, or a module after -m."
        ) from None
    main = types.ModuleType("__main__")
    main.__file__ = target
    main.__spec__ = None
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    return main, compile(source, target, "exec", dont_inherit=True)


def _load_module(target: str) -> tuple[types.ModuleType, types.CodeType]:
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(target)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{target}.__main__")
    except (ImportError, ValueError):
        spec = None
    finally:
        sys.path.pop(0)
    get_code = getattr(spec.loader if spec is not None else None, "get_code", None)
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None:
        raise GradWatchError(
            f"`module` (={target!r}) was not found, or cannot be run: it must be a "
            "module, or a package with a __main__, that Python can import from here."
        )
    main = types.ModuleType("__main__")
    main.__file__ = spec.origin
    main.__spec__ = spec
    main.__package__ = spec.parent
    main.__loader__ = spec.loader
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    return main, code


def _execute(code: types.CodeType, main: types.ModuleType) -> int:
    """Run the code and return the status `python` would have ended with."""
    try:
        exec(code, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except KeyboardInterrupt as error:
        _show(error)
        return _INTERRUPTED
    except BaseException as error:
        _show(error)
        return 1
    return 0


def _show(error: BaseException) -> None:
    """Show a traceback as the script alone would have shown it."""
    trace = error.__traceback__
    own = trace.tb_next if trace is not None else None  # without our frame
    shown = error.with_traceback(own if own is not None else trace)
    if sys.excepthook is sys.__excepthook__:
        traceback.print_exception(shown)
    else:
        sys.excepthook(type(shown), shown, shown.__traceback__)


def _found(auto: AutoWatch, least: Severity) -> bool:
    return any(
        finding.confirmed and finding.severity >= least
        for one in auto.watches
        for finding in one.report().findings
    )


def _tell_children(options: dict[str, Any]) -> None:
    """Let the other ranks that a launcher starts as `python script.py` watch as well.

    Lightning's launcher starts the script again, without gradwatch, once a rank. A
    folder of ours on PYTHONPATH holds a `sitecustomize` that Python imports at start.
    """
    plain = {k: v for k, v in options.items() if k != "console"}
    os.environ[OPTIONS_VARIABLE] = json.dumps(plain, default=str)
    os.environ[RANK_VARIABLE] = os.environ.get("LOCAL_RANK", "")
    folder = str(Path(__file__).parent / "child_start")
    paths = os.environ.get("PYTHONPATH", "")
    if folder not in paths.split(os.pathsep):
        package = str(Path(__file__).parent.parent)
        parts = [folder, *([paths] if paths else []), package]
        os.environ["PYTHONPATH"] = os.pathsep.join(parts)


def start_in_child() -> None:
    """Watch silently in a process that a launcher started; called by sitecustomize."""
    import atexit

    options = json.loads(os.environ[OPTIONS_VARIABLE])
    auto = AutoWatch(**{**options, "console": None})
    auto.install()
    atexit.register(auto.close)
