"""A page as a PNG, by headless Chromium: `python tests/page_shot.py report.html page.png --width 1200`."""

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def chromium() -> str | None:
    """The browser: that of the environment variable CHROMIUM, or one on the path; None where there is none."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=list(_QUIET))
        try:
            yield started
        finally:
            started.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1500, help="0 for the whole page")
    parser.add_argument("--section", help="scroll to the element of this id")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with browser() as started:
        page = started.new_page(
            viewport={"width": options.width, "height": options.height or 900},
            color_scheme="dark" if options.dark else "light",
            device_scale_factor=1,
        )
        page.goto(options.page.resolve().as_uri())
        if options.section:
            page.evaluate("id => document.getElementById(id).scrollIntoView({behavior: 'instant'})", options.section)
        page.wait_for_timeout(300)
        page.screenshot(path=options.picture, full_page=not options.height)


if __name__ == "__main__":
    main()
