"""Pages in a real headless browser: the viewer of a scan, the report, TensorBoard over a real run."""

import base64
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

from deepgcn_seg.data.classes import S3DIS, ClassList
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


def show(page, file, *content, **settings):
    """Write a page and open it."""
    write_viewer(file, *content, **settings)
    page.goto(f"file://{file}")
    settle(page)


def settle(page):
    """Wait until all points are drawn."""
    page.evaluate("async () => { while (running) await new Promise(requestAnimationFrame); }")


def slide(page, name, value):
    page.eval_on_selector(f"#{name}", f"input => {{ input.value = {value}; input.dispatchEvent(new Event('input')); }}")
    settle(page)


def pixels(page):
    """Pixels (height, width, 3) of the canvas."""
    settle(page)
    content = page.evaluate("document.getElementById('view').toDataURL().split(',')[1]")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.array(image.convert("RGB"))


def has(image, color):
    return bool((image == S3DIS.palette[S3DIS.names.index(color)]).all(-1).any())


FLOOR, WALL = S3DIS.names.index("floor"), S3DIS.names.index("wall")


def test_the_page_shows_points_and_its_switches_work(tmp_path, page):
    xyz, rgb = office(40000)
    label = np.where(xyz[:, 0] > 1.3, WALL, FLOOR).astype(np.uint8)
    confidence = np.linspace(0, 1, len(xyz))
    page.route("http*://**", lambda route: page.errors.append(route.request.url))
    settings = {"title": "a </script> <b>", "max_points": 20000}
    show(page, tmp_path / "a.html", xyz + ORIGIN, rgb, label, confidence, np.full_like(label, WALL), S3DIS, **settings)
    assert page.inner_text("#count") == "20,000 of 40,000 points, drawn at random"
    assert page.inner_text("#title") == "a </script> <b>"
    page.select_option("#beside", "")
    colors = {}
    for mode in ("colour", "confidence", "truth", "errors", "prediction"):
        page.click(f"button[data-mode={mode}]")
        settle(page)
        share, colors[mode] = drawn(page)
        assert share > 0.05
    means = [tuple(round(v) for v in color) for color in colors.values()]
    assert len(set(means)) == 5
    # A wall is cyan.
    assert colors["truth"] == [0, 255, 255]
    page.click(f"#legend input[data-label='{FLOOR}']")
    settle(page)
    hidden, color = drawn(page)
    assert hidden < 0.8 * share and color == [0, 255, 255]
    before = pixels(page)
    page.mouse.move(550, 300)
    page.mouse.down()
    page.mouse.move(660, 340)
    page.mouse.up()
    assert (pixels(page) != before).any()
    assert page.errors == []


def test_unlabelled_points_are_grey_in_the_truth_and_in_the_errors(tmp_path, page):
    xyz, rgb = office(20_000)
    label, confidence = np.zeros(len(xyz), np.uint8), np.ones(len(xyz))
    show(page, tmp_path / "a.html", xyz, rgb, label + 1, confidence, np.full_like(label, 255), S3DIS, "t")
    page.select_option("#beside", "")
    for mode in ("truth", "errors"):
        page.click(f"button[data-mode={mode}]")
        settle(page)
        share, color = drawn(page)
        assert share > 0.05 and color == [128, 128, 128]
    page.click("button[data-mode=truth]")
    assert page.inner_text("#legend").split() == ["unlabelled", "100.0", "%"]
    assert page.errors == []


def test_the_slider_goes_from_colour_to_label(tmp_path, page):
    xyz = office(20_000)[0]
    rgb = np.full((len(xyz), 3), [200, 0, 0], np.uint8)
    show(page, tmp_path / "a.html", xyz, rgb, np.full(len(xyz), WALL, np.uint8), None, None, S3DIS, "t")
    for share, expected in ((100, [0, 255, 255]), (50, [100, 127.5, 127.5]), (0, [200, 0, 0])):
        slide(page, "blend", share)
        assert drawn(page)[1] == pytest.approx(expected, abs=1)
    assert page.errors == []


def test_two_views_show_the_same_points_by_one_camera(tmp_path, page):
    xyz, rgb = office(30_000)
    label = np.where(xyz[:, 0] > 1.3, WALL, FLOOR).astype(np.uint8)
    show(page, tmp_path / "a.html", xyz, rgb, label, None, label, S3DIS, "t")
    assert page.locator(".caption").all_inner_texts() == ["truth", "prediction"]
    first = pixels(page)
    page.mouse.move(350, 300)
    page.mouse.down()
    page.mouse.move(420, 350)
    page.mouse.up()
    page.mouse.wheel(0, -200)
    turned = pixels(page)
    assert (turned != first).any()
    for image in (first, turned):
        left, right = np.split(image, 2, axis=1)
        assert has(left, "wall") and (left == right).all()
    # The arrow keys do the same.
    page.focus("#view")
    page.keyboard.press("ArrowLeft")
    left, right = np.split(pixels(page), 2, axis=1)
    assert (left == right).all() and (left != np.split(turned, 2, axis=1)[0]).any()
    page.keyboard.press("Home")
    assert (pixels(page) == first).all()
    assert page.errors == []


def test_the_ceiling_is_off_in_both_views_whatever_was_predicted(tmp_path, page):
    xyz, rgb = office(20_000)
    xyz[:, 2] = np.where(xyz[:, 2] > 1.45, 2.9, 0)
    truth = np.where(xyz[:, 2] > 1, 0, FLOOR).astype(np.uint8)
    label = np.where(truth == 0, WALL, FLOOR).astype(np.uint8)
    show(page, tmp_path / "a.html", xyz, rgb, label, None, truth, S3DIS, "t")
    image = pixels(page)
    assert has(image, "floor") and not has(image, "wall") and not has(image, "ceiling")
    ceiling = f"{(truth == 0).sum():,} of the ceiling are hidden"
    assert page.inner_text("#count") == f"20,000 points; {ceiling}"
    page.uncheck("#ceiling")
    assert page.inner_text("#count") == "20,000 points"
    left, right = np.split(pixels(page), 2, axis=1)
    assert has(left, "ceiling") and has(right, "wall")
    assert page.errors == []


@pytest.mark.parametrize(("share", "off"), [(0.88, False), (0.3, True)])
def test_a_wrongly_predicted_ceiling_does_not_empty_the_page(tmp_path, page, share, off):
    xyz, rgb = office(20_000)
    # Predicted from the top down; what is low is no ceiling, whatever is predicted.
    xyz[:, 2] = np.where(np.arange(20_000) < share * 20_000, 2 + xyz[:, 2] / 3.2, xyz[:, 2] / 3.2)
    label = np.where(xyz[:, 2] > 1.45, 0, WALL).astype(np.uint8)
    label[-100:], xyz[-100:, 2] = 0, 0
    show(page, tmp_path / "a.html", xyz, rgb, label, None, None, S3DIS, "t")
    assert page.is_visible("#ceiling") and page.is_checked("#ceiling") == off
    assert ("are hidden" in page.inner_text("#count")) == off
    assert has(pixels(page), "ceiling")
    page.set_checked("#ceiling", True)
    # Only those of the lower half are left.
    image = pixels(page)
    assert has(image, "ceiling") and has(image, "wall")
    assert page.evaluate("roofed") == (label == 0).sum() - 100
    assert page.errors == []


def test_without_a_class_of_ceilings_the_top_is_cut(tmp_path, page):
    xyz, rgb = office(20_000)
    label = (xyz[:, 2] > 0.91 * 2.9).astype(np.uint8)
    classes = ClassList.of(["below", "top"], [[0, 0, 255], [255, 0, 0]])
    show(page, tmp_path / "a.html", xyz, rgb, label, None, None, classes, "t")
    assert not page.is_visible("#ceiling") and drawn(page)[1] == [0, 0, 255]
    slide(page, "above", 0)
    assert drawn(page)[1][0] > 50
    assert page.errors == []


def test_the_front_is_cut_on_the_side_of_the_camera(tmp_path, page):
    xyz, rgb = office(20_000)
    label = np.where(xyz[:, 0] > 1.3, WALL, FLOOR).astype(np.uint8)
    show(page, tmp_path / "a.html", xyz, rgb, label, None, None, S3DIS, "t")
    slide(page, "near", 55)
    # The camera looks along -x at first.
    assert drawn(page)[1] == [0, 0, 255]
    page.evaluate("state.turn += Math.PI; move()")
    settle(page)
    assert drawn(page)[1] == [0, 255, 255]
    assert page.errors == []


def click(page, x, y):
    page.mouse.click(x, y)


def touch(page, x, y):
    page.touchscreen.tap(x, y)


@pytest.mark.parametrize(("way", "size"), [(click, (900, 600)), (touch, (380, 740))])
def test_a_picked_point_shows_its_fields(tmp_path, page, way, size):
    xyz, rgb = office(9)
    xyz[:2] = [[0, 0, 0], [2.6, 1.8, 2.9]]
    label = np.arange(2, 11, dtype=np.uint8)
    label[3] = 255
    truth = np.full(9, WALL, np.uint8)
    fields = [
        ("intensity", np.arange(9) / 4),
        ("text", np.array(list("abcdefghi"))),
        ("id", np.arange(9) + 9_007_199_254_740_993),
        ("gps_time", np.arange(9) + 123456789.25),
        ("small", (np.arange(9) + np.float32(1234567.1)).astype(np.float32)),
    ]
    write_viewer(tmp_path / "a.html", xyz + 100, rgb, label, np.full(9, 0.8), truth, S3DIS, "t", fields)
    context = page.context.browser.new_context(
        viewport=dict(zip(("width", "height"), size)), has_touch=way is touch, is_mobile=way is touch
    )
    opened = context.new_page()
    opened.goto(f"file://{tmp_path}/a.html")
    settle(opened)
    opened.evaluate("state.near = 0; draw()")
    assert opened.evaluate("count") == 8 and not opened.is_visible("#picked")
    for row in (0, 5):
        x, y = opened.evaluate(
            f"""() => {{ fields ??= data.fields.map(({{ name, ...packed }}) => ({{ name, values: array(packed) }}));
            const view = panes()[1], i = fields[0].values.indexOf({row}), at = place(i, camera(view.w / view.h), view);
            const area = canvas.getBoundingClientRect(); return [area.left + view.x + at[0], area.top + view.y + at[1]]; }}"""
        )
        way(opened, x, y)
        settle(opened)
        shown = dict(zip(opened.locator("dt").all_inner_texts(), opened.locator("dd").all_inner_texts()))
        name = S3DIS.names[label[row]]
        assert shown.pop("prediction") == name
        assert shown.pop("truth") == f"wall ({'right' if name == 'wall' else 'wrong'})"
        assert [float(v) for v in shown.pop("x, y, z").split(",")] == pytest.approx(xyz[row] + 100, abs=2e-3)
        assert shown.pop("colour") == ", ".join(map(str, rgb[row]))
        assert shown.pop("id") == str(9_007_199_254_740_993 + row)
        assert shown.pop("gps_time") == str(123456789.25 + row)
        # As NumPy writes the shortest decimal number that is the same in 32 bits.
        assert shown.pop("small") == np.format_float_positional(fields[4][1][row], trim="-")
        assert shown == {"confidence": "0.80", "row": str(row), "intensity": f"{row / 4:g}"}
        # A ring around it in both views.
        assert opened.locator(".mark").count() == 2
    opened.keyboard.press("Escape")
    assert not opened.is_visible("#picked") and opened.locator(".mark").count() == 0
    context.close()


def test_a_phone_has_the_views_above_one_another_and_two_fingers_bring_them_nearer(tmp_path, page):
    xyz, rgb = office(5000)
    label = np.full(5000, WALL, np.uint8)
    write_viewer(tmp_path / "a.html", xyz, rgb, label, None, label, S3DIS, "a_long_name_without_a_break_" * 4)
    context = page.context.browser.new_context(viewport={"width": 380, "height": 740}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(f"file://{tmp_path}/a.html")
    settle(phone)
    first, second = phone.evaluate("panes().map(view => [view.x, view.y, view.w])")
    assert first[0] == second[0] and first[1] < second[1] and first[2] == 380
    assert phone.evaluate("document.documentElement.scrollWidth") == 380
    assert phone.evaluate(
        "[...document.querySelectorAll('aside *')].every(e => e.getBoundingClientRect().right <= 380)"
    )
    session = context.new_cdp_session(phone)
    before = phone.evaluate("[state.zoom, state.turn]")
    for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 60), ("touchEnd", None)):
        fingers = [] if apart is None else [{"x": 190 + d, "y": 100, "id": int(d > 0)} for d in (-apart, apart)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    zoom, turn = phone.evaluate("[state.zoom, state.turn]")
    assert zoom < 0.6 * before[0] and turn == before[1]
    assert not phone.is_visible("#picked")
    context.close()


def test_without_webgl_the_page_says_so(tmp_path, page):
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    xyz, rgb = office(100)
    write_viewer(tmp_path / "a.html", xyz, rgb, np.ones(100, np.uint8), None, None, S3DIS, "t")
    page.goto(f"file://{tmp_path}/a.html")
    assert page.inner_text("#count") == "This browser has no WebGL 2: the points cannot be drawn."
    assert page.errors == []


def test_two_million_points_open_and_turn(tmp_path, page):
    xyz, rgb = office(2_000_000)
    label = np.full(len(xyz), WALL, np.uint8)
    write_viewer(tmp_path / "a.html", xyz, rgb, label, label / 255, label, S3DIS, "many")
    assert (tmp_path / "a.html").stat().st_size < 45e6
    page.goto(f"file://{tmp_path}/a.html")
    # The first picture is there before all points are.
    page.evaluate("async () => { while (dirty) await new Promise(requestAnimationFrame); }")
    figures = page.evaluate(
        """async () => { const next = () => new Promise(requestAnimationFrame), frames = [];
        for (let k = 0; k < 15; k++) {
          const t = performance.now(); turn(4, 0);
          do await next(); while (dirty);
          frames.push(Math.round(performance.now() - t));
        }
        const t = performance.now(), found = pick(panes()[1].x + 150, 300, 7);
        return { frames, found, pick: Math.round(performance.now() - t), points: Math.round(budget),
          opened: Math.round(performance.getEntriesByType("navigation")[0].domInteractive) }; }"""
    )
    print("2,000,000 points, ms:", figures)
    assert figures["found"] >= 0
    # However slow the machine is, no frame waits for all points.
    assert max(figures["frames"][5:]) < 5000
    assert page.errors == []


def test_the_report_page_shows_a_run_and_its_switches_work(tmp_path, page, trained):  # noqa: F811
    shutil.copytree(trained[0], tmp_path / "runs" / "a")
    shutil.copytree(trained[0], tmp_path / "runs" / "b")
    run("report", f"runs={tmp_path}/runs", f"hydra.run.dir={tmp_path}/log")
    # A click leads to the worst rooms in 3-D.
    page.goto(f"file://{tmp_path}/runs/report.html")
    page.click("ul.rooms a")
    settle(page)
    assert page.inner_text("#title").startswith("Area_5/office_1 of synthetic")
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
    cells = lambda: [[c for c in row.locator("td[data-points]").all_inner_texts() if c] for row in rows]
    assert all(abs(sum(map(float, row)) - 100) < 1 for row in cells() if row)
    details.locator("button.switch").click()
    points = sum(int(cell.replace(",", "")) for row in cells() for cell in row)
    assert f"{points:,}" in details.inner_text()
    runs = page.locator("table.sortable").first
    names, heading = runs.locator("tbody td:last-child"), runs.locator("th").last
    heading.click()
    assert names.all_inner_texts() == ["b", "a"]
    heading.click()
    assert names.all_inner_texts() == ["a", "b"]
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
