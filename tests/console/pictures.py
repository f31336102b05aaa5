"""Take screenshots of every view with 0, 12, 200 and 2,000 trucks, for visual inspection.

    .venv/bin/python -m tests.console.pictures --to docs/images/console

`make console-pictures` runs this module. The screenshots show the fake server's data: the trucks and farms of
a generated morning.
"""

import io
import shutil
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.console.conftest import BROWSERS, DESK, FLAGS, PHONE
from tests.console.stand_in import Feed, crowd

SIZES = (0, 12, 200, 2000)
VIEWS = ("map", "places", "visits", "events", "pipeline")
LOOKS = ("light-desk", "dark-phone", "dark-desk", "light-phone")
COLOURS = 128
MOST_BYTES = 150_000


def save(page: Page, path: Path) -> None:
    """Save a screenshot of the page. The file is committed to the repository, so it is reduced to COLOURS colours.

    The octree method keeps rare colours, such as the red of a single mark. The median-cut method would turn this red
    into brown.
    """
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if not 5_000 < size < MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; expected between 5,000 and {MOST_BYTES:,}")


def take(browser: Browser, feed: Feed, look: str, views: list[str], folder: Path, trucks: int) -> None:
    context = browser.new_context(
        viewport=PHONE if "phone" in look else DESK,
        color_scheme="dark" if "dark" in look else "light",
        locale="en-GB",
    )
    page = context.new_page()
    for view in views:
        page.goto(f"{feed.url}/{view}")
        page.get_by_text("live", exact=True).first.wait_for(state="attached")
        if view == "map":
            page.wait_for_selector(".map[data-ready]", timeout=60_000)
            page.wait_for_function(
                f"document.querySelector('.map').dataset.trucks == '{trucks}'", timeout=60_000
            )
        page.wait_for_timeout(2000)
        save(page, folder / f"{view}-{trucks}-{look}.png")
    context.close()


def main(
    to: Annotated[Path, typer.Option(help="Folder for the screenshots.")] = Path("docs/images/console"),
    looks: Annotated[
        str, typer.Option(help="Comma-separated colour schemes, each with a screen.")
    ] = ",".join(LOOKS),
    views: Annotated[str, typer.Option(help="Comma-separated names of views.")] = ",".join(VIEWS),
    sizes: Annotated[str, typer.Option(help="Comma-separated numbers of trucks.")] = ",".join(
        map(str, SIZES)
    ),
) -> None:
    to.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for trucks in map(int, sizes.split(",")):
            with Feed(crowd(trucks)) as feed:
                for look in looks.split(","):
                    take(browser, feed, look, views.split(","), to, trucks)
        browser.close()


if __name__ == "__main__":
    typer.run(main)
