"""`gradwatch.trial` and `Watch.trial`: what a user calls."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import gradwatch
from gradwatch.captured_trials import candidates, ranked, title_of, with_trials
from gradwatch.errors import ModelError, SettingsError
from gradwatch.recommendations import TrialResult, Verdict
from tests.harmless import alike, global_hooks, state_of
from tests.trial_models import (
    Noisy,
    batches,
    deep,
    deep_batches,
    loss_fn,
    recommend,
    use_remedies,
)


@pytest.fixture
def _stand_ins(monkeypatch):
    use_remedies(monkeypatch)
    torch.manual_seed(0)


def train(model, data, lr=1e-3, steps=4, loss=loss_fn):
    """Train a model as a user would; the optimizer is gone afterwards."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, data[step % len(data)]).backward()
        optimizer.step()


@pytest.mark.usefixtures("_stand_ins")
class TestTrial:
    """`gradwatch.trial`."""

    def test_it_measures_profiles_and_curves(self):
        """One replayed batch, and two trainings."""
        net = deep()
        result = gradwatch.trial(
            net,
            recommend("cure"),
            batches=deep_batches(),
            loss_fn=loss_fn,
            optimizer=torch.optim.Adam(net.parameters(), lr=1e-3),
            steps=60,
        )
        assert result.verdict is Verdict.HELPED, result.reason
        assert result.how == "training"
        assert result.before.decades > 6 > 1 > abs(result.after.decades)
        assert len(result.losses_before) == len(result.losses_after) == 60
        assert result.backpropagated == "loss_fn"

    def test_several_recommendations_are_one_treatment(self):
        """Cure and rate together."""
        net = deep()
        result = gradwatch.trial(
            net,
            [recommend("cure"), recommend("rate", factor=2.0)],
            batches=iter(deep_batches()),
            loss_fn=loss_fn,
            optimizer=lambda params: torch.optim.Adam(params, lr=5e-4),
            steps=60,
            progress=False,
        )
        assert result.verdict is Verdict.HELPED, result.reason

    def test_advice_cannot_be_tried_and_says_so(self):
        """What the user must do, no copy of ours can show."""
        net = deep()
        advice = recommend("nothing", can_apply=False)
        result = gradwatch.trial(
            net,
            advice,
            batches=deep_batches(),
            loss_fn=loss_fn,
            optimizer=torch.optim.Adam(net.parameters()),
        )
        assert result.verdict is Verdict.FAILED
        assert "advice" in result.reason

    @pytest.mark.parametrize(
        ("arguments", "error", "expected"),
        [
            ({"model": "net"}, ModelError, "model"),
            ({"recommendation": "cure"}, SettingsError, "recommendation"),
            ({"recommendation": []}, SettingsError, "recommendation"),
            ({"optimizer": "Adam"}, SettingsError, "optimizer"),
            ({"loss_fn": 3}, SettingsError, "loss_fn"),
            ({"steps": 0}, SettingsError, "steps"),
            ({"limit_s": 0.0}, SettingsError, "limit_s"),
            ({"batches": []}, SettingsError, "batches"),
        ],
    )
    def test_wrong_arguments_fail_at_once(self, arguments, error, expected):
        """With the argument and what it should be."""
        given = {
            "model": Noisy(),
            "recommendation": recommend("nothing"),
            "batches": batches(),
            "loss_fn": loss_fn,
            "optimizer": torch.optim.Adam,
        } | arguments
        with pytest.raises(error, match=f"`{expected}`"):
            gradwatch.trial(given.pop("model"), given.pop("recommendation"), **given)


def sick_watch(loss=loss_fn, **options):
    """Return a closed watch on a trained sick net, its optimizer gone, and the net."""
    torch.manual_seed(0)
    net = deep()
    with gradwatch.watch(net, console=None, every=1, **options) as watch:
        train(net, deep_batches(), loss=loss)
    return watch, net


class TestWatchTrial:
    """`Watch.trial`, with gradwatch's own remedies."""

    def test_the_watch_tries_its_best_three_with_what_it_captured(self):
        """Batches, loss, optimizer and first weights come from the watch alone."""
        watch, net = sick_watch()
        before = state_of(net)
        offered = watch.report().recommendations
        tried = watch.trial(steps=40)
        assert alike(before, state_of(net))
        assert global_hooks() == []
        assert {r.title for r in tried} == {r.title for r in offered}
        results = [r.trial for r in tried if r.trial is not None]
        assert len(results) == 3
        assert all(result.how == "training" for result in results)
        assert results[0].verdict is Verdict.HELPED, results[0].reason
        assert "cross-entropy" in results[0].backpropagated
        # From the weights at the start: the first loss is the first of the run.
        assert results[0].losses_before[0] == pytest.approx(
            watch.history.first_loss, rel=1e-3
        )

    def test_the_next_report_shows_what_was_tried(self):
        """In the order of the report, with the result; the next step builds on it."""
        watch, _ = sick_watch()
        first = watch.report().recommendations[0]
        assert first.trial is None
        result = watch.trial(first, steps=40)
        assert isinstance(result, TrialResult)
        assert watch.trials[title_of([first])] is result
        report = watch.report()
        assert report.recommendations[0].trial == result
        assert "it helped in its trial" in report.next_step
        again = gradwatch.Report.model_validate_json(report.model_dump_json())
        assert again.recommendations[0].trial == result

    def test_a_loss_that_is_not_known_leaves_the_replay(self):
        """Squared errors cannot be told from other losses: the gradient is replayed."""

        def squares(model, batch):
            return (model(batch[0]) - F.one_hot(batch[1], 4)).pow(2).mean()

        watch, _ = sick_watch(loss=squares)
        result = watch.trial(watch.report().recommendations[0])
        assert result.how == "replay"
        assert result.backpropagated == "captured cotangent"
        assert result.verdict is Verdict.HELPED, result.reason
        assert "pass `batches=` and `loss_fn=`" in result.reason
        given = watch.trial(
            watch.report().recommendations[0],
            batches=deep_batches(),
            loss_fn=squares,
            steps=40,
        )
        assert given.how == "training"

    def test_the_loss_of_the_watch_is_used_with_given_batches(self):
        """`watch(loss_fn=…)` keeps it for trials."""
        watch, _ = sick_watch(loss_fn=loss_fn)
        result = watch.trial(
            watch.report().recommendations[0], batches=deep_batches(), steps=40
        )
        assert result.backpropagated == "loss_fn"
        assert result.how == "training"

    def test_nothing_captured_is_said(self):
        """No memory, no batch: the message names what to pass."""
        watch, _ = sick_watch(settings={"capture_limit": 0})
        with pytest.raises(SettingsError, match="`batches` is needed"):
            watch.trial(watch.report().recommendations[0])

    def test_a_trial_in_the_middle_of_training_leaves_it_as_it_was(self):
        """The rest of the run is bit-identical, and the watch goes on."""

        def run(trying):
            torch.manual_seed(0)
            net = deep()
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
            with gradwatch.watch(net, console=None, every=1) as watch:
                for step, batch in enumerate(deep_batches()):
                    optimizer.zero_grad()
                    loss_fn(net, batch).backward()
                    if trying and step == 4:
                        watch.trial(steps=5)
                    optimizer.step()
            steps = [probe.step for probe in watch.history.probes]
            return state_of(net, [optimizer]), steps

        assert alike(run(trying=False), run(trying=True))

    def test_a_run_that_diverged_is_tried_from_its_first_weights(self):
        """The last batches are NaN; the first one still tells the loss."""
        torch.manual_seed(0)
        net = deep(3, activation=nn.ReLU)
        with gradwatch.watch(net, console=None, every=1) as watch:
            optimizer = torch.optim.SGD(net.parameters(), lr=1e4)
            for batch in deep_batches() * 2:
                optimizer.zero_grad()
                loss_fn(net, batch).backward()
                optimizer.step()
        assert not all(p.isfinite().all() for p in net.parameters())
        tried = [r for r in watch.trial(steps=30) if r.trial is not None]
        assert tried
        assert tried[0].trial.how == "training", tried[0].trial.reason
        assert not math.isfinite(tried[0].trial.losses_before[-1])


def test_what_was_measured_ranks():
    """Helped, the lower loss first; untried; no change; hurt; failed."""

    def with_result(title, verdict, losses=(), how="training"):
        result = TrialResult(verdict, ".", how=how, losses_after=losses)
        return [recommend(title)], result

    cases = [
        with_result("failed", Verdict.FAILED),
        with_result("hurt", Verdict.HURT),
        with_result("no change", Verdict.NO_CHANGE),
        ([recommend("untried")], None),
        with_result("replayed", Verdict.HELPED, how="replay"),
        with_result("good", Verdict.HELPED, (2.0, 1.0)),
        with_result("better", Verdict.HELPED, (2.0, 0.5)),
    ]
    trials = {title_of(chosen): result for chosen, result in cases if result}
    items = with_trials([chosen[0] for chosen, _ in cases], trials)
    assert [item.title for item in ranked(items)] == [
        "better",
        "good",
        "replayed",
        "untried",
        "no change",
        "hurt",
        "failed",
    ]


def test_the_best_three_are_tried_and_different_causes_together():
    """Equal causes are alternatives; different ones may need a remedy each."""
    first, second = recommend("a", ("GW101",)), recommend("b", ("GW101",))
    third, other = recommend("c", ("GW101",)), recommend("d", ("GW302",))
    advice = recommend("e", ("GW106",), can_apply=False)
    assert candidates([first, second, third, other, advice]) == (
        (first,),
        (second,),
        (third,),
        (first, other),
    )
    assert candidates([advice]) == ()
    assert candidates([first]) == ((first,),)
