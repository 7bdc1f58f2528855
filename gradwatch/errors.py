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


class TreatmentError(GradWatchError, ValueError):
    """A treatment cannot be applied to this model or optimizer.

    Raised by `treat`, `treat_optimizer` and a treated model's first forward. The
    message names the layer, what stands in the way and what to do instead; the
    original is as it was.
    """


class GradWatchWarning(UserWarning):
    """Base of every warning that gradwatch emits."""


class DetachedWarning(GradWatchWarning):
    """Gradwatch met an error of its own, removed its hooks and left training alone.

    Emitted once. Training is unaffected; the report covers the steps before. Please
    file an issue with the traceback that the warning carries.
    """


class ListenerWarning(GradWatchWarning):
    """A logger cannot write what was measured; the watch goes on without it.

    Emitted once a logger: its run was closed before the watch, the disk is full, a
    server is gone. Open a new logger and attach it to go on.
    """


class PluginWarning(GradWatchWarning):
    """A rule or a remedy of another package cannot be used; everything else goes on.

    Emitted once for each: its import failed, it is no rule or remedy, its code or name
    is taken, or it raised while it judged. Update or uninstall the package it names.
    """


class RecordWarning(GradWatchWarning):
    """The record of a run cannot be written any more; the watch goes on without it.

    Emitted once: the disk is full, the folder is gone or may not be written to. What
    was written until then can be read.
    """


class TreatmentWarning(GradWatchWarning):
    """A treated model did not find, in its first forward, something to change.

    Emitted once. The layers named run as they did before: change them by hand.
    """
