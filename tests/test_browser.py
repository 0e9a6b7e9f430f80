"""Pages in a real headless browser: the viewer of a scan, the report, TensorBoard over a real run."""

import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_commands import data_root, run, trained  # noqa: F401

from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.inference.segmenter import Prediction
from deepgcn_seg.inference.viewer import write_viewer

ORIGIN = np.array([451234.5, 5412345.25, 112.0])


def browser():
    """Where a Chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next((shutil.which(name) for name in names if shutil.which(name)), None)


@pytest.fixture
def page():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make test installs it")
    if browser() is None:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set, but no Chromium is found")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium, or set CHROMIUM=FILE)")
    with playwright.sync_playwright() as context:
        opened = context.chromium.launch(
            executable_path=browser(), args=["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
        )
        page = opened.new_page(viewport={"width": 900, "height": 600})
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        opened.close()


def office(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, [2.6, 1.8, 2.9], (count, 3)), rng.integers(0, 256, (count, 3), np.uint8)


def drawn(page):
    """Share of the canvas that is not background, and its mean colour."""
    return page.evaluate(
        """() => { const c = document.getElementById('view'), t = document.createElement('canvas');
        t.width = c.width; t.height = c.height; const g = t.getContext('2d'); g.drawImage(c, 0, 0);
        const d = g.getImageData(0, 0, t.width, t.height).data; let n = 0, s = [0, 0, 0];
        for (let i = 0; i < d.length; i += 4) if (d[i] + d[i+1] + d[i+2] < 765) { n++; s[0] += d[i]; s[1] += d[i+1]; s[2] += d[i+2]; }
        return [4 * n / d.length, s.map(v => v / Math.max(n, 1))]; }"""
    )


def test_the_page_shows_points_and_its_switches_work(tmp_path, page):
    xyz, rgb = office(40000)
    label = (xyz[:, 0] > 1.3).astype(np.uint8)
    found = Prediction(label, np.linspace(0, 1, len(xyz)).astype(np.float32))
    write_viewer(
        tmp_path / "a.html",
        xyz + ORIGIN,
        rgb,
        found,
        np.zeros_like(label),
        S3DIS,
        "a </script> <b>",
        max_points=20000,
    )
    page.route("http*://**", lambda route: page.errors.append(route.request.url))
    page.goto(f"file://{tmp_path}/a.html")
    page.wait_for_timeout(800)
    assert page.inner_text("#count") == "20,000 of 40,000 points, drawn at random"
    assert page.inner_text("#title") == "a </script> <b>"
    share, prediction = drawn(page)
    assert share > 0.05
    colors = {"prediction": prediction}
    for mode in ("colour", "confidence", "truth", "errors"):
        page.click(f"button[data-mode={mode}]")
        page.wait_for_timeout(300)
        colors[mode] = drawn(page)[1]
    means = [tuple(round(v) for v in color) for color in colors.values()]
    assert len(set(means)) == 5
    # All truth is class 0, green.
    assert colors["truth"][1] > 250 and colors["truth"][0] < 100
    page.click("button[data-mode=prediction]")
    page.click("#legend input[data-label='0']")
    page.wait_for_timeout(300)
    hidden, color = drawn(page)
    assert hidden < 0.8 * share
    assert color[2] > 250 and color[1] < 100
    before = page.screenshot()
    page.mouse.move(450, 300)
    page.mouse.down()
    page.mouse.move(560, 340)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert page.screenshot() != before
    for x in range(380, 560, 12):
        page.mouse.move(x, 320)
        if page.is_visible("#hover"):
            break
    assert "floor, confidence" in page.inner_text("#hover")
    assert page.errors == []


def test_unlabelled_points_are_grey_in_the_truth_and_in_the_errors(tmp_path, page):
    xyz, rgb = office(20_000)
    found = Prediction(np.zeros(len(xyz), np.uint8), np.ones(len(xyz), np.float32))
    write_viewer(tmp_path / "a.html", xyz, rgb, found, np.full(len(xyz), 255, np.uint8), S3DIS, "t")
    page.goto(f"file://{tmp_path}/a.html")
    for mode in ("truth", "errors"):
        page.click(f"button[data-mode={mode}]")
        page.wait_for_timeout(300)
        share, color = drawn(page)
        # Points have white between them.
        assert share > 0.05 and np.ptp(color) < 1 and 127 < color[0] < 190
    page.click("button[data-mode=truth]")
    assert page.inner_text("#legend").split() == ["unlabelled", "100.0", "%"]
    assert page.errors == []


def test_300_000_points_stay_fluid(tmp_path, page):
    xyz, rgb = office(300_000)
    found = Prediction(np.zeros(len(xyz), np.uint8), np.ones(len(xyz), np.float32))
    write_viewer(tmp_path / "a.html", xyz, rgb, found, None, S3DIS, "many")
    assert (tmp_path / "a.html").stat().st_size < 8e6
    page.goto(f"file://{tmp_path}/a.html")
    page.wait_for_timeout(500)
    assert drawn(page)[0] > 0.1
    # What a switch and a look under the mouse cost outside of drawing.
    cost = page.evaluate(
        "() => { const t = performance.now(); recolor(); hover({clientX: 450, clientY: 300}); return performance.now() - t; }"
    )
    assert cost < 2000


def test_the_report_page_shows_a_run_and_its_switches_work(tmp_path, page, trained):  # noqa: F811
    shutil.copytree(trained[0], tmp_path / "runs" / "a")
    shutil.copytree(trained[0], tmp_path / "runs" / "b")
    run("report", f"runs={tmp_path}/runs", f"hydra.run.dir={tmp_path}/log")
    # Mailed, it stands alone.
    moved = shutil.move(tmp_path / "runs" / "report.html", tmp_path / "mailed.html")
    page.route("http*://**", lambda route: page.errors.append(route.request.url))
    page.goto(f"file://{moved}")
    assert page.inner_text("h1") == "Report of 2 runs"
    pictures = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
    # Scores and three curves of both, a room of each; a tiny run has one room, so no worst ones.
    assert len(pictures) == 6 and min(pictures) > 300
    details = page.locator("details.run").first
    assert not details.locator("table.confusion").is_visible()
    details.locator("summary").click()
    assert details.locator("table.confusion").is_visible()
    assert "office_1" in details.inner_text()
    rows = details.locator("table.confusion tr").all()[1:]
    cells = lambda: [[c for c in row.locator("td").all_inner_texts() if c] for row in rows]
    assert all(abs(sum(map(float, row)) - 100) < 1 for row in cells() if row)
    details.locator("button.switch").click()
    points = sum(int(cell.replace(",", "")) for row in cells() for cell in row)
    assert f"{points:,}" in details.inner_text()
    column = "table.sortable tbody td:last-child"
    page.locator("table.sortable th").last.click()
    assert page.locator(column).all_inner_texts() == ["b", "a"]
    page.locator("table.sortable th").last.click()
    assert page.locator(column).all_inner_texts() == ["a", "b"]
    assert page.errors == []


@pytest.fixture
def tensorboard(trained):  # noqa: F811
    """Address of TensorBoard over a run that the command line made."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", trained[0], "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        found = (re.search(r"http://\S+", line) for line in process.stderr)
        yield next(match.group() for match in found if match)
        process.terminate()
        process.stderr.read()


TABS = {
    "scalars": "vz-line-chart2, tf-line-chart-data-loader >> nth=0",
    "images": "tf-image-loader img >> nth=0",
    "mesh": "tf-mesh-loader canvas >> nth=0",
    "hparams": "text=mIoU >> nth=0",
}


@pytest.mark.parametrize("tab", TABS)
def test_tensorboard_shows_a_run(tensorboard, page, tab):
    page.goto(f"{tensorboard}#{tab}")
    page.wait_for_selector(TABS[tab], timeout=60000, state="attached")
    shown = page.evaluate(
        """() => { const seen = []; const walk = node => { if (node.shadowRoot) walk(node.shadowRoot);
        for (const child of node.childNodes) child.nodeType === 3 ? seen.push(child.textContent) : walk(child); };
        walk(document.body); return seen.join(" "); }"""
    )
    assert {"scalars": "loss_train", "images": "test/room", "mesh": "step", "hparams": "resgcn"}[tab] in shown
    assert not re.search(r"No \w+ data was found", shown)
    if tab in ("images", "mesh"):
        page.wait_for_timeout(2000)
        with Image.open(io.BytesIO(page.locator(TABS[tab]).screenshot())) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 5
    assert page.errors == []
