"""Following the machines: what changes is told, to everybody, at no cost when nobody listens."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from operator import eq
from pathlib import Path

import pytest

from mc.errors import Stopping
from mc.hosts.news import Changed, Everything, Gone, News, Reach, Subscription
from mc.hosts.subscriber import Subscriber
from mc.hosts.watch import Watch
from mc.machine.machines import Machine, Machines
from mc.virsh import Streams
from tests.hypervisor import hypervisor, number_of, open_virsh, uuid_of
from tests.lab import Laboratory, until

PATIENCE = 30.0
# Long enough for several readings, if there were any.
A_WHILE = 1.5


class Reader:
    """A subscriber that keeps what it is told."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.told: list[News] = []

    def read(self, seconds: float = 0.1) -> list[News]:
        news = [one for _, told in self._subscriber.news(seconds) for one in told]
        self.told += news
        return news

    def wait_for(self, wanted: Callable[[News], object], what: str) -> None:
        """Read until there is such a piece of news; what came before is forgotten."""

        def found() -> bool:
            self.read()
            return any(wanted(one) for one in self.told)

        until(found, PATIENCE, what)
        while not wanted(self.told[0]):
            del self.told[0]

    def wait_for_everything(self) -> list[Machine]:
        self.wait_for(lambda news: isinstance(news, Everything), "list of all machines")
        everything = self.told.pop(0)
        assert isinstance(everything, Everything)
        return list(everything.machines)

    def wait_for_machine(self, name: str, state: str) -> Machine:
        def wanted(news: News) -> bool:
            return isinstance(news, Changed) and (name, state) == (
                news.machine.name,
                news.machine.state,
            )

        self.wait_for(wanted, f"{name} {state}")
        changed = self.told.pop(0)
        assert isinstance(changed, Changed)
        return changed.machine

    def told_of(self) -> list[str]:
        return [news.machine.name for news in self.told if isinstance(news, Changed)]


@contextmanager
def reader(watch: Watch) -> Iterator[Reader]:
    with Subscriber([watch]) as subscriber:
        yield Reader(subscriber)


@contextmanager
def watching(machines: Machines, *, followed: bool = False) -> Iterator[Watch]:
    """A watch for the length of the block, after which nothing of it is left."""
    threads = threading.active_count()
    with closing(Watch(machines, followed=followed)) as watch:
        yield watch
    # Threads of the test that waited for news end as well, but maybe a little later.
    until(lambda: threading.active_count() <= threads, PATIENCE, "end of the threads")


class House:
    """Some machines of the embedded hypervisor, and a watch that hears no events but the test's."""

    def __init__(self, folder: Path, count: int, *, followed: bool = False) -> None:
        self._stack = ExitStack()
        machines = [(f"vm-{number:03}", "running") for number in range(count)]
        uri = hypervisor(folder / "node.xml", machines)
        self.virsh = self._stack.enter_context(closing(open_virsh(uri)))
        self.machines = Machines(self.virsh)
        self.watch = self._stack.enter_context(watching(self.machines, followed=followed))

    def cut(self, number: int) -> None:
        """Power off the machine `vm-NUMBER`."""
        self.virsh.destroy(number_of(self.virsh, uuid_of(number)))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with closing(House(tmp_path, 3)) as house:
        yield house


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """One that is told whatever happens, so that it reads when it hears of something."""
    monkeypatch.setattr("mc.hosts.watch._LOOK", 3600.0)
    with closing(House(tmp_path, 3, followed=True)) as house:
        yield house


@pytest.fixture
def readings(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How often the list has been read so far."""
    caplog.set_level(logging.DEBUG, "mc.virsh.commands")
    return lambda: sum("domstats" in record.getMessage() for record in caplog.records)


def a_while() -> None:
    """Let some time pass in which something must not happen."""
    end = time.monotonic() + A_WHILE
    until(lambda: time.monotonic() > end, PATIENCE, "end of a while")


def test_a_subscriber_is_first_told_everything(house: House) -> None:
    with reader(house.watch) as first, reader(house.watch) as second:
        for one in (first, second):
            news = until(one.read, PATIENCE, "first news")
            assert news == [Reach(None), Everything(house.machines.list_all())]
        assert [machine.name for machine in house.machines.list_all()] == [
            "vm-000",
            "vm-001",
            "vm-002",
        ]


def test_changes_are_told_to_every_subscriber(house: House) -> None:
    with reader(house.watch) as first, reader(house.watch) as second:
        for one in (first, second):
            one.wait_for_everything()
        house.cut(1)
        off = Machine(None, "vm-001", uuid_of(1), "shut off")
        assert [one.wait_for_machine("vm-001", "shut off") for one in (first, second)] == [off, off]
        house.virsh.start(uuid_of(1))
        on = first.wait_for_machine("vm-001", "running")
        assert on.id is not None
        assert second.wait_for_machine("vm-001", "running") == on
        assert first.told == second.told == []


def test_who_comes_later_is_told_what_is_true_then(house: House) -> None:
    with reader(house.watch) as first:
        first.wait_for_everything()
        house.cut(2)
        first.wait_for_machine("vm-002", "shut off")
        with reader(house.watch) as second:
            assert second.wait_for_everything()[2].state == "shut off"
    house.virsh.start(uuid_of(2))
    with reader(house.watch) as third:
        assert third.wait_for_everything()[2].state == "running"


def test_nothing_new_is_nothing(house: House) -> None:
    """And waiting for it costs nothing."""
    with reader(house.watch) as one:
        one.wait_for_everything()
        a_while()
        before = time.thread_time()
        assert one.read(A_WHILE) == []
        assert time.thread_time() - before < A_WHILE / 10


def test_nothing_is_read_while_nobody_listens(house: House, readings: Callable[[], int]) -> None:
    assert readings() == 0
    with reader(house.watch) as one:
        one.wait_for_everything()
    # What was just being read may still be read to its end.
    a_while()
    before = readings()
    for _ in range(1000):
        house.watch.heard("lifecycle", "vm-000")
        house.watch.stream_ended()
    a_while()
    assert readings() == before > 0


def test_an_event_is_followed_at_once(heard: House, readings: Callable[[], int]) -> None:
    """Not only at the next look, which would be in an hour."""
    with reader(heard.watch) as one:
        one.wait_for_everything()
        heard.cut(0)
        before = readings()
        a_while()
        assert readings() == before
        heard.watch.heard("lifecycle", "vm-000")
        one.wait_for_machine("vm-000", "shut off")


def test_the_end_of_a_stream_of_events_is_followed_at_once(heard: House) -> None:
    """Whatever happened since is unheard, and libvirt itself may be gone."""
    with reader(heard.watch) as one:
        one.wait_for_everything()
        heard.cut(0)
        heard.watch.stream_ended()
        one.wait_for_machine("vm-000", "shut off")


def test_a_stream_that_has_connected_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: Callable[[], int]
) -> None:
    """From a reading on that comes after it; and no more once it has ended."""
    monkeypatch.setattr("mc.hosts.watch._LOOK", 3600.0)
    with closing(House(tmp_path, 1)) as house, reader(house.watch) as one:
        one.wait_for_everything()
        before = readings()
        until(readings, PATIENCE, "polling", lambda now: now > before + 2)
        monkeypatch.setattr("mc.hosts.watch._POLL", 3600.0)
        house.cut(0)
        house.watch.stream_connected()
        one.wait_for_machine("vm-000", "shut off")
        monkeypatch.setattr("mc.hosts.watch._POLL", 0.5)
        a_while()
        before = readings()
        a_while()
        assert readings() == before
        house.watch.stream_ended()
        until(readings, PATIENCE, "polling", lambda now: now > before + 2)


def test_streams_that_end_again_and_again_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: Callable[[], int]
) -> None:
    monkeypatch.setattr("mc.hosts.watch._POLL", 3600.0)
    with closing(House(tmp_path, 1)) as house, reader(house.watch) as one:
        one.wait_for_everything()
        before = readings()
        for _ in range(100):
            house.watch.stream_ended()
        a_while()
        assert readings() == before


def test_an_action_of_ones_own_is_followed_without_polling(
    heard: House, readings: Callable[[], int]
) -> None:
    """As it is where nobody else can change anything."""
    with reader(heard.watch) as one:
        one.wait_for_everything()
        before = readings()
        heard.cut(1)
        heard.watch.heard("action", "vm-001")
        one.wait_for_machine("vm-001", "shut off")
        assert readings() == before + 1


def test_there_is_a_thread_only_while_somebody_listens(house: House) -> None:
    before = threading.active_count()
    for _ in range(2):
        with reader(house.watch) as one, reader(house.watch) as two:
            one.wait_for_everything()
            two.wait_for_everything()
            assert threading.active_count() == before + 1
        until(threading.active_count, PATIENCE, "end of the thread", lambda now: now == before)


def told(subscriber: Subscriber, watch: Watch, wanted: Callable[[News], object]) -> set[Watch]:
    """Read until this watch has such news; those that had any until then."""
    heard_of: set[Watch] = set()

    def found() -> bool:
        news = subscriber.news(0.1)
        heard_of.update(one for one, _ in news)
        return any(one is watch and any(map(wanted, each)) for one, each in news)

    until(found, PATIENCE, "news")
    return heard_of


def test_one_subscriber_follows_many_hosts(tmp_path: Path) -> None:
    with ExitStack() as stack:
        houses = []
        for number in range(5):
            folder = tmp_path / str(number)
            folder.mkdir()
            houses.append(stack.enter_context(closing(House(folder, 2))))
        subscriber = stack.enter_context(Subscriber([house.watch for house in houses]))
        first: dict[Watch, list[News]] = {}
        until(lambda: first.update(subscriber.news(0.1)) or len(first) == 5, PATIENCE, "all hosts")
        for house in houses:
            everything = Everything(house.machines.list_all())
            assert first[house.watch] == [Reach(None), everything]
        houses[3].cut(1)
        off = Machine(None, "vm-001", uuid_of(1), "shut off")
        assert told(subscriber, houses[3].watch, Changed(off).__eq__) == {houses[3].watch}
        # Also beside those that follow a single host; what has happened meanwhile is all there.
        for house in houses:
            with reader(house.watch) as other:
                other.wait_for_everything()
                house.cut(0)
                other.wait_for_machine("vm-000", "shut off")
        assert [watch for watch, _ in subscriber.news(0.1)] == [house.watch for house in houses]
        houses[0].virsh.close()
        houses[0].watch.close()
        with pytest.raises(Stopping):
            told(subscriber, houses[0].watch, lambda news: False)


def test_what_is_told_late_is_told_once(heard: House) -> None:
    with Subscriber([heard.watch]) as subscriber:
        until(lambda: subscriber.news(0.1), PATIENCE, "everything")
        with reader(heard.watch) as other:
            other.wait_for_everything()
            for _ in range(3):
                heard.watch.heard("metadata-change", "vm-000")
                other.wait_for_machine("vm-000", "running")
        (only,) = subscriber.news(0.1)
        assert [type(news) for news in only[1]] == [Changed]
        assert subscriber.news(0.1) == []


def test_a_machine_that_an_event_names_is_told_though_its_entry_is_the_same(heard: House) -> None:
    with reader(heard.watch) as one:
        one.wait_for_everything()
        heard.watch.heard("metadata-change", "vm-002")
        assert one.wait_for_machine("vm-002", "running").uuid == uuid_of(2)
        heard.watch.heard("lifecycle", "no such machine")
        heard.watch.heard("lifecycle", "vm-001")
        one.wait_for_machine("vm-001", "running")
        assert one.told == []


def test_events_that_change_nothing_cost_nothing(heard: House, readings: Callable[[], int]) -> None:
    with reader(heard.watch) as one:
        one.wait_for_everything()
        before = readings()
        for _ in range(100):
            heard.watch.heard("rtc-change", "vm-001")
            heard.watch.heard("balloon-change", "vm-001")
        a_while()
        assert readings() == before
        assert one.read() == []


def test_a_burst_of_events_costs_few_readings(heard: House, readings: Callable[[], int]) -> None:
    with reader(heard.watch) as one:
        one.wait_for_everything()
        before, start = readings(), time.monotonic()
        while time.monotonic() < start + A_WHILE:
            heard.watch.heard("lifecycle", "vm-001")
        times = readings() - before
        elapsed = time.monotonic() - start
        assert 1 <= times <= 1 + elapsed / 0.2
        heard.cut(1)
        heard.watch.heard("lifecycle", "vm-001")
        one.wait_for_machine("vm-001", "shut off")


def test_who_is_slow_is_told_the_latest_only(heard: House) -> None:
    with reader(heard.watch) as slow, reader(heard.watch) as quick:
        slow.wait_for_everything()
        quick.wait_for_everything()
        for _ in range(3):
            heard.cut(0)
            heard.watch.heard("lifecycle", "vm-000")
            quick.wait_for_machine("vm-000", "shut off")
            heard.virsh.start(uuid_of(0))
            heard.watch.heard("lifecycle", "vm-000")
            latest = quick.wait_for_machine("vm-000", "running")
        assert slow.read() == [Changed(latest)]


def test_who_misses_very_much_is_told_everything_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mc.hosts.watch._LOOK", 3600.0)
    with closing(House(tmp_path, 150, followed=True)) as house, reader(house.watch) as one:
        one.wait_for_everything()
        for number in range(100):
            house.watch.heard("metadata-change", f"vm-{number:03}")
        one.wait_for_machine("vm-099", "running")
        until(lambda: one.read() == [], PATIENCE, "end of the news")
        for number in range(101):
            house.cut(number)
        house.watch.heard("lifecycle", "vm-000")
        news = until(one.read, PATIENCE, "news")
        assert news == [Everything(house.machines.list_all())]


def test_what_a_subscriber_has_not_been_told_stays_short() -> None:
    mine = Subscription(lambda: None, everything=False)
    for number in range(100):
        mine.add([str(number)])
        mine.add([str(number)])
    assert (mine.everything, len(mine.uuids)) == (False, 100)
    mine.add(["x"])
    assert (mine.everything, len(mine.uuids)) == (True, 0)


def test_close_ends_whoever_waits(house: House) -> None:
    ended = threading.Event()

    def wait() -> None:
        with reader(house.watch) as one, pytest.raises(Stopping):
            while True:
                one.read(PATIENCE)
        ended.set()

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    house.close()
    for thread in waiting:
        thread.join(PATIENCE)
    assert ended.is_set()
    assert not any(thread.is_alive() for thread in waiting)
    with reader(house.watch) as late, pytest.raises(Stopping):
        late.read()


def test_subscribers_that_come_and_go_leave_nothing(
    house: House, readings: Callable[[], int]
) -> None:
    def come_and_go() -> None:
        for _ in range(20):
            with reader(house.watch) as one:
                one.wait_for_everything()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    a_while()
    before = readings()
    a_while()
    assert readings() == before


def test_thousand_machines(tmp_path: Path) -> None:
    with closing(House(tmp_path, 1000)) as house, reader(house.watch) as one:
        assert len(one.wait_for_everything()) == 1000
        house.cut(999)
        one.wait_for_machine("vm-999", "shut off")
        assert one.told == []


# On real machines, with the stream of events.


@contextmanager
def following(lab: Laboratory, binary: str = "virsh", seconds: float = PATIENCE) -> Iterator[Watch]:
    """A watch as the daemon has it; `binary` is that of the stream of events."""
    with ExitStack() as stack:
        virsh = stack.enter_context(closing(open_virsh(lab.uri, read=seconds)))
        watch = stack.enter_context(watching(Machines(virsh)))
        streams = stack.enter_context(closing(Streams()))
        streams.start()
        streams.domain_events(
            binary,
            lab.uri,
            on_event=watch.heard,
            on_connected=watch.stream_connected,
            on_end=lambda words: watch.stream_ended(),
        ).start()
        # Closed first, as the daemon does: a reading that waits for libvirt then ends.
        stack.callback(virsh.close)
        yield watch


@pytest.mark.parametrize("binary", ["virsh", "/nowhere/virsh"])
def test_what_virsh_does_elsewhere_is_told(fragile: Laboratory, binary: str) -> None:
    """Without a stream of events as well, by polling."""
    with following(fragile, binary) as watch, reader(watch) as one:
        one.wait_for_everything()
        machine = fragile.define("it's 'odd': y")
        uuid = machine.uuid
        assert one.wait_for_machine(machine.name, "shut off").uuid == uuid
        machine.boot()
        one.wait_for_machine(machine.name, "running")
        machine.virsh("suspend")
        one.wait_for_machine(machine.name, "paused")
        machine.virsh("destroy")
        one.wait_for_machine(machine.name, "shut off")
        machine.virsh("domrename", "renamed")
        assert one.wait_for_machine("renamed", "shut off").uuid == uuid
        fragile.virsh("undefine", "renamed")
        one.wait_for(lambda news: news == Gone(uuid), "machine that is gone")


def test_a_define_that_changes_no_entry_is_told(fragile: Laboratory) -> None:
    machine = fragile.define("defined")
    with following(fragile) as watch, reader(watch) as one:
        one.wait_for_everything()

        def told_after(*command: str) -> Callable[[], bool]:
            def told() -> bool:
                machine.virsh(*command)
                one.read()
                return "defined" in one.told_of()

            return told

        # Again and again, since the stream may not have connected yet.
        define = ("metadata", "--uri", "urn:x", "--key", "x", "--set", "<a/>", "--config")
        until(told_after(*define), PATIENCE, "machine whose metadata has changed")
        until(lambda: one.read() == [], PATIENCE, "end of the news")
        one.told.clear()
        file = fragile.file("again.xml", machine.virsh("dumpxml", "--inactive").encode())
        fragile.virsh("define", "--file", str(file))
        one.wait_for_machine("defined", "shut off")
    machine.virsh("undefine")


def test_libvirtd_that_is_killed_is_away_until_it_is_back(fragile: Laboratory) -> None:
    machine = fragile.define("survivor")
    machine.boot()
    with following(fragile) as watch, reader(watch) as one:
        before = one.wait_for_everything()
        for _ in range(2):
            fragile.libvirtd.kill()
            one.wait_for(lambda news: isinstance(news, Reach) and news.trouble, "trouble")
            with reader(watch) as late:
                late.wait_for(lambda news: isinstance(news, Reach), "news of libvirt")
                (trouble,) = late.told
                assert isinstance(trouble, Reach)
                assert trouble.trouble
            fragile.libvirtd.start()
            one.wait_for(lambda news: news == Reach(None), "end of the trouble")
            assert one.wait_for_everything() == before
            machine.virsh("suspend")
            one.wait_for_machine("survivor", "paused")
            machine.virsh("resume")
            one.wait_for_machine("survivor", "running")
    machine.destroy()
    machine.virsh("undefine")


def test_libvirtd_that_does_not_answer_is_told_in_words(fragile: Laboratory) -> None:
    def late(news: News) -> bool:
        return isinstance(news, Reach) and "did not answer" in (news.trouble or "")

    with following(fragile, seconds=1) as watch, reader(watch) as one:
        one.wait_for_everything()
        fragile.libvirtd.freeze()
        try:
            one.wait_for(late, "trouble")
        finally:
            fragile.libvirtd.thaw()
        one.wait_for(lambda news: news == Reach(None), "end of the trouble")
        one.wait_for_everything()


def test_a_host_that_stands_still_keeps_no_news_of_another(
    fragile: Laboratory, house: House
) -> None:
    with following(fragile) as stuck, Subscriber([stuck, house.watch]) as subscriber:
        told(subscriber, stuck, lambda news: isinstance(news, Everything))
        fragile.libvirtd.freeze()
        try:
            stuck.heard("lifecycle", "x")
            for number in range(3):
                house.cut(number)
                off = Machine(None, f"vm-{number:03}", uuid_of(number), "shut off")
                told(subscriber, house.watch, partial(eq, Changed(off)))
        finally:
            fragile.libvirtd.thaw()


def test_watch_closes_while_libvirtd_is_frozen(fragile: Laboratory) -> None:
    with following(fragile) as watch, reader(watch) as one:
        one.wait_for_everything()
        fragile.libvirtd.freeze()
        watch.heard("lifecycle", "x")
    fragile.libvirtd.thaw()
