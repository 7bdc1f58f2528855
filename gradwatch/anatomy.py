"""What remedies must know of a model and its training, as plain data.

`Structure` says how the gradient flows; this says what code can change: which module or
function each activation is, what stands beside it, and how the model is trained.
`anatomy_reading.py` fills it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivationSite:
    """The activation that follows one weight layer.

    Attributes:
        layer: The weight layer.
        activation: Lower-case name, such as `sigmoid`.
        module: Qualified name of the activation module; None for a function.
        shared_with: Other weight layers that the same module follows.
        where: `file:line` of the forward that calls a function; empty if not known.
        swappable: Whether exchanging it is allowed.
        reason: Why not, if not: `output activation`, `gate`, `inside attention`.
    """

    layer: str
    activation: str
    module: str | None = None
    shared_with: tuple[str, ...] = ()
    where: str = ""
    swappable: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """One weight layer, as an initialiser sees it.

    Attributes:
        layer: Qualified name.
        kind: Class name.
        dims: Spatial dimensions: 0 for a linear layer, 1 to 3 for convolutions.
        fan_in: Inputs per unit.
        fan_out: Outputs per unit.
        in_size: Input features or channels.
        out_size: Output features or channels.
        std: Standard deviation of the weight now; its root mean square at the first
            probe if training has made it NaN or Inf.
        bias_mean: Mean of the bias; None without one.
        keeps_shape: Whether its output has the shape of its input.
        activation: Activation that follows; None if none.
        norm: Norm between it and that activation; None if none.
        hidden: Whether it is off the head (a per-layer verdict may be given).
    """

    layer: str
    kind: str
    dims: int = 0
    fan_in: int = 1
    fan_out: int = 1
    in_size: int = 1
    out_size: int = 1
    std: float = 0.0
    bias_mean: float | None = None
    keeps_shape: bool = False
    activation: str | None = None
    norm: str | None = None
    hidden: bool = True


@dataclass(frozen=True, slots=True)
class RecurrentFacts:
    """One recurrent layer.

    Attributes:
        layer: Qualified name.
        kind: `RNN`, `LSTM`, `GRU`, `RNNCell`, `LSTMCell` or `GRUCell`.
        nonlinearity: `tanh` or `relu` for plain ones; empty for gated ones.
        input_size: Features of the input.
        hidden_size: Features of the state.
        num_layers: Stacked layers.
        bidirectional: Whether it also runs backwards.
        batch_first: Whether the batch is axis 0.
        steps: Time steps of the probed batch; None if not known.
        spectral_radius: Largest absolute eigenvalue of the recurrent weight.
        gate_bias: Mean bias of the forget gate (LSTM) or update gate (GRU), the two
            bias vectors added; None for plain ones.
    """

    layer: str
    kind: str
    nonlinearity: str = ""
    input_size: int = 1
    hidden_size: int = 1
    num_layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    steps: int | None = None
    spectral_radius: float | None = None
    gate_bias: float | None = None


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """The optimizer in use.

    Attributes:
        kind: Class name.
        lr: Largest learning rate of its groups.
        momentum: Momentum of SGD, 0 without.
        weight_decay: Largest weight decay of its groups.
        eps: Epsilon of adaptive optimizers; None without one.
        num_groups: Number of parameter groups.
    """

    kind: str
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    eps: float | None = None
    num_groups: int = 1


@dataclass(frozen=True, slots=True)
class InputFacts:
    """One floating tensor that the model is fed.

    Attributes:
        layer: First weight layer that reads it; empty if not known.
        mean: Mean of the last batch seen.
        std: Standard deviation of the last batch seen.
        max_abs: Largest magnitude.
    """

    layer: str
    mean: float
    std: float
    max_abs: float


@dataclass(frozen=True, slots=True)
class Anatomy:
    """All of it.

    Attributes:
        model: Class name of the model.
        weights: Trainable weight layers in execution order, heads included.
        sites: Activations after weight layers, in execution order.
        recurrent: Recurrent layers.
        norms: Names of norm modules.
        norm_first: Names of transformer layers that can norm first but do not
            (`nn.TransformerEncoderLayer(norm_first=False)`).
        optimizer: The optimizer in use; None if none stepped yet.
        inputs: What the model was fed at the last batch; empty if not captured.
        dtype: `float32`, `float16`, ...: of the parameters.
        autocast: Dtype of autocast if one was seen in use; empty otherwise.
        grad_clip: Norm to which gradients were clipped at most steps (median of the
            norms after clipping); None if none was.
        from_start: Whether training was seen from its first step.
        target_scale: Root mean square of a regression target, where the loss shows it;
            None if not known.
        keyed: Names of modules whose number is a key of an `nn.ModuleDict`, no index.
    """

    model: str = ""
    weights: tuple[WeightFacts, ...] = ()
    sites: tuple[ActivationSite, ...] = ()
    recurrent: tuple[RecurrentFacts, ...] = ()
    norms: tuple[str, ...] = ()
    norm_first: tuple[str, ...] = ()
    optimizer: OptimizerFacts | None = None
    inputs: tuple[InputFacts, ...] = ()
    dtype: str = "float32"
    autocast: str = ""
    grad_clip: float | None = None
    from_start: bool = True
    target_scale: float | None = None
    keyed: tuple[str, ...] = ()

    def site(self, layer: str) -> ActivationSite | None:
        """Return the activation that follows a layer, or None."""
        return next((site for site in self.sites if site.layer == layer), None)

    def weight(self, layer: str) -> WeightFacts | None:
        """Return the facts of a weight layer, or None."""
        return next((facts for facts in self.weights if facts.layer == layer), None)
