"""The remedies, one file each; `REMEDIES` holds them in the order of the catalogue."""

from gradwatch.remedies.add_normalisation import AddNormalisation
from gradwatch.remedies.add_residual import AddResidual
from gradwatch.remedies.adjust_learning_rate import AdjustLearningRate
from gradwatch.remedies.attention_or_truncation import AttentionOrTruncation
from gradwatch.remedies.base import Case, Remedy
from gradwatch.remedies.change_optimizer import ChangeOptimizer
from gradwatch.remedies.clip_gradients import ClipGradients
from gradwatch.remedies.gated_cell import GatedCell
from gradwatch.remedies.gradient_amplification import GradientAmplification
from gradwatch.remedies.initialise_weights import InitialiseWeights
from gradwatch.remedies.loss_scaling import LossScaling
from gradwatch.remedies.normalise_data import NormaliseData
from gradwatch.remedies.orthogonal_recurrence import OrthogonalRecurrence
from gradwatch.remedies.pretrain_layers import PretrainLayers
from gradwatch.remedies.reconnect import Reconnect
from gradwatch.remedies.revive_units import ReviveUnits
from gradwatch.remedies.swap_activation import SwapActivation
from gradwatch.remedies.weight_decay import WeightDecay
from gradwatch.remedies.weight_search import WeightSearch

__all__ = ["REMEDIES", "Case", "Remedy"]

REMEDIES: tuple[Remedy, ...] = (
    SwapActivation(),
    InitialiseWeights(),
    AddNormalisation(),
    AddResidual(),
    ReviveUnits(),
    GradientAmplification(),
    PretrainLayers(),
    NormaliseData(),
    AdjustLearningRate(),
    ClipGradients(),
    ChangeOptimizer(),
    GatedCell(),
    OrthogonalRecurrence(),
    WeightDecay(),
    LossScaling(),
    Reconnect(),
    AttentionOrTruncation(),
    WeightSearch(),
)
