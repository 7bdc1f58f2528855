"""Exceptions and warnings of gradwatch; each says when it appears and what to do."""


class GradWatchError(Exception):
    """Base of every exception that gradwatch raises on purpose."""


class SettingsError(GradWatchError, ValueError):
    """A setting is unknown, of the wrong type or out of range.

    Raised at `watch()`, `check()` or when a settings file is read. The message names
    the field, its value and the accepted range: correct that field.
    """


class ModelError(GradWatchError, TypeError):
    """The object to watch is not a module that can be trained.

    Raised when the argument is not an `nn.Module` or has no parameters: pass the
    module whose parameters the optimizer updates.
    """


class ReportError(GradWatchError, ValueError):
    """A saved report or run cannot be read.

    Raised by `Report.load` and `gradwatch report`: the message says what is wrong with
    the file and what was still readable.
    """


class GradWatchWarning(UserWarning):
    """Base of every warning that gradwatch emits."""


class DetachedWarning(GradWatchWarning):
    """Gradwatch met an error of its own, removed its hooks and left training alone.

    Emitted once. Training is unaffected; the report covers the steps before. Please
    file an issue with the traceback that the warning carries.
    """
