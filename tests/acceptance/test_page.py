"""The page in a real browser: it keeps to its own policy, fits a phone, signs in, acts, and stays live."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.project import Project
from support.starting import jobs_yaml, join, log_lines, shop, started, until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TOKEN = "a-token-long-enough"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium: apt-get install chromium chromium-driver",
    ),
]


@contextmanager
def browser(width: int, height: int, *, dark: bool) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if width < 600:
        phone = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        yield driver
    finally:
        driver.quit()


def page_of(project: Project) -> str:
    until(lambda: any(line["event"] == "started" for line in log_lines(project)))
    return str(next(line["page"] for line in log_lines(project) if line["event"] == "started"))


def main(driver: Any) -> str:
    return str(driver.execute_script("return document.querySelector('main').innerText"))


def complaints(driver: Any) -> list[Any]:
    """Violations of the policy and scripts that broke; a refused token is an answer like others."""
    return [entry for entry in driver.get_log("browser") if entry["source"] != "network"]


def test_signs_in_acts_and_stays_live(project: Project) -> None:
    from selenium.webdriver.common.by import By

    engine = shop(project)
    join(engine, *(f"u{n}" for n in range(200)))
    project.write(jobs_yaml(project, "every day at 03:00", extra="    timezone: UTC\n"))
    project.env["AUDIENCE_SYNC_TOKEN"] = TOKEN
    with started(project), browser(1200, 900, dark=False) as driver:
        url = page_of(project)
        driver.get(url)
        assert "never synced" in main(driver).lower()
        assert not driver.find_elements(By.XPATH, "//button[text()='Sync now']")
        driver.find_element(By.LINK_TEXT, "Sign in").click()
        driver.find_element(By.ID, "token").send_keys("wrong\n")
        until(lambda: "That is not the token" in main(driver))
        driver.find_element(By.ID, "token").send_keys(TOKEN + "\n")
        until(lambda: driver.find_elements(By.XPATH, "//button[text()='Sync now']"))
        project.receiver.delay = 1.5
        driver.find_element(By.XPATH, "//button[text()='Sync now']").click()
        until(lambda: "starts at once" in driver.page_source)
        driver.get(url)  # from here on, nothing is clicked: the page keeps itself current
        until(lambda: "RUNNING NOW" in main(driver))
        project.receiver.delay = 0.0
        until(lambda: "Nothing is behind" in main(driver))
        assert len(project.receiver.told) == 200
        driver.find_element(By.LINK_TEXT, "a").click()
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "svg.chart .line"))
        assert complaints(driver) == []


def test_fits_a_phone_in_dark_and_light(project: Project) -> None:
    engine = shop(project)
    join(engine, "u" * 200, *(f"u{n}" for n in range(5)))
    text = jobs_yaml(project, "every 2 hours").replace("{name: a,", "{name: " + "Very long name " * 12 + ",")
    project.write(text)
    assert project.cli("run").code == 0
    project.receiver.answer = lambda _path, body: 400 if len(body["userId"]) > 100 else None
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from members")
    assert project.cli("run", "--allow-large-change").code == 1
    key = project.cli("status", "--json").json["jobs"][0]["computations"][0]["key"]
    grounds = set()
    with started(project):
        url = page_of(project)
        for dark in (True, False):
            with browser(360, 740, dark=dark) as driver:
                for path in ("/", "/jobs/j", f"/audiences/{key}", "/workflows/w1", "/dead-letters", "/login"):
                    driver.get(url + path)
                    wide = driver.execute_script("return document.documentElement.scrollWidth")
                    assert wide <= 360, (path, wide)
                grounds.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert complaints(driver) == []
    assert len(grounds) == 2
