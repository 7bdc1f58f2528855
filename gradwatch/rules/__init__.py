"""The rules, one file each; `RULES` holds them in the order of their codes."""

from gradwatch.rules.base import Rule
from gradwatch.rules.clipping_dominates import ClippingDominates
from gradwatch.rules.dead_units import DeadUnits
from gradwatch.rules.disconnected import Disconnected
from gradwatch.rules.exploding_activation import ExplodingActivation
from gradwatch.rules.exploding_gradient import ExplodingGradient
from gradwatch.rules.exploding_through_time import ExplodingThroughTime
from gradwatch.rules.gradient_underflow import GradientUnderflow
from gradwatch.rules.non_finite import NonFinite
from gradwatch.rules.not_observed import NotObserved
from gradwatch.rules.saturated_activation import SaturatedActivation
from gradwatch.rules.signal_collapse import SignalCollapse
from gradwatch.rules.symmetric_units import SymmetricUnits
from gradwatch.rules.training_spike import TrainingSpike
from gradwatch.rules.update_too_large import UpdateTooLarge
from gradwatch.rules.update_too_small import UpdateTooSmall
from gradwatch.rules.vanishing_gradient import VanishingGradient
from gradwatch.rules.vanishing_through_time import VanishingThroughTime

__all__ = ["RULES", "Rule"]

RULES: tuple[Rule, ...] = (
    VanishingGradient(),
    VanishingThroughTime(),
    DeadUnits(),
    SaturatedActivation(),
    SignalCollapse(),
    Disconnected(),
    GradientUnderflow(),
    SymmetricUnits(),
    ExplodingGradient(),
    ExplodingThroughTime(),
    ExplodingActivation(),
    TrainingSpike(),
    NonFinite(),
    UpdateTooLarge(),
    UpdateTooSmall(),
    ClippingDominates(),
    NotObserved(),
)
