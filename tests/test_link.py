"""What is known of a host, who finds out, and what silent hosts may keep."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from mc.errors import HostBusy, HostDown, Stopping, TooMany, Unreachable
from mc.hosts.index import Index
from mc.hosts.link import Link, Pace
from mc.hosts.shares import Shares
from mc.machine.machines import Machine
from tests.lab import until


class Libvirt:
    """What a prober finds: it answers, or it refuses; or it says nothing until it is let go."""

    def __init__(self) -> None:
        self.answers = True
        self.says = threading.Event()
        self.says.set()
        self.asked = 0
        self.changes: list[str] = []
        self.looks = 0

    def probe(self) -> None:
        self.asked += 1
        assert self.says.wait(30)
        if not self.answers:
            raise Unreachable("Connection refused")

    def look(self) -> None:
        self.looks += 1


@pytest.fixture
def libvirt() -> Libvirt:
    return Libvirt()


@pytest.fixture
def link(libvirt: Libvirt) -> Iterator[Link]:
    link = Link(
        "kvm1",
        is_near=False,
        pace=Pace(),
        probe=libvirt.probe,
        on_answer=libvirt.look,
        on_change=lambda now: libvirt.changes.append(now.state),
    )
    yield link
    libvirt.says.set()
    link.close()


def is_in(link: Link, state: str) -> Callable[[], bool]:
    return lambda: link.now.state == state


def test_host_that_answers_is_up_and_looked_at(libvirt: Libvirt, link: Link) -> None:
    assert is_in(link, "connecting")()
    link.start()
    link.enter()
    until(lambda: libvirt.looks, 10, "a look")
    assert link.now.state == "up"
    assert libvirt.changes == ["up"]


def test_request_waits_for_the_first_connection_and_a_crowd_does_not(
    libvirt: Libvirt, link: Link
) -> None:
    libvirt.says.clear()
    link.start()
    waiting = [threading.Thread(target=link.enter) for _ in range(8)]
    for thread in waiting:
        thread.start()

    def crowded() -> bool:
        # Until all eight wait, this is one of them; so it is refused only then.
        return sum(thread.is_alive() for thread in waiting) == 8 and link.waiting == 8

    until(crowded, 10, "eight that wait")
    with pytest.raises(HostBusy):
        link.enter()
    libvirt.says.set()
    for thread in waiting:
        thread.join(10)
    assert link.now.state == "up"


def test_host_that_is_down_is_told_with_libvirts_words(libvirt: Libvirt, link: Link) -> None:
    libvirt.answers = False
    link.start()
    until(is_in(link, "down"), 10, "down")
    libvirt.says.clear()
    until(lambda: libvirt.asked >= 2, 10, "a prober that waits")
    link.tried(Unreachable("No route to host"))
    with pytest.raises(HostDown, match="No route to host") as raised:
        link.enter()
    assert raised.value.host == "kvm1"
    assert raised.value.since == link.now.since
    assert raised.value.retry_after >= 1


def test_host_that_is_back_is_found_by_the_prober(libvirt: Libvirt, link: Link) -> None:
    libvirt.answers = False
    link.start()
    until(is_in(link, "down"), 10, "down")
    since = link.now.since
    until(lambda: libvirt.asked >= 2, 10, "another try")
    assert link.now.since == since
    libvirt.answers = True
    until(is_in(link, "up"), 10, "up")
    assert libvirt.changes == ["down", "up"]


def test_refused_login_alone_is_no_host_that_is_down(libvirt: Libvirt, link: Link) -> None:
    link.start()
    until(lambda: libvirt.looks, 10, "a look")
    link.tried(Unreachable("Connection closed by remote host"))
    until(lambda: libvirt.asked >= 2, 10, "a probe")
    assert link.now.state == "up"
    assert libvirt.changes == ["up"]


def test_failed_probe_takes_a_host_down(libvirt: Libvirt, link: Link) -> None:
    link.start()
    until(lambda: libvirt.looks, 10, "a look")
    libvirt.answers = False
    link.suspect()
    until(is_in(link, "down"), 10, "down")
    assert libvirt.changes == ["up", "down"]


def test_failure_after_the_end_is_no_host_that_is_down(libvirt: Libvirt, link: Link) -> None:
    """As of a connection that the end has broken off; and who waits for it is told at once."""
    libvirt.answers = False
    libvirt.says.clear()
    link.start()
    until(lambda: libvirt.asked, 10, "a probe")
    link.stop()
    with pytest.raises(Stopping):
        link.enter()
    libvirt.says.set()
    link.close()
    assert libvirt.changes == []


def test_pace_lets_a_few_begin_at_once_and_counts_the_slow_no_more() -> None:
    pace = Pace(most=2, seconds=0.2)
    with pace.turn(), pace.turn(), pace.turn():
        # The third has come to pass though the first two have not ended.
        pass


@dataclass
class Server:
    """A host that has not answered for so many seconds."""

    name: str
    seconds: float = 0.0
    taken: list[object] = field(default_factory=list)

    def silent(self) -> float:
        return self.seconds


def taken(shares: Shares, server: Server, stack: ExitStack) -> int:
    """How many this server gets until it is refused."""
    number = 0
    try:
        while True:
            stack.enter_context(shares.of(server))
            number += 1
    except HostBusy:
        return number


def test_host_that_answers_may_have_all() -> None:
    with ExitStack() as stack:
        shares = Shares(16, "requests")
        for _ in range(16):
            stack.enter_context(shares.of(Server("a")))
        with pytest.raises(TooMany), shares.of(Server("a")):
            pass


@pytest.mark.parametrize("silent", [1, 3, 7])
def test_silent_hosts_leave_some_to_the_others(silent: int) -> None:
    with ExitStack() as stack:
        shares = Shares(64, "requests")
        for number in range(silent):
            assert taken(shares, Server(f"b{number}", 1.0), stack)
        with shares.of(Server("a")):
            pass


def machine(name: str, uuid: str) -> Machine:
    return Machine(None, name, uuid, "shut off")


A, B = "6695eb01-f6a4-8304-79aa-97f2502e193f", "6695eb01-f6a4-8304-79aa-97f2502e1940"


def learn(index: Index, host: str, *machines: Machine) -> None:
    index.learn(host, machines, index.changes(host))


def test_index_says_where_a_name_or_a_uuid_was_seen() -> None:
    index = Index()
    assert index.count("kvm1") is None
    learn(index, "kvm1", machine("vm", A))
    learn(index, "kvm2", machine("vm", B), machine("other", A))
    assert index.bearers("vm") == {"kvm1", "kvm2"}
    assert index.bearers(A.upper().replace("-", "")) == {"kvm1", "kvm2"}
    learn(index, "kvm2", machine("vm", A))
    assert index.bearers(B) == set()
    index.forget("kvm1", A)
    assert index.bearers("vm") == index.bearers(A) == {"kvm2"}
    assert (index.count("kvm1"), index.count("kvm2")) == (1, 1)


def test_names_are_no_uuids_to_the_index() -> None:
    index = Index()
    learn(index, "kvm1", machine("web1", A), machine(A.replace("-", ""), B))
    assert index.bearers("web-1") == set()
    learn(index, "kvm1", machine("web1", A))
    assert index.bearers(A) == {"kvm1"}


def test_index_takes_a_name_from_an_event_and_its_uuid_from_the_list() -> None:
    index = Index()
    index.changed("kvm1", "new")
    assert index.bearers("new") == {"kvm1"}
    assert not index.is_read("kvm1")
    learn(index, "kvm1", machine("new", A))
    assert index.is_read("kvm1")
    assert index.bearers(A) == {"kvm1"}
    learn(index, "kvm1")
    assert index.bearers("new") == index.bearers(A) == set()


def test_list_that_was_begun_before_an_event_takes_nothing_of_it_back() -> None:
    index = Index()
    begun = index.changes("kvm1")
    index.changed("kvm1", "new")
    index.learn("kvm1", [machine("old", A)], begun)
    assert index.bearers("new") == index.bearers("old") == {"kvm1"}
    assert not index.is_read("kvm1")


def test_list_is_waited_for_once_after_each_change() -> None:
    index = Index()
    index.changed("kvm1")
    reading = threading.Timer(0.1, learn, (index, "kvm1", machine("new", A)))
    reading.start()
    index.wait_until_fresh(30)
    assert index.bearers("new") == {"kvm1"}
    index.changed("kvm1")
    index.wait_until_fresh(0.01)
    # The list has not come in time, and nobody waits for it again.
    index.wait_until_fresh(3600)
    index.changed("kvm1")
    index.give_up("kvm1")
    index.wait_until_fresh(3600)
