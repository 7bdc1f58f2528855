"""Keep half-precision gradients in range: a loss scale, or bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gradwatch.recipe import Recipe
from gradwatch.recommendations import Recommendation, Rejection, Risk
from gradwatch.remedies.base import Case, Remedy
from gradwatch.rules.wording import amount

_MICIKEVICIUS = "Micikevicius et al. (2018), Mixed precision training, arXiv:1710.03740"
_KALAMKAR = "Kalamkar et al. (2019), A study of bfloat16 for deep learning training, "
_KALAMKAR += "arXiv:1905.12322"
_HALF = "float16"


class LossScaling(Remedy):
    """Keep half-precision gradients in range: a loss scale, or bfloat16.

    When it applies:
        Gradient entries are zero because float16 ends at 6e-8, or NaN or Inf came in
        float16, which ends at 65504.

    When it never does:
        Training in float32 or bfloat16: both reach from 1e-38 to 3e38. Gradients that
        fade along the depth in float32 are not brought back by a factor on the loss:
        the optimizer divides it out again, or it is a learning rate.

    What apply does:
        Scales the loss dynamically (`torch.amp.GradScaler`): up until gradients
        overflow, down where they do, the overflown step skipped. Or computes in
        bfloat16, which needs no scale.

    Record:
        Not counted in our bench; the dynamic scale is the standard of mixed precision
        in float16, bfloat16 that of newer hardware.

    Risk:
        Safe: the weights stay as they are. bfloat16 keeps 8 bits of each number where
        float16 keeps 11.

    References:
        - Micikevicius et al. (2018). Mixed precision training. arXiv:1710.03740.
        - Kalamkar et al. (2019). A study of bfloat16 for deep learning training.
          arXiv:1905.12322.
    """

    name: ClassVar[str] = "loss-scaling"
    summary: ClassVar[str] = "A dynamic loss scale for float16, or bfloat16."
    risk: ClassVar[Risk] = Risk.SAFE

    def propose(self, case: Case) -> Iterable[Recommendation | Rejection]:
        """Return a loss scale and bfloat16, or why precision is not at fault."""
        if case.code not in {"GW107", "GW205"}:
            yield self.reject(
                case, "A factor on the loss changes no ratio between layers or steps."
            )
            return
        latest = case.history.latest
        half = _HALF in {case.anatomy.dtype, case.anatomy.autocast}
        if not half and not (latest is not None and latest.float16):
            yield self.reject(
                case, f"No float16 was seen: training is in {case.anatomy.dtype}."
            )
            return
        scale = latest.loss_scale if latest is not None else None
        offers = [self._scale(case, scale), self._bfloat16(case)]
        if case.code == "GW205":  # a scale cannot keep activations in range
            offers.reverse()
        yield from offers

    def _scale(self, case: Case, scale: float | None) -> Recommendation:
        """Return the dynamic loss scale."""
        owned = case.anatomy.dtype == _HALF
        now = "The loss scale in use is not known"
        if scale == 1.0:
            now = "No loss scale is in use"
        elif scale is not None:
            now = f"The loss scale is {amount(scale)}"
        lines = [
            'scaler = torch.amp.GradScaler("cuda")',
            'with torch.autocast("cuda", dtype=torch.float16):',
            "    loss = loss_fn(model(batch), target)",
            "scaler.scale(loss).backward()",
            "scaler.unscale_(optimizer)  # before any clipping",
            "scaler.step(optimizer)",
            "scaler.update()",
        ]
        if owned:
            lines.insert(
                0, "model.float()  # weights in float32; autocast computes in half"
            )
        return self.recommend(
            case,
            "Scale the loss dynamically"
            + (", with the weights in float32" if owned else ""),
            f"{now}, and float16 knows nothing between 0 and 6e-8. A dynamic scale "
            "rises until gradients overflow, and skips the step in which they do.",
            "\n".join(lines),
            options={"scale": "dynamic"},
            caution=(
                "GradScaler refuses float16 gradients: the weights must be float32."
                if owned
                else "Skipped steps are its ordinary work, unless they go on for ever."
            ),
            source=_MICIKEVICIUS,
            record="not counted in our bench; the standard of float16 training",
            risk=Risk.ADVICE if owned else None,
            can_apply=not owned,
        )

    def _bfloat16(self, case: Case) -> Recommendation:
        """Return computing in bfloat16."""
        owned = case.anatomy.dtype == _HALF
        lines = [
            'with torch.autocast("cuda", dtype=torch.bfloat16):  # and no GradScaler',
            "    loss = loss_fn(model(batch), target)",
        ]
        if owned:
            lines.insert(
                0, "model.float()  # weights in float32; autocast computes in half"
            )
        return self.recommend(
            case,
            "Compute in bfloat16 instead of float16",
            "bfloat16 has the range of float32: nothing rounds to zero above 1e-38, "
            "nothing overflows below 3e38, and no loss scale is needed.",
            "\n".join(lines),
            options={"autocast": "bfloat16"},
            caution="Three bits less of precision; older GPUs compute it slowly.",
            source=_KALAMKAR,
            record="not counted in our bench",
            risk=Risk.ADVICE if owned else None,
            can_apply=not owned,
        )

    def recipe(self, recommendation: Recommendation) -> Recipe:
        """Return the loss scale or the precision."""
        options = recommendation.options
        return Recipe(
            autocast=str(options.get("autocast", "")),
            loss_scaling="scale" in options,
        )
