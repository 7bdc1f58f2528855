"""`gradwatch run`: an unmodified script, watched."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.autowatch import AutoWatch, outermost

SURROUNDINGS = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
NET = """
    import torch
    from torch import nn
    torch.manual_seed(0)
    hidden = [m for _ in range(10) for m in (nn.Linear(32, 32), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(64, 32), torch.randint(4, (64,))
    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()
"""


@pytest.fixture
def run(python, tmp_path):
    """Return what runs a script under `python -m gradwatch run`."""

    def run(body, *options, arguments=(), setup=NET, start=python.run, **environment):
        script = tmp_path / "train.py"
        script.write_text(textwrap.dedent(setup) + textwrap.dedent(body))
        return start(
            ["-m", "gradwatch", "run", *options, str(script), *arguments],
            environment={**SURROUNDINGS, **environment},
        )

    return run


def start_anew(command, environment=SURROUNDINGS, **options):
    """Run a command in an interpreter that has imported nothing."""
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        **options,
    )


def test_a_sick_script_gets_its_report_and_its_own_output(run):
    """The script's output is its own; the report names the sickness."""
    done = run(
        """
        import sys
        for _ in range(12):
            step()
        print("arguments", sys.argv[1:], __name__)
        """,
        arguments=("--lr", "0.1", "--settings", "x"),
        start=start_anew,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "arguments ['--lr', '0.1', '--settings', 'x'] __main__\n"
    assert "GW101 vanishing-gradient" in done.stderr


def test_training_is_bit_identical_under_run(run, python, tmp_path):
    """The losses are those of plain `python`, to the last bit."""
    body = """
        print([step() for _ in range(15)])
    """
    watched = run(body, "--console", "none")
    plain = python.run([str(tmp_path / "train.py")], environment=SURROUNDINGS)
    assert plain.returncode == 0, plain.stderr
    assert watched.stdout == plain.stdout
    assert watched.stderr == ""


@pytest.mark.parametrize(
    ("end", "status", "shown"),
    [
        ("sys.exit(5)", 5, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no data')", 1, "no data"),
        ("raise ValueError('bad batch')", 1, "ValueError: bad batch"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("os._exit(9)", 9, ""),
    ],
    ids=["code", "none", "text", "exception", "interrupt", "hard"],
)
def test_the_exit_status_is_the_scripts_own(run, end, status, shown):
    """However the script ends, its status and message are what they were."""
    done = run(
        f"""
        import os, sys
        for _ in range(4):
            step()
        {end}
        """,
    )
    assert done.returncode == status
    assert shown in done.stderr
    if end != "os._exit(9)":  # nobody is told of that
        assert "GW101" in done.stderr
        assert "script.py" not in done.stderr  # no frame of ours in the traceback


@pytest.mark.parametrize(("level", "status"), [("critical", 3), ("warning", 3)])
def test_fail_on_makes_a_finding_fail_a_pipeline(run, level, status):
    """The status is 3 where a finding of that level was confirmed."""
    body = """
        for _ in range(12):
            step()
    """
    assert run(body, "--fail-on", level).returncode == status


def test_fail_on_lets_a_healthy_script_pass(run):
    """A healthy network ends with 0."""
    healthy = """
        import torch
        from torch import nn
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                              nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x = torch.randn(64, 8)
        for _ in range(30):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :1]).square().mean()
            loss.backward()
            optimizer.step()
    """
    assert run("", "--fail-on", "warning", setup=healthy).returncode == 0


def test_a_module_runs_as_after_python_m(python, tmp_path):
    """Packages with a __main__, relative imports and all."""
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(textwrap.dedent(NET))
    (package / "__main__.py").write_text(
        "import sys\nfrom .net import step\n"
        "for _ in range(5):\n    step()\n"
        "print(__name__, __package__, sys.argv[1:])\n"
    )
    done = python.run(
        ["-m", "gradwatch", "run", "-m", "trainer", "--fast"],
        environment=SURROUNDINGS,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "__main__ trainer ['--fast']\n"
    assert "GW101" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py"], "nowhere.py"),
        (["-m", "no.such.module"], "no.such.module"),
        (["--fail-on", "sometimes", "x.py"], "warning or critical"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(python, arguments, words):
    """A missing script is named; no traceback."""
    done = python.run(["-m", "gradwatch", "run", *arguments])
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_without_training_says_that_nothing_was_watched(run):
    """Silence would read as health."""
    done = run("print('only data')", setup="")
    assert done.stdout == "only data\n"
    assert "nothing was watched" in done.stderr


def test_classes_of_the_script_are_pickled_as_mains(run):
    """Workers that are spawned find the script's functions again."""
    done = run(
        """
        from torch.utils.data import DataLoader, Dataset

        class Numbers(Dataset):
            def __len__(self):
                return 8
            def __getitem__(self, index):
                return torch.full((32,), float(index))

        if __name__ == "__main__":
            loader = DataLoader(
                Numbers(), batch_size=4, num_workers=1,
                multiprocessing_context="spawn",
            )
            print(sum(batch.sum().item() for batch in loader))
        """,
        start=start_anew,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{32 * sum(range(8))}.0\n"


class Whole(nn.Module):
    """A model of two parts."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)


def test_the_outermost_module_is_watched():
    """The part that an optimizer trains belongs to the whole that holds it."""
    whole = Whole()
    optimizer = torch.optim.SGD(whole.encoder.parameters(), lr=0.1)
    assert outermost(optimizer) == [whole]


def test_two_models_of_one_optimizer_are_two():
    """Nothing holds both, so each is watched."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
    assert {id(m) for m in outermost(optimizer)} == {id(first), id(second)}


def test_a_wrapper_for_several_devices_is_looked_through():
    """Names are those of the user's model, without `module.`."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    wrapped = nn.DataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    assert outermost(optimizer) == [model]


@pytest.fixture
def auto():
    """Return a silent AutoWatch that is installed, and removed again."""
    auto = AutoWatch(console=None)
    auto.install()
    yield auto
    auto.close()


def test_a_generator_and_its_critic_are_watched_apart(auto):
    """Two optimizers, two watches, two names."""
    makers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in "ab"]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in makers]
    for optimizer, model in zip(optimizers, makers, strict=True):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).mean().backward()
        optimizer.step()
    assert [watch.name for watch in auto.watches] == ["Sequential", "Sequential #2"]
    assert [watch.report().run.steps for watch in auto.watches] == [1, 1]


def test_a_second_optimizer_of_a_model_makes_no_second_watch(auto):
    """Rebuilding the optimizer, or one a part, is one watch."""
    whole = Whole()
    torch.optim.SGD(whole.encoder.parameters(), lr=0.1)
    torch.optim.Adam(whole.parameters())
    assert len(auto.watches) == 1


def test_a_search_that_makes_models_in_a_loop_is_bounded(auto):
    """Beyond sixteen models nothing more is watched, and it is counted."""
    kept = [nn.Linear(2, 2) for _ in range(20)]
    for model in kept:
        torch.optim.SGD(model.parameters(), lr=0.1)
    assert len(auto.watches) == 16
    assert auto.refused == 4


def test_torchs_optimizer_is_as_it_was_afterwards():
    """Nothing of ours stays behind."""
    before = torch.optim.Optimizer.__init__
    auto = AutoWatch(console=None)
    auto.install()
    auto.install()
    auto.close()
    assert torch.optim.Optimizer.__init__ is before


def test_another_rank_started_by_a_launcher_is_watched_in_silence(run):
    """Lightning starts `python script.py` once a rank; PYTHONPATH tells it to watch."""
    done = run(
        """
        import os, subprocess, sys, gc
        if "LOCAL_RANK" not in os.environ:
            child = subprocess.run(
                [sys.executable, __file__], env={**os.environ, "LOCAL_RANK": "1"},
                capture_output=True, text=True)
            print(child.stdout, child.stderr)
        else:
            for _ in range(3):
                step()
            watches = [o for o in gc.get_objects() if type(o).__name__ == "Watch"]
            print("watched", [w.report().run.steps for w in watches])
        """,
        "--console",
        "end",
    )
    assert done.stdout.strip() == "watched [3]"


def test_the_users_own_sitecustomize_still_runs(run, tmp_path):
    """Ours stands in front of it and hands on."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.users_own = True\n")
    done = run(
        """
        import os, subprocess, sys
        child = subprocess.run(
            [sys.executable, "-c", "import sys; print(sys.users_own)"],
            capture_output=True, text=True)
        print(child.stdout.strip(), child.stderr)
        """,
        PYTHONPATH=os.pathsep.join([os.getcwd(), str(tmp_path)]),
    )
    assert done.stdout.strip() == "True"


def test_workers_of_a_loader_are_not_other_ranks(run):
    """A process that inherits our rank is none of another rank."""
    done = run(
        """
        import os, subprocess, sys
        child = subprocess.run(
            [sys.executable, "-c", "import sys; print('gradwatch' in sys.modules)"],
            capture_output=True, text=True)
        print(child.stdout.strip())
        """,
        LOCAL_RANK="0",
    )
    assert done.stdout.strip() == "False"


def test_options_reach_the_watch(run, tmp_path):
    """A settings file and `--every` rule the rhythm."""
    settings = tmp_path / "settings.toml"
    settings.write_text("vanishing_decades = 50.0\n")
    done = run(
        """
        import gc
        for _ in range(9):
            step()
        watch, = [o for o in gc.get_objects() if type(o).__name__ == "Watch"]
        print([p.step for p in watch.history.probes])
        print(watch.report().settings)
        """,
        "--settings",
        str(settings),
        "--every",
        "3",
        "--console",
        "none",
    )
    lines = done.stdout.splitlines()
    steps = json.loads(lines[0])
    assert {0, 3, 6} <= set(steps)
    assert "'vanishing_decades': 50.0" in lines[1]


def test_a_trial_inside_a_script_is_not_watched(auto):
    """Optimizers that gradwatch makes for its copies are nobody's training."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    gradwatch.check(model, torch.randn(8, 4))
    assert auto.watches == []
