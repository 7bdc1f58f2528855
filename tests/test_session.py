"""`watch()`: arguments, lifecycle, what it tells, and loops in which nothing trains."""

import gc
import tracemalloc

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.errors import GradWatchError, ModelError, SettingsError
from tests.harmless import small_net, train_briefly


def test_a_healthy_run_reports_what_was_checked():
    """Steps, layers, coverage and overhead are in the report, also inside the loop."""
    model = small_net()
    with gradwatch.watch(model, console=None, every=1) as watch:
        train_briefly(model, 3)
        inside = watch.report()
        train_briefly(model, 2)
    report = watch.report()
    assert (inside.run.steps, report.run.steps) == (3, 5)
    assert report.run.optimizers[0] == "Adam"
    assert report.run.num_parameters == sum(p.numel() for p in model.parameters())
    assert {layer.name for layer in report.layers} >= {"0", "2", "3"}
    assert report.overhead.probes == 5
    assert report.overhead.seconds > 0
    assert watch.overhead > 0.0


@pytest.mark.parametrize("value", ["text", None, 3, nn.Linear, torch.ones(3), [1]])
def test_what_is_no_module_is_refused(value):
    """The message names what was given and what is expected."""
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module"):
        gradwatch.watch(value)
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module"):
        gradwatch.check(value, torch.randn(2, 2))


def test_a_module_without_parameters_is_refused():
    """Nothing could be trained."""
    with pytest.raises(ModelError, match=r"Sequential\) has no parameters"):
        gradwatch.watch(nn.Sequential(nn.ReLU()))
    with pytest.raises(ModelError, match="has no parameters"):
        gradwatch.check(nn.ReLU(), torch.randn(2, 2))


WRONG = {
    "every": ({"every": 0}, r"`every` \(=0\)"),
    "budget": ({"budget": 2.0}, r"`budget` \(=2.0\) must be less than or"),
    "console": ({"console": "loud"}, r"`console` \(='loud'\) must be 'live'"),
    "unknown": ({"settings": {"evry": 3}}, "`evry` is not a setting; did you mean"),
    "range": ({"settings": {"max_calls": -1}}, r"`max_calls` \(=-1\)"),
    "settings": ({"settings": 3}, r"`settings` \(=3\) must be a Settings, a dict"),
    "include": (
        {"include": ["nope.*"]},
        "'nope.*'.*matches no layer.*its layers are 0",
    ),
    "include-type": ({"include": [3]}, r"`include` \(=3\) must hold name patterns"),
    "include-plain": ({"include": 3}, r"`include` \(=3\) must hold name patterns"),
    "exclude": ({"exclude": nn.LSTM}, "LSTM.*matches no layer"),
    "ignore": ({"ignore": ["GW999"]}, r"`ignore` \(='GW999'\)"),
    "on-finding": ({"on_finding": 3}, r"`on_finding` \(=3\) must be callable"),
    "loss-fn": ({"loss_fn": "mse"}, r"`loss_fn` \(='mse'\) must be callable"),
    "scaler": ({"scaler": 3}, r"`scaler` \(=3\) must be a gradient scaler"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_fails_at_once(name):
    """Argument, value and expectation; nothing stays attached."""
    options, message = WRONG[name]
    model = small_net()
    with pytest.raises(SettingsError, match=message):
        gradwatch.watch(model, **({"console": None} | options))
    assert not model._forward_hooks


@pytest.mark.parametrize("loss", ["0.3", None, torch.ones(2), object(), [1.0]])
def test_a_loss_that_is_no_number_is_refused(loss):
    """The user is told; gradwatch does not detach."""
    model = small_net()
    with gradwatch.watch(model, console=None) as watch:
        with pytest.raises(SettingsError, match=r"`loss`.*must be a number"):
            watch.log(loss=loss)
        watch.log(loss=1)
        watch.log(loss=torch.tensor([0.5]))
        assert watch._observer.attached


@pytest.mark.parametrize("include", [["2"], nn.LayerNorm, "block.*", ["block", "0"]])
def test_only_what_is_included_is_measured(include):
    """Names, patterns and types; parents of a match go with it."""
    model = nn.Sequential()
    model.add_module("0", nn.Linear(4, 4))
    model.add_module("block", nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    model.add_module("2", nn.Linear(4, 2))
    expected = {
        "['2']": {"2"},
        "block.*": {"block.0", "block.1"},
        "['block', '0']": {"0", "block.0", "block.1"},
    }.get(str(include), {"block.1"})
    with gradwatch.watch(model, console=None, every=1, include=include) as watch:
        train_briefly(model)
    layers = {r.layer for r in watch.history.latest.layers}
    assert layers == expected
    assert {p.layer for p in watch.history.latest.parameters} == expected
    with gradwatch.watch(model, console=None, every=1, exclude=include) as watch:
        train_briefly(model)
    everything = {"0", "block.0", "block.1", "2"}
    assert {r.layer for r in watch.history.latest.layers} == everything - expected


def test_nothing_trained_is_said():
    """A context without a step, without a backward, with another model's optimizer."""
    model = small_net()
    with gradwatch.watch(model, console=None) as watch:
        pass
    report = watch.report()
    assert report.run.steps == 0
    assert "no optimizer step" in (report.sentence + report.next_step).lower()
    with gradwatch.watch(model, console=None) as watch:
        model(torch.randn(3, 4))
    assert watch.report().run.steps == 0
    with gradwatch.watch(model, console=None) as watch:
        train_briefly(nn.Sequential(nn.Linear(4, 2)))
    report = watch.report()
    assert report.run.steps == 0
    (note,) = report.run.notes
    assert "Adam stepped, but owns no parameter" in note


def test_a_step_without_a_backward_is_no_failure():
    """Every gradient is None: the step counts, nothing is measured."""
    model = small_net()
    with gradwatch.watch(model, console=None, every=1) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.step()
        optimizer.step()
        assert watch._observer.attached
    report = watch.report()
    assert report.run.steps == 2
    assert report.health not in {gradwatch.Health.HEALTHY}


def test_foreign_parameters_in_the_optimizer_are_left_out():
    """Only the watched model's parameters are measured; the step still counts."""
    model, other = small_net(), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(
        [*model.parameters(), *other.parameters()], lr=0.1, momentum=0.9
    )
    with gradwatch.watch(model, console=None, every=1) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            model(other(torch.randn(3, 4))).square().mean().backward()
            optimizer.step()
    names = {p.name for p in watch.history.latest.parameters}
    assert names == {name for name, _ in model.named_parameters()}
    assert watch._observer.step == 3


def test_an_optimizer_of_part_of_the_model_shows_what_it_leaves_out():
    """Parameters that no optimizer owns are known as such."""
    model = small_net()
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
    with gradwatch.watch(model, console=None, every=1) as watch:
        for _ in range(3):
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
    owned = {p.name: p.in_optimizer for p in watch.history.latest.parameters}
    assert owned == {name: name[0] == "3" for name, _ in model.named_parameters()}


def test_findings_are_told_once_each():
    """`on_finding` gets a confirmed finding once, not at every probe."""
    model = small_net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
    told = []
    with gradwatch.watch(model, console=None, every=1, on_finding=told.append):
        train_briefly(model, 8)
    assert told
    keys = [(finding.code, finding.severity) for finding in told]
    assert len(keys) == len(set(keys))
    assert all(isinstance(finding, gradwatch.Finding) for finding in told)


def test_ignored_findings_are_counted_not_shown():
    """A code given as a plain string or in a list."""
    for ignore in ("GW301", ["GW301"]):
        model = small_net()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e-3)
        with gradwatch.watch(model, console=None, every=1, ignore=ignore) as watch:
            train_briefly(model, 5)
        report = watch.report()
        assert "GW301" not in {finding.code for finding in report.findings}


def test_settings_may_come_from_a_file(tmp_path):
    """TOML, YAML, a table of a project file, a dict, or the object itself."""
    toml = tmp_path / "watch.toml"
    toml.write_text("every = 2\nmax_probes = 3\n")
    yaml = tmp_path / "watch.yaml"
    yaml.write_text("every: 2\nmax_probes: 3\n")
    project = tmp_path / "pyproject.toml"
    project.write_text("[tool.gradwatch]\nevery = 2\nmax_probes = 3\n[tool.x]\na=1\n")
    same = gradwatch.Settings(every=2, max_probes=3)
    model = small_net()
    watches = {
        id(gradwatch.watch(model, settings=given, console=None))
        for given in (toml, str(yaml), project, same, same.model_dump())
    }
    assert len(watches) == 1  # equal settings, one live watch
    watch = gradwatch.watch(model, settings=same, console=None)
    train_briefly(model, 10)
    watch.close()
    assert [probe.step for probe in watch.history.probes] == [4, 6, 8]


def test_the_report_comes_at_interpreter_exit(python):
    """Without a `with` block and without `close()`."""
    code = (
        "import torch, gradwatch\n"
        "m = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))\n"
        "gradwatch.watch(m)\n"
        "o = torch.optim.SGD(m.parameters(), lr=0.1)\n"
        "for _ in range(3):\n"
        "    o.zero_grad(); m(torch.randn(3, 4)).sum().backward(); o.step()\n"
    )
    run = python.run(["-c", code])
    assert run.returncode == 0, run.stderr
    assert "gradwatch" in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_five_hundred_steps_need_no_more_memory():
    """Records are bounded; no tensor and no object of a step stays."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    settings = {"max_probes": 4, "max_pulses": 16, "every": 5}
    x = torch.randn(2, 2)
    tensors, held = [], []
    with gradwatch.watch(model, settings=settings, console=None) as watch:
        for step in range(501):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            if step == 50:
                tracemalloc.start()
            if step in {50, 250, 500}:
                gc.collect()
                tensors.append(
                    sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
                )
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(watch.history.pulses) == 16
        assert len(watch.history.probes) == 4
    assert max(tensors[1:]) <= tensors[0]
    assert held[2] - held[1] < 50_000  # bytes; the 50 probes between took 150,000


def test_errors_share_one_base():
    """One `except` catches whatever gradwatch raises on purpose."""
    assert issubclass(SettingsError, GradWatchError)
    assert issubclass(ModelError, GradWatchError)
