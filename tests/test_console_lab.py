"""The console page in a browser, on real QEMU."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests import booting
from tests.browser import Console
from tests.daemon import Daemon
from tests.lab import Key, Laboratory, Machine, Nic, until

SCREEN = "<video><model type='vga' vram='4096'/></video>"


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    """One of its own: its libvirtd is killed, and the page shows all machines that there are."""
    with Laboratory() as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def daemon(lab: Laboratory) -> Iterator[Daemon]:
    with Daemon("--connect", lab.uri, f"--backup-dir={lab.folder / 'backups'}") as daemon:
        yield daemon


@pytest.fixture
def define(lab: Laboratory) -> Iterator[booting.Define]:
    with booting.machines(lab) as define:
        yield define


def width(picture: Locator) -> int:
    """The width of a picture in its own pixels; 0 until one is shown."""
    pixels: int = picture.evaluate("(image) => image.naturalWidth")
    return pixels


def test_machines_come_and_go(shown: Console, define: booting.Define, lab: Laboratory) -> None:
    shown.wait_until_it_follows()
    machine = define()
    expect(shown.state(machine.name)).to_have_text("shut off")
    machine.virsh("undefine")
    expect(shown.row(machine.name)).to_have_count(0)


def test_power_by_the_page_and_by_virsh(shown: Console, define: booting.Define) -> None:
    machine = define()
    shown.button(machine.name, "Power on").click()
    expect(shown.answer(machine.name)).to_contain_text("Power on: running (booted)")
    machine.wait_for_boot(1)
    machine.virsh("suspend")
    expect(shown.state(machine.name)).to_have_text("paused (user)")
    machine.virsh("resume")
    expect(shown.state(machine.name)).to_have_text("running")
    machine.press(Key.PANIC)
    expect(shown.state(machine.name)).to_have_text("crashed (panicked)")
    expect(shown.button(machine.name, "Power cycle")).to_be_visible()
    machine.destroy()
    expect(shown.state(machine.name)).to_have_text("shut off")


def test_screen_is_shown_small_and_large(shown: Console, define: booting.Define) -> None:
    machine = define(devices=SCREEN)
    button = shown.row(machine.name).locator(".picture")
    expect(button).to_have_text("off")
    machine.boot()
    expect(button.locator("img")).to_be_visible()
    button.click()
    large = shown.dialog.get_by_role("img", name=f"Screen of {machine.name}")
    expect(large).to_be_visible()
    until(lambda: width(large), booting.PATIENCE, "large picture", lambda now: now > 300)
    before = large.get_attribute("src")
    expect(large).not_to_have_attribute("src", before or "")
    machine.destroy()
    expect(large).to_be_hidden()
    expect(shown.dialog.get_by_text("off", exact=True)).to_be_visible()
    shown.page.keyboard.press("Escape")
    expect(shown.dialog).to_be_hidden()


def test_machine_without_a_screen(shown: Console, define: booting.Define) -> None:
    machine = define()
    machine.boot()
    expect(shown.row(machine.name).locator(".picture")).to_have_text("no picture")


def test_deaf_guest_gets_its_time_and_can_be_forced(shown: Console, define: booting.Define) -> None:
    machine = define(obeys_button=False)
    machine.boot()
    dialog = shown.choose(machine.name, "Boot", "PXE boot")
    dialog.get_by_label("Seconds").fill("600")
    shown.confirm()
    answer = shown.answer(machine.name)
    expect(answer).to_contain_text(re.compile(r"power cut in \d+ s, its guest"))
    expect(answer.get_by_role("progressbar", name="PXE boot, time left")).to_be_visible()
    answer.get_by_role("button", name="Cut its power now").click()
    expect(answer).to_have_text(re.compile(r"^\S+( [AP]M)? PXE boot: running \(booted\)$"))
    machine.wait_for_boots("disk", "network")


def test_power_off_waits_for_the_guest_and_cuts_its_power(
    shown: Console, define: booting.Define
) -> None:
    machine = define(obeys_button=False)
    machine.boot()
    shown.button(machine.name, "Power off").click()
    shown.dialog.get_by_label("Seconds").fill("1")
    expect(shown.dialog).to_contain_text("If it does not listen, it runs on.")
    shown.confirm()
    expect(shown.answer(machine.name)).to_contain_text("Power off: asked; it is still running")
    shown.button(machine.name, "Power off").click()
    shown.dialog.get_by_label("Seconds").fill("1")
    shown.dialog.get_by_label("Then cut its power").check()
    expect(shown.dialog).to_contain_text("if it is not off after 1 second, its power is cut")
    shown.confirm()
    expect(shown.answer(machine.name)).to_contain_text("Power off: shut off (destroyed)")


def test_pending_order_and_one_boot(shown: Console, define: booting.Define) -> None:
    machine = define(boot="device", boot_order=["disk"])
    machine.boot()
    dialog = shown.choose(machine.name, "Boot", "Set what boots next")
    dialog.get_by_label("What it boots").select_option("Network (PXE)")
    dialog.get_by_label("For one boot only").check()
    shown.confirm()
    expect(shown.boots(machine.name)).to_contain_text("network, once")
    shown.choose(machine.name, "More", "Power cycle")
    shown.confirm()
    machine.wait_for_boots("disk", "network")
    expect(shown.boots(machine.name)).not_to_contain_text("once")
    expect(shown.boots(machine.name)).to_contain_text("pending")


def test_refusal_by_libvirt(shown: Console, define: booting.Define, lab: Laboratory) -> None:
    machine = define()
    # Without its disk QEMU does not start.
    machine.disk.unlink()
    shown.button(machine.name, "Power on").click()
    expect(shown.answer(machine.name)).to_contain_text(re.compile("Power on: Failed to start"))
    expect(shown.state(machine.name)).to_have_text("shut off")


def test_machine_is_removed_while_its_question_is_open(
    shown: Console, define: booting.Define
) -> None:
    machine = define()
    dialog = shown.choose(machine.name, "Boot", "PXE boot")
    machine.virsh("undefine")
    expect(dialog.get_by_text("It is gone now: nothing can be done.")).to_be_visible()
    expect(dialog.locator("[type=submit]")).to_be_disabled()
    shown.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(shown.page.get_by_label("Name")).to_be_focused()


def test_libvirtd_is_killed_and_comes_back(
    shown: Console, define: booting.Define, lab: Laboratory
) -> None:
    machine: Machine = define(add=[Nic()])
    machine.boot()
    expect(shown.state(machine.name)).to_have_text("running")
    lab.libvirtd.kill()
    try:
        away = shown.page.get_by_role("alert")
        expect(away).to_contain_text("libvirt is away: ")
        expect(away).to_contain_text("What is shown was so at")
        expect(shown.link).to_have_text("libvirt is away")
        expect(shown.state(machine.name)).to_have_text("running")
        shown.button(machine.name, "Reboot").click()
        shown.confirm()
        expect(shown.answer(machine.name)).to_contain_text("Reboot: ")
        expect(shown.answer(machine.name).locator(".failed")).to_be_visible()
    finally:
        lab.libvirtd.start()
    shown.wait_until_it_follows()
    expect(away).to_be_hidden()
    machine.destroy()
    expect(shown.state(machine.name)).to_have_text("shut off")
