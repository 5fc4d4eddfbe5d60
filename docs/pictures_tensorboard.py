"""Draws the pictures of `tensorboard.md`: two runs of the digits example, in a real TensorBoard and a real browser.

``python docs/pictures_tensorboard.py`` needs Chromium with its driver; the pictures are in the repository, so that the
site builds without. The tests of TensorBoardLogger open its pages by the same functions.
"""

from __future__ import annotations

import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURES = Path(__file__).parent / "pictures"
NAMES = ("chromium", "chromium-browser", "google-chrome")

TEXTS = """
const texts = [];
(function visit(node) {
  if (node.nodeType === Node.TEXT_NODE && node.data.trim()) texts.push(node.data.trim());
  if (node.nodeName === 'STYLE' || node.nodeName === 'SCRIPT') return;
  if (node.shadowRoot) visit(node.shadowRoot);
  node.childNodes.forEach(visit);
})(document.body);
return texts;
"""
"""Its dashboards are web components, whose texts are in shadow trees that selectors do not reach."""


@contextmanager
def serve(folder: str | Path, *options: str) -> Iterator[str]:
    """Run TensorBoard on the runs in `folder`, for this machine only; yield its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = ""
        try:
            for line in server.stderr:
                said += line
                if " at http://" in line:
                    yield "http://" + line.split(" at http://")[1].split()[0]
                    return
            raise RuntimeError(f"TensorBoard did not start:\n{said}")
        finally:
            server.terminate()


def find_browser() -> tuple[str, str] | None:
    """Return the paths of the system's Chromium and of its driver, or None where one is missing."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


@contextmanager
def browse(width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """Start a browser without a window; yield its driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = find_browser()
    if found is None:
        raise FileNotFoundError("No browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},{height}")
    with webdriver.Chrome(options, Service(found[1])) as driver:
        yield driver


def wait(driver: Any, ready: Callable[[Any], bool]) -> None:
    """Wait until the page is `ready`, for a minute at most."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 60, ignored_exceptions=[StaleElementReferenceException]).until(ready)


def open_page(driver: Any, address: str, page: str, ready: Callable[[list[str]], bool]) -> list[str]:
    """Open a dashboard, ``name`` or ``name?settings``, wait until `ready` of the texts it shows, and return these.

    Raises:
        TimeoutException: it was not ready after a minute; the message has what it showed.
    """
    from selenium.common.exceptions import TimeoutException

    name, _, settings = page.partition("?")
    driver.get(f"{address}?{settings or name}#{name}")  # a change behind the # alone would load no page

    def texts() -> list[str]:
        shown: list[str] = driver.execute_script(TEXTS)
        return shown

    try:
        wait(driver, lambda _: ready(texts()))
    except TimeoutException as error:
        raise TimeoutException(f"{page} shows {texts()}") from error
    return texts()


def has_curves(driver: Any) -> bool:
    """Whether every chart of the page has something in a run's colour; the grid is grey."""
    from PIL import Image

    charts = driver.find_elements("css selector", "line-chart canvas")
    pictures = [Image.open(io.BytesIO(chart.screenshot_as_png)).convert("HSV") for chart in charts]
    highest: list[Any] = [picture.getextrema()[1] for picture in pictures]
    return bool(highest) and all(saturation[1] > 60 for saturation in highest)


def train(folder: str) -> None:
    """Two runs of the example with different learning rates."""
    import leyden
    from leyden.loggers import TensorBoardLogger

    example = runpy.run_path(str(ROOT / "examples" / "digits.py"))
    for rate in (3e-3, 3e-4):
        leyden.seed_everything(7, verbose=False)
        logger = TensorBoardLogger(folder, name="digits", version=f"rate {rate}", default_hp_metric=False)
        trainer = leyden.Trainer(
            max_epochs=8, accelerator="cpu", logger=logger, log_every_n_steps=5, enable_checkpointing=False
        )
        module, data = example["Classifier"](rate), example["Digits"]()
        trainer.fit(module, datamodule=data)
        logger.log_hyperparams({}, trainer.validate(module, datamodule=data, verbose=False)[0])
        logger.finalize("success")


def main() -> None:
    os.environ["LEYDEN_CALLBACKS"] = "off"
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        train(folder)
        with serve(folder) as address, browse(1430, 660) as driver:
            open_page(
                driver, address, "timeseries?tagFilter=train_loss|val_&smoothing=0", lambda shown: "Close" in shown
            )
            driver.find_element("css selector", "[aria-label='Toggle settings side pane']").click()
            wait(driver, has_curves)
            driver.save_screenshot(str(PICTURES / "tensorboard_curves.png"))
            open_page(driver, address, "hparams", lambda shown: "learning_rate" in shown and "val_acc" in shown)
            driver.set_window_size(1430, 540)
            driver.save_screenshot(str(PICTURES / "tensorboard_hparams.png"))


if __name__ == "__main__":
    main()
