"""The console page in a browser, on the embedded hypervisor."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, HttpCredentials, Route, expect

from mc.users import add_user
from tests.browser import Console, console
from tests.daemon import Daemon
from tests.lab import until
from tests.ports import reserved_port

DEMO = Path(__file__).parent.parent / "config/demo.xml"
ODD = "O'Brien's \"lab\"; reboot --help #1 & <früh> $HOME 测试"


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[Daemon]:
    """The machines that `make run` shows; every daemon has its own."""
    machines = shutil.copy(DEMO, folder / "demo.xml")
    backups = f"--backup-dir={folder / 'backups'}"
    with Daemon("--connect", f"test://{machines}", backups, *arguments) as daemon:
        yield daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with demo(tmp_path) as daemon:
        yield daemon


def test_shows_every_machine_by_name(shown: Console) -> None:
    names = ["ci-runner-1", "ci-runner-2", "db-1", "desktop", "legacy-erp", ODD, "staging", "web-1"]
    expect(shown.rows.get_by_role("heading")).to_have_text(names)
    expect(shown.state("web-1")).to_have_text("running")
    expect(shown.state("staging")).to_have_text("paused")
    expect(shown.state("legacy-erp")).to_have_text("crashed")
    expect(shown.state("desktop")).to_have_text("pmsuspended")
    expect(shown.state(ODD)).to_have_text("shut off")
    expect(shown.page).to_have_title("Machines")


def test_shows_what_boots_next(shown: Console) -> None:
    network = "network 52:54:00:00:04:01"
    expect(shown.boots("ci-runner-2").get_by_role("listitem")).to_have_text(
        [network, "disk vda", "cdrom sda"]
    )


@pytest.mark.parametrize(
    ("name", "verbs", "more"),
    [
        ("web-1", ["Power off", "Reboot"], ["Power cycle", "Reset", "Force off", "Send an NMI"]),
        ("ci-runner-1", ["Power on"], []),
        (
            "staging",
            ["Resume"],
            ["Reboot", "Power cycle", "Reset", "Force off", "Send an NMI"],
        ),
        ("legacy-erp", ["Power cycle"], ["Reset", "Force off", "Send an NMI"]),
        ("desktop", ["Wake up"], ["Power cycle", "Reset", "Force off", "Send an NMI"]),
    ],
)
def test_offers_the_verbs_that_make_sense(
    shown: Console, name: str, verbs: list[str], more: list[str]
) -> None:
    buttons = shown.row(name).locator(".verbs").get_by_role("button")
    menus = ["Boot", "More"] if more else ["Boot"]
    expect(buttons).to_have_text([*verbs, *menus])
    if more:
        items = shown.open_menu(name, "More").get_by_role("menuitem")
        expect(items).to_have_text([f"{verb} …" for verb in more])


def test_filters_by_name_and_state(shown: Console) -> None:
    expect(shown.rows).to_have_count(8)
    shown.page.get_by_label("Name").fill("RUNNER")
    expect(shown.rows.get_by_role("heading")).to_have_text(["ci-runner-1", "ci-runner-2"])
    expect(shown.page.get_by_text("2 of 8 shown")).to_be_visible()
    shown.page.get_by_label("running 2").check()
    expect(shown.rows).to_have_count(0)
    expect(shown.page.get_by_text("No machine fits the filter.")).to_be_visible()
    shown.page.get_by_label("Name").fill("")
    expect(shown.rows.get_by_role("heading")).to_have_text(["db-1", "web-1"])
    shown.page.get_by_label("all 8").check()
    expect(shown.rows).to_have_count(8)


def test_filter_follows_the_state(shown: Console, daemon: Daemon) -> None:
    shown.page.get_by_label("shut off 3").check()
    expect(shown.rows).to_have_count(3)
    assert daemon.act("ci-runner-1", "power_on").json["changed"]
    expect(shown.rows).to_have_count(2)
    expect(shown.page.get_by_label("shut off 2")).to_be_checked()


def test_row_at_work_is_not_lost_to_the_filter(shown: Console, daemon: Daemon) -> None:
    shown.page.get_by_label("shut off 3").check()
    shown.button(ODD, "Power on").click()
    expect(shown.answer(ODD)).to_contain_text("Power on: running (booted)")
    expect(shown.state(ODD)).to_have_text("running")
    expect(shown.rows).to_have_count(3)
    assert shown.focused == "Boot"
    shown.page.get_by_label("running 3").check()
    shown.page.get_by_label("shut off 2").check()
    expect(shown.rows).to_have_count(2)


def test_states_as_on_and_off(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "mc.conf").write_text('[global]\nservice.state_words = "power"\n')
    arguments = f"--config={tmp_path / 'mc.conf'}"
    with demo(tmp_path, arguments) as daemon, console(browser, daemon) as shown:
        expect(shown.state("staging")).to_have_text("on")
        expect(shown.state(ODD)).to_have_text("off")
        shown.button(ODD, "Power on").click()
        expect(shown.state(ODD)).to_have_text("on")
        shown.page.get_by_label("off 2").check()
        expect(shown.rows).to_have_count(2)


def test_power_on(shown: Console, daemon: Daemon) -> None:
    shown.button(ODD, "Power on").click()
    expect(shown.state(ODD)).to_have_text("running")
    expect(shown.answer(ODD)).to_contain_text("Power on: running (booted)")
    assert daemon.status(ODD)["state"] == "running"


def test_pxe_boot_asks_first(shown: Console, daemon: Daemon) -> None:
    dialog = shown.choose("web-1", "Boot", "PXE boot")
    expect(dialog).to_contain_text("Its guest is asked to shut down")
    expect(dialog).to_contain_text("not off after 15 seconds, its power is cut")
    dialog.get_by_label("Seconds").fill("1")
    expect(dialog).to_contain_text("not off after 1 second, its power is cut")
    dialog.get_by_label("Seconds").fill("0")
    expect(dialog).to_contain_text("Its power is cut at once.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert daemon.get("/service/web-1/boot").json["order"] == ["disk:vda"]

    shown.choose("web-1", "Boot", "PXE boot")
    shown.confirm()
    expect(shown.answer("web-1")).to_contain_text("PXE boot: running (booted)")
    expect(shown.boots("web-1").get_by_role("listitem").first).to_have_text(re.compile("network"))
    assert daemon.get("/service/web-1/boot").json["order"][0].startswith("network")


def test_disk_boot_once(shown: Console, daemon: Daemon) -> None:
    before = daemon.get("/service/ci-runner-1/boot").json
    dialog = shown.choose("ci-runner-1", "Boot", "Disk boot")
    expect(dialog).to_contain_text("It is off. It starts from its disk, and so it does at every")
    dialog.get_by_label("For one boot only").check()
    expect(dialog).to_contain_text("It is off. It starts from its disk, this once")
    shown.confirm()
    expect(shown.answer("ci-runner-1")).to_contain_text("Disk boot: running (booted)")
    expect(shown.boots("ci-runner-1")).to_contain_text("pending")
    assert daemon.get("/service/ci-runner-1/boot").json == before | {
        "pending": True,
        "running_once": "disk",
    }


def test_set_what_boots_next(shown: Console, daemon: Daemon) -> None:
    dialog = shown.choose("ci-runner-2", "Boot", "Set what boots next")
    dialog.get_by_label("What it boots").select_option("CD-ROM")
    dialog.get_by_label("For one boot only").check()
    expect(dialog).to_contain_text(
        "It stays off. The next boot, and only that one, is from its CD-ROM."
    )
    shown.confirm()
    expect(shown.answer("ci-runner-2")).to_contain_text("Set what boots next: set")
    expect(shown.boots("ci-runner-2").get_by_role("listitem").first).to_have_text("CD-ROM, once")
    assert daemon.get("/service/ci-runner-2/boot").json["once"] == "cdrom"
    assert daemon.status("ci-runner-2")["state"] == "shut off"


def test_force_off(shown: Console, daemon: Daemon) -> None:
    dialog = shown.choose("db-1", "More", "Force off")
    expect(dialog).to_contain_text("Its power is cut. Its guest is not asked")
    shown.confirm()
    expect(shown.state("db-1")).to_have_text("shut off")
    expect(shown.answer("db-1")).to_contain_text("Force off: shut off (destroyed)")
    assert daemon.status("db-1")["state"] == "shut off"


def test_escape_does_nothing_to_a_machine(shown: Console, daemon: Daemon) -> None:
    shown.choose("db-1", "More", "Force off")
    shown.page.keyboard.press("Escape")
    expect(shown.dialog).to_be_hidden()
    expect(shown.answer("db-1")).to_be_empty()
    assert daemon.status("db-1")["state"] == "running"


def test_refusal_is_told_in_the_row(shown: Console, daemon: Daemon) -> None:
    detail = daemon.act("desktop", "pxeboot").json["detail"]
    shown.choose("desktop", "Boot", "PXE boot")
    shown.confirm()
    expect(shown.answer("desktop")).to_contain_text(f"PXE boot: {detail}")
    expect(shown.page.locator("#spoken")).to_contain_text(f"desktop, PXE boot: {detail}")
    expect(shown.state("desktop")).to_have_text("pmsuspended")


def test_picture_of_a_machine_that_is_off(shown: Console) -> None:
    shown.row("ci-runner-1").get_by_role("button", name="Screen of ci-runner-1").click()
    expect(shown.dialog).to_contain_text("shut off")
    expect(shown.dialog).to_contain_text("3f1c5a52-6b0e-4d0c-9c0a-5a1d2f0b0003")
    expect(shown.dialog).to_contain_text("Default order")
    shown.dialog.get_by_role("button", name="Close").click()
    expect(shown.dialog).to_be_hidden()
    assert shown.focused == "Screen of ci-runner-1: off"


def test_what_others_do_is_shown_and_focus_stays(shown: Console, daemon: Daemon) -> None:
    shown.button("web-1", "Boot").focus()
    assert daemon.act("web-1", "force_off").json["changed"]
    expect(shown.state("web-1")).to_have_text("shut off")
    assert shown.focused == "Boot"


def test_focus_is_not_lost_with_a_button(shown: Console, daemon: Daemon) -> None:
    shown.button("web-1", "Reboot").focus()
    assert daemon.act("web-1", "force_off").json["changed"]
    expect(shown.button("web-1", "Power on")).to_be_visible()
    # The menu is gone too: a machine that is off has nothing in it.
    assert shown.focused == "Boot"


def test_open_menu_follows_the_machine(shown: Console, daemon: Daemon) -> None:
    menu = shown.open_menu("staging", "More")
    menu.get_by_role("menuitem", name="Force off").focus()
    assert daemon.act("staging", "power_on").json["changed"]
    expect(menu.get_by_role("menuitem")).to_have_text(
        [f"{verb} …" for verb in ("Power cycle", "Reset", "Force off", "Send an NMI")]
    )
    assert shown.focused == "Force off …"


def test_dialog_follows_the_machine(shown: Console, daemon: Daemon) -> None:
    dialog = shown.choose("web-1", "Boot", "PXE boot")
    assert daemon.act("web-1", "force_off").json["changed"]
    expect(dialog).to_contain_text("It is off. It starts from the network")


def refuse(status: int, detail: str) -> Callable[[Route], None]:
    """For Playwright: answer so in place of the daemon."""
    return lambda route: route.fulfill(status=status, json={"detail": detail})


def test_daemon_is_killed_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    with reserved_port() as port:
        listen = f"--listen=127.0.0.1:{port}"
        with demo(tmp_path, listen) as daemon, console(browser, daemon) as shown:
            shown.wait_until_it_follows()
            daemon.kill()
            away = shown.page.get_by_role("alert")
            expect(away).to_contain_text("The controller does not answer.")
            expect(away).to_contain_text("What is shown was so at")
            expect(shown.link).to_have_text("No controller")
            expect(shown.state("web-1")).to_have_text("running")
            shown.button(ODD, "Power on").click()
            expect(shown.answer(ODD)).to_contain_text("the controller did not answer")
            with demo(tmp_path, listen) as again:
                shown.wait_until_it_follows()
                expect(away).to_be_hidden()
                assert again.act("web-1", "force_off").json["changed"]
                expect(shown.state("web-1")).to_have_text("shut off")
                shown.button(ODD, "Power on").click()
                expect(shown.state(ODD)).to_have_text("running")


def test_nothing_of_an_outage_is_left_after_it(browser: Browser, tmp_path: Path) -> None:
    with reserved_port() as port:
        listen = f"--listen=127.0.0.1:{port}"
        with demo(tmp_path, listen) as daemon, console(browser, daemon) as shown:
            shown.page.route("**/screenshot", refuse(409, "cannot connect"))
            shown.page.route("**/boot", refuse(409, "cannot connect"))
            shown.page.reload()
            expect(shown.boots("db-1")).to_have_text("not known: cannot connect")
            shown.row("db-1").get_by_role("button", name="Screen of db-1").click()
            expect(shown.dialog).to_contain_text("cannot connect")
            daemon.kill()
            expect(shown.link).to_have_text("No controller")
            shown.page.unroute_all()
            with demo(tmp_path, listen):
                shown.wait_until_it_follows()
                # Sooner than the page asks again anyway.
                expect(shown.dialog.get_by_role("img")).to_be_visible(timeout=4000)
                expect(shown.boots("db-1")).to_contain_text("disk vda", timeout=4000)


@pytest.mark.parametrize("status", [503, 504])
def test_busy_libvirt_leaves_what_is_shown(shown: Console, status: int) -> None:
    picture = shown.row("db-1").locator(".picture img")
    expect(picture).to_be_visible()
    expect(shown.boots("db-1")).to_contain_text("disk vda")
    with shown.page.expect_response(lambda answer: answer.status == status):
        shown.page.route("**/screenshot", refuse(status, "busy"))
    before = picture.get_attribute("src") or ""
    shown.page.wait_for_timeout(500)
    expect(picture).to_be_visible()
    shown.page.unroute_all()
    expect(picture).not_to_have_attribute("src", before, timeout=10000)


def test_who_may_only_read_is_told_so(browser: Browser, tmp_path: Path) -> None:
    for user in ("admin", "reader"):
        add_user(tmp_path / "users", user, "secret")
    (tmp_path / "mc.conf").write_text('[global]\nauth.readers = ["reader"]\n')
    arguments = [f"--config={tmp_path / 'mc.conf'}", f"--users={tmp_path / 'users'}"]
    with demo(tmp_path, *arguments) as daemon:
        reader: HttpCredentials = {"username": "reader", "password": "secret"}
        with console(browser, daemon, user=reader) as shown:
            shown.button(ODD, "Power on").click()
            expect(shown.answer(ODD)).to_contain_text("Power on: reader may only read")
            expect(shown.state(ODD)).to_have_text("shut off")
        admin: HttpCredentials = {"username": "admin", "password": "secret"}
        with console(browser, daemon, user=admin) as shown:
            expect(shown.link).to_have_text("Live")
            shown.button(ODD, "Power on").click()
            expect(shown.state(ODD)).to_have_text("running")


def test_windows_of_one_browser_leave_connections_to_each_other(
    browser: Browser, daemon: Daemon
) -> None:
    """There are six connections, and each stream holds one."""
    with console(browser, daemon) as first:
        pages = [first.page.context.new_page() for _ in range(7)]
        windows = [first, *(Console(page, first.page.url) for page in pages)]
        for window in windows:
            window.wait_until_it_follows()

        def live_ones() -> list[Console]:
            return [window for window in windows if window.link.inner_text() == "Live"]

        def has_three(found: list[Console]) -> bool:
            return len(found) == 3

        # One may have a stream until a busy window has answered.
        live = until(live_ones, 60, "three streams", has_three)
        windows[-1].button(ODD, "Power on").click()
        for window in windows:
            expect(window.state(ODD)).to_have_text("running")
        # Three that have none get those of the windows that are closed, whichever ask first.
        for window in live:
            windows.remove(window)
            window.page.close()
        until(live_ones, 60, "three streams again", has_three)


def test_page_without_a_stream_polls(browser: Browser, tmp_path: Path) -> None:
    """The page gets a stream as soon as there is one."""
    (tmp_path / "mc.conf").write_text("[global]\nservice.event_streams = 1\n")
    arguments = f"--config={tmp_path / 'mc.conf'}"
    with demo(tmp_path, arguments) as daemon, console(browser, daemon) as first:
        expect(first.link).to_have_text("Live")
        with console(browser, daemon) as second:
            expect(second.link).to_have_text("Polling every 2 s")
            assert daemon.act("web-1", "force_off").json["changed"]
            for shown in (first, second):
                expect(shown.state("web-1")).to_have_text("shut off")
            first.page.close()
            expect(second.link).to_have_text("Live")
