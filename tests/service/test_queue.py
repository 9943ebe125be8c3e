import itertools
import random
import threading
import time
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import pytest

from latent_ae.service.errors import BadRequest, DeadlineExceeded, ShuttingDown
from latent_ae.service.queue import Job, ModelQueue, Tick

from .conftest import in_threads, started, until


class Machine:
    """Doubles numbers, writes down its batches, and waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.ticks: list[float] = []

    def job(self, payload: Any, key: Hashable = "double", pixels: int = 1) -> Job:
        return Job(key, self.run, payload, pixels)

    def run(self, payloads: Sequence[Any], tick: Tick) -> list[Any]:
        self.batches.append(list(payloads))
        self.entered.set()
        while not self.go_on.wait(0.002):
            tick(0.5)
        if any(payload is None for payload in payloads):
            raise BadRequest(f"nothing to double among {len(payloads)}")
        return [2 * payload for payload in payloads]


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def queue(machine: Machine) -> Iterator[ModelQueue]:
    queue = ModelQueue(batch_pixels=4)
    yield queue
    machine.go_on.set()
    queue.close()


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def hold(queue: ModelQueue, machine: Machine) -> tuple[threading.Thread, list[Any]]:
    """Make the model wait within a first work."""
    machine.go_on.clear()
    holder = started(lambda: queue.run([machine.job(0, key="holder")], deadline=soon()))
    assert machine.entered.wait(60)
    return holder


def test_results_come_in_the_order_of_their_works(queue: ModelQueue, machine: Machine) -> None:
    assert queue.run([machine.job(i) for i in range(11)], deadline=soon()) == [2 * i for i in range(11)]
    assert [len(batch) for batch in machine.batches] == [4, 4, 3]
    assert (queue.batches, queue.batched, queue.load()) == (3, 11, (0, 0))


def test_works_of_different_callers_go_together_where_their_key_is_the_same(
    queue: ModelQueue, machine: Machine
) -> None:
    hold(queue, machine)
    others = [
        started(lambda i=i: queue.run([machine.job(i, key="even" if i % 2 == 0 else "odd")], deadline=soon()))
        for i in range(1, 7)
    ]
    until(lambda: queue.load() == (6, 1))
    machine.go_on.set()
    for i, (thread, box) in enumerate(others, 1):
        thread.join(60)
        assert box == [[2 * i]]
    assert sorted(map(sorted, machine.batches)) == [[0], [1, 3, 5], [2, 4, 6]]


def test_a_batch_has_at_most_its_pixels_and_a_large_work_goes_alone(queue: ModelQueue, machine: Machine) -> None:
    jobs = [machine.job(i, pixels=size) for i, size in enumerate([9, 3, 2, 1])]
    assert queue.run(jobs, deadline=soon()) == [0, 2, 4, 6]
    assert machine.batches == [[0], [1, 3], [2]]


def test_one_that_fails_fails_alone(queue: ModelQueue, machine: Machine) -> None:
    hold(queue, machine)
    callers = [started(lambda p=p: queue.run([machine.job(p)], deadline=soon())) for p in (1, None, 3)]
    until(lambda: queue.load()[0] == 3)
    machine.go_on.set()
    for thread, _ in callers:
        thread.join(60)
    (one,), (bad,), (three,) = [box for _, box in callers]
    assert (one, three) == ([2], [6])
    assert isinstance(bad, BadRequest)
    assert "among 1" in str(bad)
    assert len(machine.batches[1]) == 3


def test_a_defect_reaches_its_caller_and_the_worker_goes_on(queue: ModelQueue, machine: Machine) -> None:
    def broken(payloads: Sequence[Any], tick: Tick) -> list[Any]:
        raise ZeroDivisionError

    def short(payloads: Sequence[Any], tick: Tick) -> list[Any]:
        return []

    for run, error in ((broken, ZeroDivisionError), (short, ValueError)):
        with pytest.raises(error):
            queue.run([Job("key", run, 1, 1)], deadline=soon())
    assert queue.run([machine.job(4)], deadline=soon()) == [8]


def test_who_waits_beyond_its_deadline_is_told_and_its_work_is_never_done(queue: ModelQueue, machine: Machine) -> None:
    hold(queue, machine)
    with pytest.raises(DeadlineExceeded, match="time"):
        queue.run([machine.job(7)], deadline=soon(0.05))
    assert queue.load() == (0, 1)
    machine.go_on.set()
    assert queue.run([machine.job(1)], deadline=soon()) == [2]
    assert [7] not in machine.batches


def test_what_runs_beyond_its_deadline_is_ended_between_two_tiles(queue: ModelQueue, machine: Machine) -> None:
    machine.go_on.clear()
    with pytest.raises(DeadlineExceeded):
        queue.run([machine.job(7)], deadline=soon(1.0))  # time to begin, on a busy machine too
    until(lambda: queue.load() == (0, 0))  # although the machine was never let go
    assert machine.batches == [[7]]


def test_a_batch_goes_on_for_those_who_have_time(queue: ModelQueue, machine: Machine) -> None:
    other = Machine()
    hold(queue, other)
    machine.go_on.clear()
    patient = started(lambda: queue.run([machine.job(1)], deadline=soon()))
    hasty = started(lambda: queue.run([machine.job(2)], deadline=soon(2.0)))
    until(lambda: queue.load()[0] == 2)
    other.go_on.set()
    hasty[0].join(60)  # the machine is still held
    assert isinstance(hasty[1][0], DeadlineExceeded)
    machine.go_on.set()
    patient[0].join(60)
    assert patient[1] == [[2]]


def test_a_waiting_caller_knows_how_many_are_served_before(queue: ModelQueue, machine: Machine) -> None:
    heard: dict[str, list[int]] = {"second": [], "third": []}
    holder, _ = hold(queue, machine)

    def wait_as(name: str) -> threading.Thread:
        def tick(_share: float) -> None:
            heard[name].append(queue.others_ahead())

        before = queue.load()[0]
        thread, _ = started(lambda: queue.run([machine.job(1, key=name)], deadline=soon(), tick=tick))
        until(lambda: queue.load()[0] > before and heard[name])
        return thread

    waiting = [wait_as(name) for name in heard]
    until(lambda: heard["second"][-1] == 1 and heard["third"][-1] == 2)
    machine.go_on.set()
    for thread in (holder, *waiting):
        thread.join(60)
    assert queue.others_ahead() == 0
    assert all(a >= b for told in heard.values() for a, b in itertools.pairwise(told[1:]))


def test_the_models_time_leaves_out_the_wait(queue: ModelQueue, machine: Machine) -> None:
    other, took = Machine(), []
    hold(queue, machine)
    waited = started(lambda: queue.run([other.job(1, key="other")], deadline=soon(), took=took.append))[0]
    until(lambda: queue.load()[0] == 1)
    begun = time.perf_counter()
    until(lambda: time.perf_counter() - begun > 0.2)
    start = time.perf_counter()
    machine.go_on.set()
    waited.join(60)
    assert 0 < took[0] <= time.perf_counter() - start


def test_the_callers_tick_hears_of_progress_and_ends_the_work(queue: ModelQueue, machine: Machine) -> None:
    machine.go_on.clear()
    heard: list[float] = []

    def tick(share: float) -> None:
        heard.append(share)
        if share:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        queue.run([machine.job(1), machine.job(2)], deadline=soon(), tick=tick)
    assert heard[-1] == 0.5
    until(lambda: queue.load() == (0, 0))


def test_a_caller_that_waits_in_the_queue_can_end_its_request(queue: ModelQueue, machine: Machine) -> None:
    hold(queue, machine)
    leave = threading.Event()

    def tick(share: float) -> None:
        assert share == 0
        if leave.is_set():
            raise InterruptedError

    thread, box = started(lambda: queue.run([machine.job(1)], deadline=soon(), tick=tick))
    until(lambda: queue.load() == (1, 1))
    leave.set()
    thread.join(60)
    assert isinstance(box[0], InterruptedError)
    assert queue.load() == (0, 1)


def test_closing_ends_what_waits_and_what_runs(machine: Machine) -> None:
    queue = ModelQueue(batch_pixels=1)
    running = hold(queue, machine)
    waiting = started(lambda: queue.run([machine.job(1)], deadline=soon()))
    until(lambda: queue.load() == (1, 1))
    queue.close()  # the machine is never let go
    for thread, box in (running, waiting):
        thread.join(60)
        assert isinstance(box[0], ShuttingDown)
    with pytest.raises(ShuttingDown):
        queue.run([machine.job(1)], deadline=soon())
    queue.close()


def test_closing_tells_callers_before_the_model_comes_to_a_tick() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def without_ticks(payloads: Sequence[Any], tick: Tick) -> list[Any]:
        entered.set()
        assert go_on.wait(60)
        return list(payloads)

    queue = ModelQueue(batch_pixels=1)
    jobs = [Job("slow", without_ticks, 0, 1)]
    running = started(lambda: queue.run(jobs, deadline=soon()))
    assert entered.wait(60)
    waiting = started(lambda: queue.run(jobs, deadline=soon()))
    until(lambda: queue.load() == (1, 1))
    closing, _ = started(queue.close)
    for thread, box in (running, waiting):
        thread.join(60)
        assert isinstance(box[0], ShuttingDown)
    assert closing.is_alive()
    go_on.set()
    closing.join(60)
    assert not closing.is_alive()


def test_callers_take_turns(queue: ModelQueue, machine: Machine) -> None:
    hold(queue, machine)
    many = started(lambda: queue.run([machine.job(i, pixels=4) for i in range(10, 20)], deadline=soon()))
    until(lambda: queue.load()[0] == 10)
    one = started(lambda: queue.run([machine.job(1, pixels=4)], deadline=soon()))
    until(lambda: queue.load()[0] == 11)
    machine.go_on.set()
    many[0].join(60)
    one[0].join(60)
    assert machine.batches[:4] == [[0], [10], [1], [11]]


def test_what_is_done_is_not_kept(queue: ModelQueue) -> None:
    class Image:
        pass

    image = Image()
    kept = weakref.ref(image)
    queue.run([Job("key", lambda payloads, tick: [None] * len(payloads), image, 1)], deadline=soon())
    del image
    until(lambda: kept() is None)


def test_under_stress_every_caller_gets_its_own_answer(queue: ModelQueue, machine: Machine) -> None:
    """Keys, sizes, failures, deadlines and callers that leave, all at once."""

    def caller(seed: int) -> int:
        draw = random.Random(seed)
        right = 0
        for _ in range(40):
            payloads = [draw.choice([draw.randrange(10**9)] * 9 + [None]) for _ in range(draw.randint(1, 5))]
            jobs = [machine.job(p, key=draw.choice("abc"), pixels=draw.randint(1, 4)) for p in payloads]
            tick = None
            if draw.random() < 0.1:

                def tick(share: float) -> None:
                    raise InterruptedError

            deadline = soon(0.0 if draw.random() < 0.1 else 60.0)
            try:
                results = queue.run(jobs, deadline=deadline, tick=tick)
            except BadRequest:
                right += None in payloads
            except DeadlineExceeded:
                right += deadline < time.monotonic()
            except InterruptedError:
                right += tick is not None
            else:
                right += results == [2 * payload for payload in payloads]
        return right

    assert in_threads([lambda seed=seed: caller(seed) for seed in range(16)]) == [40] * 16
    until(lambda: queue.load() == (0, 0))


def test_visitors_take_turns_however_many_requests_one_has(machine: Machine, queue: ModelQueue) -> None:
    machine.go_on.clear()
    first = started(lambda: queue.run([machine.job(0, key="first")], deadline=soon(), visitor="greedy"))
    assert machine.entered.wait(60)
    greedy = [
        started(lambda number=number: queue.run([machine.job(number, key=number)], deadline=soon(), visitor="greedy"))
        for number in range(1, 6)
    ]
    until(lambda: queue.load()[0] == 5)
    other = started(lambda: queue.run([machine.job(9, key="other")], deadline=soon(), visitor="other"))
    until(lambda: queue.load()[0] == 6)
    machine.go_on.set()
    for thread, box in (first, *greedy, other):
        thread.join(60)
        assert len(box) == 1
    assert [9] in machine.batches[:3]  # behind the one that ran and one that came before
