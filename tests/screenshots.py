"""Take the pictures of the console page in `docs/`, of real machines: `make screenshots`."""

import re
from pathlib import Path

from playwright.sync_api import ViewportSize, expect

from tests.browser import Console, chromium, console
from tests.daemon import Daemon
from tests.lab import Key, Laboratory, Machine, Nic

DOCS = Path(__file__).parent.parent / "docs"
VIDEO = "<video><model type='vga'/></video>"
WIDE: ViewportSize = {"width": 1280, "height": 760}
PHONE: ViewportSize = {"width": 390, "height": 760}


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with Laboratory() as lab:
        populate(lab)
        backups = f"--backup-dir={lab.folder / 'backups'}"
        with Daemon("--connect", lab.uri, backups) as daemon, chromium() as browser:
            daemon.request("PUT", "/service/build-1/boot", b'{"device": "pxe"}')
            daemon.request("PUT", "/service/web-1/boot", b'{"device": "pxe", "once": true}')
            with console(browser, daemon, size=WIDE) as shown:
                show_actions(shown)
                save(shown, "console-light")
                shown.choose("db-1", "Boot", "PXE boot")
                save(shown, "console-question")
                shown.page.keyboard.press("Escape")
                shown.row("db-1").get_by_role("button", name="Screen of db-1").click()
                expect(shown.dialog.get_by_role("img")).to_be_visible()
                save(shown, "console-screen")
            with console(browser, daemon, size=WIDE, scheme="dark") as shown:
                # An upper one: the list is not to be scrolled for it.
                shown.open_menu("build-2", "More")
                save(shown, "console-dark")
            with console(browser, daemon, size=PHONE, touch=True) as shown:
                save(shown, "console-phone")


def populate(lab: Laboratory) -> None:
    """Machines in many states, called by what they might be."""
    machines: dict[str, Machine] = {}
    for name in ("build-1", "build-2", "db-1", "desktop", "erp", "staging", "web-1"):
        # A guest that does not listen shows what the page does meanwhile.
        machines[name] = lab.define(
            name, add=[Nic()], boot="device", devices=VIDEO, obeys_button=name != "build-2"
        )
        if name != "build-1":
            machines[name].boot()
    machines["desktop"].press(Key.SLEEP)
    machines["erp"].press(Key.PANIC)
    machines["staging"].virsh("suspend")
    machines["desktop"].wait_for_state("pmsuspended")
    machines["erp"].wait_for_state("crashed")


def show_actions(shown: Console) -> None:
    """One that is under way, one that was refused, one that is done."""
    shown.choose("build-2", "Boot", "PXE boot")
    shown.dialog.get_by_label("Seconds").fill("60")
    shown.confirm()
    shown.choose("staging", "Boot", "Set what boots next")
    shown.dialog.get_by_label("What it boots").select_option("CD-ROM")
    shown.confirm()
    shown.button("build-1", "Power on").click()
    expect(shown.answer("build-1")).to_contain_text("running")
    expect(shown.answer("staging")).to_contain_text("has no cdrom")
    expect(shown.answer("build-2")).to_contain_text(re.compile("power cut in"))


def save(shown: Console, name: str) -> None:
    """When all that is in view has been read."""
    expect(shown.page.locator(".row .picture img:visible").nth(2)).to_be_visible()
    shown.page.wait_for_timeout(1500)
    path = DOCS / f"{name}.png"
    shown.page.screenshot(path=path)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
