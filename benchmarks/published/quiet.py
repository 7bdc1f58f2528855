"""Set-up of a benchmark process: one thread, no chatter, no network."""

from __future__ import annotations

import importlib
import os
import warnings

import torch


def quieten() -> None:
    """Use one thread, go offline, and silence what the models' library says."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="transformers")
    warnings.filterwarnings("ignore", module="torch")
    importlib.import_module("transformers").logging.set_verbosity_error()
