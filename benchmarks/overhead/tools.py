"""Tools that are put on a model, each as a user would; those that run are compared."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

#: Called after each step, with the loss.
AfterStep = Callable[[Tensor], object]


class Tool:
    """A tool on one model.

    Args:
        model: The model.
        optimizer: Its optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer

    def after_backward(self, loss: Tensor) -> None:
        """Do what the tool's user does between backward and step."""

    def after_step(self, loss: Tensor) -> None:
        """Do what the tool's user does after the step."""

    def share(self) -> float | None:
        """Return the share of time the tool itself says it took."""
        return None

    def note(self) -> str:
        """Return what is worth telling of the run."""
        return ""

    def close(self) -> None:
        """Take the tool off."""


class NoTool(Tool):
    """Plain training."""


class GradWatch(Tool):
    """gradwatch at its defaults."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        gradwatch: Any = importlib.import_module("gradwatch")
        self.watch = gradwatch.watch(model, console=None)

    def share(self) -> float | None:
        """Return the share that the report prints."""
        share: float | None = self.watch.report().overhead.share
        return share

    def note(self) -> str:
        """Return the rhythm, and an error of ours if there was one."""
        report = self.watch.report()
        failure = f"; FAILED: {report.run.failure}" if report.run.failure else ""
        return f"{report.overhead.probes} probes; {report.overhead.rhythm}{failure}"

    def close(self) -> None:
        """Close the watch."""
        self.watch.close()


class ItemHooks(Tool):
    """The usual snippet: a hook on each layer that stores a norm as a number."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self.norms: dict[str, float] = {}
        self.handles = []
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[..., None]:
        def on_grad(grad: Tensor) -> None:
            self.norms[name] = grad.norm().item()

        def on_forward(module: nn.Module, args: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and first.requires_grad:
                first.register_hook(on_grad)

        return on_forward

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()


class NormDict(Tool):
    """The other usual snippet: a dict of the norms of all gradients at every step."""

    def after_backward(self, loss: Tensor) -> None:
        """Read every gradient's norm."""
        self.norms = {
            name: parameter.grad.norm().item()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }


class Wandb(Tool):
    """`wandb.watch` with its defaults (histograms of gradients every 1,000 steps)."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
        self.wandb: Any = importlib.import_module("wandb")
        self.folder = tempfile.TemporaryDirectory()
        # Both rows log into one run: its hooks know the process's only.
        self.run = self.wandb.run or self.wandb.init(
            dir=self.folder.name, project="overhead"
        )
        self.run.watch(model, **self.options)

    def after_step(self, loss: Tensor) -> None:
        """Log the loss, which is what sends the histograms."""
        self.run.log({"loss": loss.item()})

    def close(self) -> None:
        """End the run."""
        self.run.unwatch(self.model)
        if self.wandb.run is self.run:
            self.run.finish()
        self.folder.cleanup()


class WandbEveryStep(Wandb):
    """`wandb.watch(log_freq=1)`."""

    options: ClassVar[dict[str, Any]] = {"log_freq": 1}


class TorchMortem(Tool):
    """torchmortem, as its README shows it."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        autopsy: Any = importlib.import_module("torchmortem").Autopsy
        self.stack = contextlib.ExitStack()
        self.autopsy = self.stack.enter_context(autopsy(model, optimizer=optimizer))

    def after_step(self, loss: Tensor) -> None:
        """Tell it of the step."""
        self.autopsy.step(loss=loss.item())

    def close(self) -> None:
        """Leave its context."""
        self.stack.close()


class NeuralDbg(Tool):
    """NeuralDBG, as its README shows it."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        made: Any = importlib.import_module("neuraldbg").NeuralDbg
        self.stack = contextlib.ExitStack()
        self.dbg = self.stack.enter_context(made(model))

    def after_backward(self, loss: Tensor) -> None:
        """Tell it of the loss."""
        self.dbg.record_loss(loss.item())

    def close(self) -> None:
        """Leave its context."""
        self.stack.close()


#: Tools by the name of their row; the second without any is the A/A row.
TOOLS: dict[str, Callable[[nn.Module, Optimizer], Tool]] = {
    "no tool": NoTool,
    "no tool again (A/A)": NoTool,
    "gradwatch": GradWatch,
    "a dict of gradient norms every step": NormDict,
    "per-layer hooks with .item()": ItemHooks,
    "wandb.watch": Wandb,
    "wandb.watch(log_freq=1)": WandbEveryStep,
    "torchmortem": TorchMortem,
    "neuraldbg": NeuralDbg,
}


def global_hooks() -> list[dict[int, Any]]:
    """Return torch's stores of hooks that run in every optimizer's step."""
    optim: Any = importlib.import_module("torch.optim.optimizer")
    return [
        optim._global_optimizer_pre_hooks,
        optim._global_optimizer_post_hooks,
    ]
