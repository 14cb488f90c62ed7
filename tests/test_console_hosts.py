"""The console page with several hosts: embedded hypervisors, one for each host."""

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from tests.booting import PATIENCE
from tests.browser import (
    PHONE,
    WIDE,
    WIDTHS,
    Console,
    Scheme,
    console,
    jumped,
    longest_task,
    watch_for_jumps,
)
from tests.daemon import Daemon
from tests.hypervisor import STATES, hypervisor
from tests.lab import until
from tests.test_console_access import SCHEMES, violations
from tests.test_console_many import visible
from tests.test_hosts import settings
from tests.told_hosts import many_hosts

# The UUIDs are numbered from 0 within each file: both machines `twin` have one UUID.
MACHINES: Mapping[str, Sequence[tuple[str, str]]] = {
    "kvm1": [("twin", "running"), ("vm-2", "shut off")],
    "kvm2": [("twin", "shut off"), ("vm-10", "paused"), ("vm-1", "running")],
}
BROKEN = "lost"
# libvirt refuses it.
NO_XML = "<node>"
LATE: Sequence[tuple[str, str]] = [("late", "running"), ("twin", "crashed")]
HOSTS, HOSTS_MACHINES = 200, 50
# Milliseconds of processor time, a tenth of what all rows at once would take.
LONGEST_TASK = 300


@dataclass
class House:
    """A daemon with the hosts of `MACHINES`, and one that is down until its file is mended."""

    daemon: Daemon
    folder: Path

    def mend(self, host: str = BROKEN) -> None:
        hypervisor(self.folder / f"{host}.xml", MACHINES.get(host, LATE))

    def break_off(self, host: str) -> None:
        """End the host's libvirt, which lives in the daemon's virsh, and let no other begin."""
        file = self.folder / f"{host}.xml"
        file.write_text(NO_XML)

        def state() -> str:
            # One may just have begun by what the file was before.
            for pid in self.daemon.children():
                with suppress(FileNotFoundError, ProcessLookupError):
                    if str(file) in Path(f"/proc/{pid}/cmdline").read_text():
                        os.kill(pid, signal.SIGKILL)
            return str(self.daemon.get(f"/hosts/{host}").json["state"])

        until(state, PATIENCE, f"end of {host}", lambda now: now == "down")

    def state(self, host: str, name: str) -> str:
        status = self.daemon.get(f"/hosts/{host}/service/{name}/state_controller/status")
        return str(status.json["state"])


def config(folder: Path, *options: str) -> Path:
    """Settings for these hosts."""
    uris = {
        name: hypervisor(folder / f"{name}.xml", machines) for name, machines in MACHINES.items()
    }
    (folder / "lost.xml").write_text(NO_XML)
    file = settings(folder, {**uris, BROKEN: f"test://{folder}/lost.xml"})
    head = "[global]\n"
    file.write_text(file.read_text().replace(head, head + "".join(f"{one}\n" for one in options)))
    return file


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Daemon("--config", str(config(tmp_path))) as daemon:
        yield House(daemon, tmp_path)


@pytest.fixture
def daemon(house: House) -> Daemon:
    return house.daemon


def row(shown: Console, name: str, host: str) -> Locator:
    of_host = shown.page.locator(".host", has_text=re.compile(f"^{host}$"))
    return shown.row(name).filter(has=of_host)


def names(shown: Console) -> list[tuple[str, str]]:
    """Each machine in sight, and its host."""
    return [
        (one.get_by_role("heading").inner_text(), one.locator(".host").inner_text())
        for one in shown.rows.all()
    ]


def away(shown: Console) -> Locator:
    """What is said of the hosts that are away."""
    return shown.page.locator("#hosts-away")


def test_shows_every_machine_by_name_with_its_host(shown: Console) -> None:
    expect(shown.rows).to_have_count(5)
    assert names(shown) == [
        ("twin", "kvm1"),
        ("twin", "kvm2"),
        ("vm-1", "kvm2"),
        ("vm-2", "kvm1"),
        ("vm-10", "kvm2"),
    ]
    expect(row(shown, "twin", "kvm1").locator(".state")).to_have_text("running")
    expect(row(shown, "twin", "kvm2").locator(".state")).to_have_text("shut off")
    expect(shown.page.locator("#where")).to_have_text("3 hosts")


def test_one_host_is_not_spoken_of(browser: Browser, tmp_path: Path) -> None:
    uri = hypervisor(tmp_path / "one.xml", MACHINES["kvm1"])
    with Daemon("--connect", uri) as daemon, console(browser, daemon) as shown:
        asked: list[str] = []
        shown.page.on("request", lambda request: asked.append(request.url))
        shown.page.reload()
        expect(shown.rows).to_have_count(2)
        expect(shown.link).to_have_text("Live")
        expect(shown.page.locator("#where")).to_have_text(uri)
        expect(shown.page.get_by_label("Name", exact=True)).to_be_visible()
        for part in ("#filter-host", "#hosts-away", ".host"):
            for one in shown.page.locator(part).all():
                expect(one).to_be_hidden()
        expect(shown.row("vm-2").locator(".verbs")).to_have_attribute("aria-label", "vm-2")
        shown.button("vm-2", "Power on").click()
        expect(shown.state("vm-2")).to_have_text("running")
        assert not any("/hosts/" in url for url in asked)


def test_filters_by_host(shown: Console) -> None:
    page = shown.page
    expect(shown.rows).to_have_count(5)
    choice = page.get_by_label("Host", exact=True)
    expect(choice.locator("option")).to_have_text(
        ["All 3 hosts", "kvm1 (2)", "kvm2 (3)", "lost (away)"]
    )
    choice.select_option("kvm2")
    expect(shown.rows).to_have_count(3)
    assert {host for _, host in names(shown)} == {"kvm2"}
    page.get_by_label("running 2").check()
    expect(shown.rows.get_by_role("heading")).to_have_text(["vm-1"])
    expect(page.get_by_text("1 of 5 shown")).to_be_visible()
    page.get_by_label("all 5").check()
    choice.select_option(BROKEN)
    expect(shown.rows).to_have_count(0)
    expect(page.get_by_text("lost is away.")).to_be_visible()
    choice.select_option("All 3 hosts")
    expect(shown.rows).to_have_count(5)


def test_text_finds_the_host_as_well(shown: Console) -> None:
    expect(shown.rows).to_have_count(5)
    shown.page.get_by_label("Name or host").fill("KVM1")
    expect(shown.rows).to_have_count(2)
    assert names(shown) == [("twin", "kvm1"), ("vm-2", "kvm1")]
    shown.page.get_by_label("Name or host").fill("twin")
    expect(shown.rows).to_have_count(2)


def test_action_goes_to_the_machine_of_its_own_host(shown: Console, house: House) -> None:
    row(shown, "twin", "kvm2").get_by_role("button", name="Power on").click()
    expect(row(shown, "twin", "kvm2").locator(".state")).to_have_text("running")
    assert (house.state("kvm1", "twin"), house.state("kvm2", "twin")) == ("running", "running")

    row(shown, "twin", "kvm1").get_by_role("button", name="More").click()
    shown.page.get_by_role("menuitem", name="Force off").click()
    expect(shown.dialog.get_by_role("heading")).to_have_text("Force off: twin on kvm1")
    shown.confirm()
    expect(row(shown, "twin", "kvm1").locator(".state")).to_have_text("shut off")
    expect(row(shown, "twin", "kvm1").locator(".answer")).to_contain_text("Force off: shut off")
    expect(row(shown, "twin", "kvm2").locator(".answer")).not_to_contain_text("Force off")
    assert (house.state("kvm1", "twin"), house.state("kvm2", "twin")) == ("shut off", "running")


def test_picture_and_boot_order_are_of_the_machine_of_its_own_host(shown: Console) -> None:
    expect(shown.rows).to_have_count(5)
    row(shown, "twin", "kvm2").get_by_role("button", name="Screen of twin on kvm2").click()
    expect(shown.dialog.get_by_role("heading")).to_have_text("twin on kvm2")
    expect(shown.dialog).to_contain_text("shut off")
    expect(shown.dialog.locator("dd").first).to_have_text("kvm2")
    expect(shown.dialog).to_contain_text("Default order")


def test_host_that_is_down_is_told_with_the_words_of_libvirt(shown: Console, house: House) -> None:
    told = house.daemon.get(f"/hosts/{BROKEN}").json
    expect(shown.link).to_have_text("Live, 1 host away")
    expect(away(shown).locator("summary")).to_have_text(
        "1 host is away. Its machines are not shown."
    )
    line = away(shown).get_by_role("listitem")
    expect(line).to_contain_text(f"{BROKEN} since ")
    expect(line).to_contain_text(told["detail"])
    seen = line.locator("time").get_attribute("datetime") or ""
    assert seen.removesuffix(".000Z") == told["since"].removesuffix("Z")


def test_host_comes_back_by_itself(shown: Console, house: House) -> None:
    expect(shown.link).to_have_text("Live, 1 host away")
    house.mend()
    expect(shown.rows).to_have_count(7)
    assert names(shown)[:4] == [
        ("late", BROKEN),
        ("twin", "kvm1"),
        ("twin", "kvm2"),
        ("twin", BROKEN),
    ]
    expect(shown.link).to_have_text("Live")
    expect(away(shown)).to_be_hidden()
    row(shown, "twin", BROKEN).get_by_role("button", name="Power cycle").click()
    shown.confirm()
    expect(row(shown, "twin", BROKEN).locator(".state")).to_have_text("running")
    assert house.state(BROKEN, "twin") == "running"
    assert house.state("kvm2", "twin") == "shut off"


def test_machines_of_a_host_that_goes_away_are_left_out_until_it_is_back(
    shown: Console, house: House
) -> None:
    mine = row(shown, "twin", "kvm2")
    mine.get_by_role("button", name="Power on").click()
    expect(mine.locator(".answer")).to_contain_text("Power on: running")
    shown.page.get_by_label("all 5").check()
    mine.get_by_role("button", name="More").focus()
    house.break_off("kvm2")
    expect(shown.link).to_have_text("Live, 2 hosts away")
    expect(shown.rows).to_have_count(2)
    assert {host for _, host in names(shown)} == {"kvm1"}
    expect(shown.page.get_by_label("all 2")).to_be_checked()
    expect(away(shown).get_by_role("listitem")).to_have_count(2)
    expect(away(shown)).to_contain_text("kvm2 since ")
    # The focus is not lost with the row.
    assert shown.focused == "Boot"

    house.mend("kvm2")
    expect(shown.rows).to_have_count(5)
    # It is a new hypervisor: nothing is shown as it was, but for what was done here.
    expect(mine.locator(".state")).to_have_text("shut off")
    expect(mine.locator(".answer")).to_contain_text("Power on: running")
    expect(mine.locator(".order")).to_contain_text("hd")
    expect(shown.link).to_have_text("Live, 1 host away")


def test_question_and_large_picture_follow_the_host(shown: Console, house: House) -> None:
    row(shown, "vm-1", "kvm2").get_by_role("button", name="More").click()
    shown.page.get_by_role("menuitem", name="Force off").click()
    expect(shown.dialog).to_contain_text("Its power is cut.")
    house.break_off("kvm2")
    expect(shown.dialog).to_contain_text("Its host, kvm2, is away now: nothing can be done.")
    expect(shown.dialog.locator("[type=submit]")).to_be_disabled()
    house.mend("kvm2")
    expect(shown.dialog).to_contain_text("Its power is cut.")
    shown.page.keyboard.press("Escape")

    row(shown, "vm-1", "kvm2").get_by_role("button", name="Screen of vm-1 on kvm2").click()
    expect(shown.dialog.get_by_role("img")).to_be_visible()
    house.break_off("kvm2")
    expect(shown.dialog).to_contain_text("kvm2 is away")
    expect(shown.dialog.get_by_role("img")).to_be_hidden()
    expect(shown.dialog.locator(".state")).to_be_hidden()
    house.mend("kvm2")
    expect(shown.dialog.get_by_role("img")).to_be_visible()
    expect(shown.dialog.locator(".state")).to_have_text("running")


def test_page_without_a_stream_knows_the_hosts_too(browser: Browser, tmp_path: Path) -> None:
    file = config(tmp_path, "service.event_streams = 1")
    with Daemon("--config", str(file)) as daemon, console(browser, daemon) as first:
        house = House(daemon, tmp_path)
        expect(first.link).to_have_text("Live, 1 host away")
        with console(browser, daemon) as shown:
            expect(shown.link).to_have_text("Polling every 2 s, 1 host away")
            expect(shown.rows).to_have_count(5)
            expect(away(shown)).to_contain_text(daemon.get(f"/hosts/{BROKEN}").json["detail"])
            house.mend()
            expect(shown.rows).to_have_count(7)
            expect(shown.link).to_have_text("Polling every 2 s")
            for host in (*MACHINES, BROKEN):
                house.break_off(host)
            expect(shown.link).to_have_text("Polling every 2 s, 3 hosts away")
            expect(shown.rows).to_have_count(0)
            expect(shown.page.get_by_text("No host that answers has machines.")).to_be_visible()
            expect(first.link).to_have_text("Live, 3 hosts away")
            for host in (*MACHINES, BROKEN):
                house.mend(host)
            for page in (shown, first):
                expect(page.rows).to_have_count(7)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_nothing(
    browser: Browser, daemon: Daemon, scheme: Scheme, size: ViewportSize
) -> None:
    with console(browser, daemon, size=size, scheme=scheme) as shown:
        expect(shown.link).to_have_text("Live, 1 host away")
        expect(row(shown, "twin", "kvm1").locator(".order")).to_contain_text("hd")
        assert violations(shown.page) == []
        shown.page.get_by_label("Host", exact=True).select_option(BROKEN)
        expect(shown.page.get_by_text("lost is away.")).to_be_visible()
        assert violations(shown.page) == []
        wide = """[...document.querySelectorAll('*')].filter((e) => e.scrollWidth > innerWidth
          && getComputedStyle(e).overflowX === 'visible')"""
        assert shown.page.evaluate(f"{wide}.map((e) => e.outerHTML.slice(0, 80))") == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_jumps_while_they_load(browser: Browser, daemon: Daemon, width: int) -> None:
    with console(browser, daemon, size={"width": width, "height": 800}) as shown:
        expect(shown.link).to_have_text("Live, 1 host away")
        watch_for_jumps(shown.page)
        shown.page.reload()
        expect(row(shown, "twin", "kvm1").locator(".order")).to_contain_text("hd")
        expect(shown.rows).to_have_count(5)
        assert jumped(shown.page) < 0.01


def rows_in_page(page: Page) -> None:
    rows = "document.querySelectorAll('#machines > li').length"
    all_rows = HOSTS * HOSTS_MACHINES
    # They are ten times as many as elsewhere, and a busy machine takes its time for them.
    until(lambda: page.evaluate(rows), 10 * PATIENCE, "rows", lambda now: now == all_rows)


def test_very_many_hosts_are_shown_without_a_long_task(browser: Browser) -> None:
    """None that the page needs: what comes of a busy machine is not in all of a few rounds."""
    states = list(STATES)
    machines = {
        f"kvm{host}": [
            (f"vm-{number}", states[(host + number) % len(states)])
            for number in range(HOSTS_MACHINES)
        ]
        for host in range(HOSTS)
    }
    with many_hosts(machines) as server:
        context = browser.new_context(viewport=WIDE)
        page = context.new_page()

        def load() -> None:
            page.goto(f"http://127.0.0.1:{server.port}/")
            rows_in_page(page)

        assert any(longest_task(browser, page, load) < LONGEST_TASK for _ in range(3))
        assert visible(page)[:3] == ["vm-0", "vm-0", "vm-0"]
        assert len(visible(page)) == HOSTS * HOSTS_MACHINES
        page.locator("#filter-name").fill("kvm77")
        assert visible(page) == [f"vm-{number}" for number in range(HOSTS_MACHINES)]
        page.locator("#filter-host").select_option("kvm7")
        assert visible(page) == []
        context.close()
