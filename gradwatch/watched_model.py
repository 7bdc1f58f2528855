"""What is watched of a model: its modules and parameters, by their clean names."""

from __future__ import annotations

import weakref
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradwatch.layers import (
    ModuleFacts,
    clean_name,
    describe,
    matches,
    outer_wrappers,
    own_parameters,
    walk,
)
from gradwatch.statistics import plain

#: Looks for compiled wrappers around a model that was not seen to run (chosen).
_WRAPPER_LOOKS = 4


class WatchedModel:
    """Modules and parameters of a model, all held weakly.

    Args:
        model: The watched module.
        include: Name patterns or module types of the layers to measure; empty for all.
        exclude: The same, of layers to leave out.

    Attributes:
        facts: Facts of the watched modules by `id(module)`.
        modules: The modules by clean name.
        parameters: The parameters by clean name.
        ids: Identities of the parameters.
        trained: Names and identities of the parameters whose gradients a pulse reads.
        zero_at_attach: Names of the parameters that began at zero.
        random: Whether a forward may draw random numbers.
        version: Counts the changes of modules and parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        include: tuple[str | type, ...],
        exclude: tuple[str | type, ...],
    ) -> None:
        self._model = weakref.ref(model)
        self._include = include
        self._exclude = exclude
        self.facts: dict[int, ModuleFacts] = {}
        # Weak: a watch keeps neither the model nor its parameters alive.
        self.modules: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self.parameters: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self.ids: frozenset[int] = frozenset()
        self.trained: tuple[tuple[str, int], ...] = ()
        self.zero_at_attach: frozenset[str] = frozenset()
        self.random = True
        self.version = 0
        self._keys: tuple[object, ...] = ()
        self._last_device = ""
        #: Whether a compiled wrapper runs the whole model.
        self.wrapped = False
        self._looks_left = _WRAPPER_LOOKS

    @property
    def model(self) -> nn.Module | None:
        """The model, if it lives."""
        return self._model()

    @property
    def device(self) -> str:
        """Devices of the parameters."""
        kinds = dict.fromkeys(str(p.device) for p in self.parameters.values())
        return ", ".join(kinds) or self._last_device

    def look_for_wrappers(self) -> list[nn.Module]:
        """Return the compiled wrappers that run the whole model; a few times only."""
        model = self.model
        if model is None or not self._looks_left:
            return []
        self._looks_left -= 1
        found = outer_wrappers(model)
        self.wrapped = self.wrapped or bool(found)
        return found

    def resolve(self) -> None:
        """Look the modules and parameters up again: they may have been replaced."""
        model = self._model()
        if model is None:
            return
        found = [
            (name, module, compiled or self.wrapped)
            for name, module, compiled in walk(model)
            # A compiled block is named by its wrapper.
            if not name.endswith("._orig_mod")
        ]
        keys = tuple(_key(*one) for one in found)
        if keys == self._keys:
            return
        self._keys = keys
        self.version += 1
        self.facts = {}
        self.modules = WeakValueDictionary()
        for name, module, compiled in found:
            facts = describe(name, module, compiled=compiled)
            if self._chosen(facts.name, module):
                self.facts[id(module)] = facts
                self.modules[facts.name] = module
        parameters = {
            clean_name(name): parameter
            for name, parameter in model.named_parameters()
            if self._chosen_parameter(clean_name(name))
        }
        ids = frozenset(map(id, parameters.values()))
        if ids != self.ids:  # the same object while nothing changed
            self.ids = ids
        self.parameters = WeakValueDictionary(parameters)
        self.trained = tuple(
            (name, id(p)) for name, p in parameters.items() if _trains(p)
        )
        self._last_device = self.device
        self.random = any("Dropout" in facts.kind for facts in self.facts.values())

    def _chosen(self, name: str, module: nn.Module) -> bool:
        if name == "":
            return True
        if self._include and not matches(self._include, name, module):
            return next(module.children(), None) is not None
        return not matches(self._exclude, name, module)

    def _chosen_parameter(self, name: str) -> bool:
        owner = name.rpartition(".")[0].split(".parametrizations")[0]
        return owner in self.modules or not (self._include or self._exclude)

    def note_zero_parameters(self) -> None:
        """Remember which tensors begin at zero, such as LoRA's B."""
        zero = []
        for name, parameter in self.parameters.items():
            data = plain(parameter)
            if data is None:
                continue
            if not bool(data.reshape(-1)[:1024].any()) and not bool(data.any()):
                zero.append(name)
        self.zero_at_attach = frozenset(zero)

    def trainable(self) -> list[Tensor]:
        """Return the parameters that gradients may come to, in order."""
        return [p for p in self.parameters.values() if _trains(p)]


def _trains(parameter: Tensor) -> bool:
    # The copy of a scripted module holds parameters that are no leaves.
    return parameter.requires_grad and parameter.is_leaf and not is_lazy(parameter)


def _key(name: str, module: nn.Module, compiled: bool) -> tuple[object, ...]:
    """Return what the facts of a module depend on; cheaper than the facts."""
    own = tuple(
        (id(parameter), parameter.requires_grad, is_lazy(parameter))
        for _, parameter in own_parameters(module)
    )
    return (id(module), name, type(module), compiled, len(module._modules), own)
