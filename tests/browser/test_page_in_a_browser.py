"""The page of a real recorded run in Chromium: what a reader sees and can do.

Debian's Chromium (`apt-get install chromium`), driven by Playwright; skipped where one
of them is missing.
"""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.history import Series
from gradwatch.records import (
    ActivationRecord,
    ChainRecord,
    LayerRecord,
    ParameterRecord,
    PointRecord,
    StepRecord,
)
from gradwatch.runlog import read_run
from gradwatch.serve import PageServer
from tests.sample_reports import healthy

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.xdist_group("browser"),
]
#: Where screenshots go, if anywhere.
SCREENS = os.environ.get("GRADWATCH_SCREENS")
SIZES = [(1400, 900), (400, 800)]


class Net(nn.Module):
    """A recurrent layer under a deep sigmoid net: two ways to vanish."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 24)
        self.rnn = nn.RNN(24, 24, batch_first=True)
        self.body = nn.Sequential(
            *(m for _ in range(8) for m in (nn.Linear(24, 24), nn.Sigmoid()))
        )
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        """Classify sequences."""
        hidden, _ = self.rnn(self.embed(x))
        return self.head(self.body(hidden[:, -1]))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A recorded run of a sick net, with a name made to break pages."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    model = Net()
    model.body.add_module("<img src=x onerror=alert(1)>", nn.Linear(24, 24))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"record": folder, "every": 5, "console": None, "name": "<b>sick</b>"}
    with gradwatch.watch(model, **options):
        for step in range(60):
            x = torch.randn(16, 20, 8)
            target = (x[:, 0, 0] > 0).long()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), target)
            (loss * (100.0 if step == 40 else 1.0)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return folder


@pytest.fixture(scope="session")
def file(folder):
    """Its page."""
    return read_run(folder).report.save(folder / "page.html")


@pytest.fixture(scope="session")
def chromium():
    """A browser without a window."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open an address; fail on any console error or request that leaves the page."""
    problems, pages = [], []

    def opened(address, size=(1400, 900), scheme="light", own=()):
        page = chromium.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on(
            "request",
            lambda r: (
                not r.url.startswith((address, "blob:", "data:", *own))
                and problems.append(r.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert problems == []


def shoot(page, name):
    """Keep a screenshot for the documentation."""
    if SCREENS:
        page.screenshot(path=Path(SCREENS) / f"{name}.png")


def until(true, page, seconds=15):
    """Wait; the page's own policy forbids Playwright's `wait_for_function`."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        page.wait_for_timeout(100)


def colours(page, selector):
    """Return the colours of a picture, of all the layers that it is drawn in."""
    return page.evaluate(
        """selector => {
            const seen = new Set();
            for (const canvas of document.querySelectorAll(selector + ' canvas')) {
                const { data } = canvas.getContext('2d').getImageData(
                    0, 0, canvas.width, canvas.height);
                for (let i = 0; i < data.length; i += 4) {
                    if (data[i + 3] === 255) {
                        seen.add((data[i] << 16) + (data[i + 1] << 8) + data[i + 2]);
                    }
                }
            }
            return [...seen].sort();
        }""",
        selector,
    )


@pytest.mark.parametrize("size", SIZES, ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_there_and_nothing_overflows(visit, file, size, scheme):
    """Verdict, cards, four pictures, table and facts, on a screen and on a phone."""
    page = visit(file.as_uri(), size, scheme)
    report = read_run(file.parent).report
    assert page.inner_text("#verdict") == "VANISHING"
    assert page.inner_text("#sentence") == report.sentence
    cards = page.locator("#cards > article")
    assert cards.count() == len(report.findings)
    for finding, text in zip(report.findings, cards.all_inner_texts(), strict=True):
        assert finding.code in text
        assert finding.message in text
        assert finding.severity.name in text
    for picture in ("heat", "depth", "time", "norm"):
        assert page.locator(f"#{picture} canvas").first.is_visible()
        assert page.get_attribute(f"#{picture}", "aria-label")
    rows = page.locator("#layers tbody tr").all_inner_texts()
    for layer in report.layers:
        assert any(layer.name in row for row in rows)
    assert "of training time" in page.inner_text(
        "#facts"
    ) or "too few" in page.inner_text("#facts")
    assert gradwatch.__version__ in page.inner_text("#facts")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size[0]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)"
    )
    shoot(page, f"page-{size[0]}-{scheme}")


def test_a_click_on_a_finding_marks_its_layers_everywhere(visit, file):
    """In the table, in the heat map and along the trunk; a second click ends it."""
    page = visit(file.as_uri())
    finding = read_run(file.parent).report.findings[0]
    before = colours(page, "#heat")
    assert page.locator("tr.marked").count() == 0
    page.click("button[data-finding='0']")
    assert page.get_attribute("button[data-finding='0']", "aria-pressed") == "true"
    marked = page.locator("tr.marked td:first-child").all_inner_texts()
    assert set(finding.layers) <= set(marked)
    page.wait_for_timeout(200)
    assert colours(page, "#heat") != before
    assert "Diamonds" in page.inner_text("#depth-note")
    shoot(page, "page-finding")
    page.click("button[data-finding='0']")
    assert page.locator("tr.marked").count() == 0


def test_the_heat_map_switches_its_quantity(visit, file):
    """Each button draws another quantity with its own limits."""
    page = visit(file.as_uri())
    assert "vanishing: under -2" in page.inner_text("#heat-legend")
    first = colours(page, "#heat")
    assert len(first) > 2
    page.click("button[data-quantity='update']")
    assert (
        page.get_attribute("button[data-quantity='gradient']", "aria-pressed")
        == "false"
    )
    assert "applied update over weight" in page.inner_text("#heat-note")
    assert "under the limit" in page.inner_text("#heat-legend")
    page.wait_for_timeout(200)
    assert colours(page, "#heat") != first
    # No unit of a sigmoid can be dead: what was not measured has no button.
    assert not page.is_visible("button[data-quantity='dead']")


def test_hovering_a_cell_says_what_it_is(visit, file):
    """Layer, step and value, as text."""
    page = visit(file.as_uri())
    box = page.locator("#heat canvas").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.3)
    page.wait_for_timeout(300)
    words = page.locator("#heat > div").last.inner_text()
    assert "step " in words
    assert "decades against the top" in words


def test_the_slider_moves_the_depth_profile_by_keyboard(visit, file):
    """Arrow keys go from probe to probe."""
    page = visit(file.as_uri())
    steps = [p.step for p in read_run(file.parent).report._series.probes]
    assert page.inner_text("#at-step") == str(steps[-1])
    page.focus("#step")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#at-step") == str(steps[-2])
    page.keyboard.press("Home")
    assert page.inner_text("#at-step") == str(steps[0])
    assert f"at step {steps[0]}" in page.get_attribute("#depth", "aria-label")


def test_everything_can_be_reached_by_keyboard(visit, file):
    """Tab goes through links, buttons, fields and folds, each with a visible ring."""
    page = visit(file.as_uri())
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => {
                const e = document.activeElement;
                const ring = getComputedStyle(e).outlineStyle !== 'none';
                const { finding, quantity } = e.dataset;
                return (e.id || finding || quantity || e.tagName) + ':' + ring;
            }"""
        )
        reached.add(name)
    assert {
        "theme:true",
        "0:true",
        "gradient:true",
        "filter:true",
        "step:true",
        "SUMMARY:true",
    } <= reached


def test_the_filter_finds_layers(visit, file):
    """Part of a name, in any case."""
    page = visit(file.as_uri())
    page.fill("#filter", "RNN")
    assert page.get_attribute("#heat", "aria-label").startswith("Gradient of 1 layers")
    page.fill("#filter", "no such layer")
    assert "No layer has this in its name" in page.inner_text("#heat-note")


def test_the_theme_can_be_chosen(visit, file):
    """Against what the system says."""
    page = visit(file.as_uri(), scheme="light")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.inner_text("#theme") == "Light"


def test_names_made_to_break_pages_are_text(visit, file):
    """The layer's name is shown as it is; no element comes of it."""
    page = visit(file.as_uri())
    assert page.locator("#layers img, #cards img, h1 b, #summary b").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.inner_text("#layers")
    assert "<b>sick</b>" in page.inner_text("#summary")


def test_a_report_without_series_says_so(visit, tmp_path):
    """Read from JSON: words and table, and why there are no pictures."""
    report = gradwatch.Report.from_json(healthy().to_json())
    page = visit(report.save(tmp_path / "a.html").as_uri())
    assert page.inner_text("#verdict") == "HEALTHY"
    assert "no series of probes" in page.inner_text("#no-series")
    assert not page.is_visible("#f-heat")


def test_the_live_page_follows_the_run(visit, folder, tmp_path):
    """Probes that arrive are drawn without a reload."""
    target = tmp_path / "copy"
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.html"))
    run = next(path for path in target.iterdir() if path.is_dir())
    (log,) = (path for path in run.iterdir() if path.suffix == ".jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[: len(lines) // 2]))
    server = PageServer(target, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = visit(server.url)
        early = page.inner_text("#at-step")
        assert page.inner_text("#live") == "live"
        log.write_bytes(b"".join(lines))
        until(lambda: page.inner_text("#at-step") != early, page)
        assert int(page.inner_text("#at-step")) > int(early)
        until(lambda: page.inner_text("#live") == "finished", page)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_thousand_layers_at_a_thousand_probes(visit, tmp_path):
    """It opens, and a cell of the picture says for how many it stands."""
    names = [f"encoder.layers.{i}.fc" for i in range(1000)]
    parameters = tuple(
        ParameterRecord(f"{n}.weight", n, 2, 9, weight_rms=1.0, update_ratio=1e-3)
        for n in names
    )
    active = tuple(
        ActivationRecord(n, "relu", num_units=8, dead_units=1) for n in names
    )

    def probe(step):
        norms = [10 ** (-4 * i / 1000 - step % 7 / 10) for i in range(1000)]
        pairs = list(zip(names, norms, strict=True))
        layers = tuple(
            LayerRecord(n, 0, i, grad_norm=g) for i, (n, g) in enumerate(pairs)
        )
        chain = ChainRecord(names[0], tuple(PointRecord(n, n, g) for n, g in pairs))
        return StepRecord(step, layers, active, parameters, (chain,))

    report = healthy()
    report._series = Series(tuple(probe(step) for step in range(1000)), ())
    page = visit(report.save(tmp_path / "big.html").as_uri())
    assert "A cell stands for 3 probes of 9 layers" in page.inner_text("#heat-note")
    assert "500 of 1000 probes are drawn" in page.inner_text("#heat-note")
