"""The page in a real browser, Debian's chromium, by selenium; skipped where they are absent."""

import json
import shutil
import time
from base64 import b64decode
from contextlib import contextmanager

import numpy as np
import pytest

from hrpose.ops.image import decode_image, read_image
from hrpose.structures import Poses
from test_serve import clip, serving

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
if not shutil.which("chromium") or not shutil.which("chromedriver"):
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)


@contextmanager
def browsing(folder, size):
    """A browser that saves what it downloads in the folder; size: of its window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options, service)
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return value


def status(browser):
    return browser.find_element("id", "status").text


def pixels(browser):
    """The canvas (H, W, 3)."""
    address = browser.execute_script("return canvas.toDataURL('image/png')")
    return decode_image(b64decode(address.partition(",")[2]), "the canvas")


def set_threshold(browser, value):
    browser.execute_script(
        "const slider = document.getElementById('threshold'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input', {bubbles: true}))",
        value,
    )


@pytest.fixture(scope="module")
def scene(scenes):
    """A drawn scene with several people, and their joints with scores .9 and .4 in turn."""
    truth = json.loads((scenes / "annotations" / "person_keypoints_val2017.json").read_text())
    people = {}
    for each in truth["annotations"]:
        if each["num_keypoints"]:
            people.setdefault(each["image_id"], []).append(each["keypoints"])
    number = max(people, key=lambda image: len(people[image]))
    (name,) = (each["file_name"] for each in truth["images"] if each["id"] == number)
    joints = np.reshape(people[number], (-1, 17, 3)).astype(np.float32)
    scores = np.float32([0.9, 0.4])[np.arange(len(joints)) % 2]
    joints[..., 2] = (joints[..., 2] > 0) * scores[:, None]
    return scenes / "images" / "val2017" / name, Poses(joints, scores)


def test_a_photo_on_the_page(scene, tmp_path):
    path, poses = scene
    image, weak = read_image(path), int((poses.scores < 0.5).sum())
    with serving(lambda _: poses) as server, browsing(tmp_path, (1100, 1000)) as browser:
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        browser.find_element("id", "file").send_keys(str(path))
        wait_for(lambda: "people shown" in status(browser))
        assert f"{len(poses.scores)} of {len(poses.scores)} people" in status(browser)
        drawn = pixels(browser)
        assert drawn.shape[:2] == image.shape[:2]
        x, y = poses.joints[0, poses.joints[0, :, 2] > 0][0, :2].astype(int)
        assert (drawn != image).any(-1)[y, x]

        set_threshold(browser, 0.5)
        expected = f"{len(poses.scores) - weak} of {len(poses.scores)} people"
        wait_for(lambda: expected in status(browser))
        assert weak and (pixels(browser) != drawn).any()

        canvas = browser.find_element("id", "canvas")
        canvas.send_keys(webdriver.Keys.ARROW_RIGHT)
        note = browser.find_element("id", "note").text
        assert "0.90, person 1 (0.90)" in note
        browser.save_screenshot(str(tmp_path / "page.png"))
        set_threshold(browser, 1)
        wait_for(lambda: "0 of" in status(browser))
        assert np.abs(pixels(browser).astype(int) - image).mean() < 2  # the photo as it was

        set_threshold(browser, 0.5)
        browser.find_element("id", "json").click()
        saved = tmp_path / f"{path.stem}.json"
        wait_for(saved.is_file)
        answer = json.loads(saved.read_text())
        kept = np.reshape([person["joints"] for person in answer["people"]], (-1, 17, 3))
        np.testing.assert_allclose(kept, poses.joints[poses.scores > 0.5], atol=1e-3)
        assert answer["threshold"] == 0.5
        browser.find_element("id", "png").click()
        saved = tmp_path / f"{path.stem}_poses.png"
        wait_for(saved.is_file)
        assert read_image(saved).shape == image.shape
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_a_video_and_refusals_on_a_narrow_page(scene, tmp_path):
    path, poses = scene
    (tmp_path / "notes.txt").write_text("hello")
    clip(tmp_path / "a.mp4")
    with serving(lambda _: poses) as server, browsing(tmp_path, (500, 800)) as browser:
        browser.get(f"http://localhost:{server.server_port}/")
        file = browser.find_element("id", "file")
        file.send_keys(str(tmp_path / "notes.txt"))
        wait_for(lambda: "this is no image" in status(browser))
        file.send_keys(str(tmp_path / "a.mp4"))
        wait_for(lambda: "Drawn" in status(browser))
        playable = "return document.getElementById('video').videoWidth"
        assert wait_for(lambda: browser.execute_script(playable)) == 32
        file.send_keys(str(path))
        wait_for(lambda: "people shown" in status(browser))
        browser.save_screenshot(str(tmp_path / "narrow.png"))
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(wide) <= 0
