"""Kill a run anywhere, with all its processes or without, and go on: nothing lost, nothing done twice."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from seedbed.errors import BadInput
from seedbed.lab.experiment import Recipe
from seedbed.lab.work import Store, run
from tests.lab.conftest import start

UNITS, KILLS, WORKERS = 30, 8, 2


class Bench:
    """A recipe whose units wait at a gate, so that a run gets exactly as far as a test lets it."""

    def __init__(self, folder, write):
        self.out = folder / "out"
        self.gate, self.log, self.beat = (folder / name for name in ("gate", "log", "beat"))
        self.open(0)
        self.log.write_text("")
        self.beat.write_text("")
        options = {"gate": str(self.gate), "log": str(self.log), "beat": str(self.beat)}
        prompts = {"list": [str(number) for number in range(UNITS)]}
        self.recipe = write(prompts=prompts, options=options)
        self.processes = []

    def open(self, units):
        """Let the first `units` through; whole or not at all, for the workers read it all the time."""
        temporary = self.gate.with_suffix(".new")
        temporary.write_text(str(units))
        os.replace(temporary, self.gate)

    def start(self):
        self.process = start("lab", "run", self.recipe, "--out", self.out, "--workers", WORKERS)
        self.processes.append(self.process)

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def finish(self):
        out, self.err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.err
        return out

    def calls(self):
        return [int(line) for line in self.log.read_text().split()]

    def units_done(self):
        return {int(row["prompt"]) for row in Store(self.out).rows()}


def workers_of(process):
    """Process ids of the workers in a run's group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if b"spawn_main" in (path / "cmdline").read_bytes() and os.getpgid(int(path.name)) == process.pid:
                found.append(int(path.name))
    return found


@pytest.fixture
def bench(tmp_path, write):
    bench = Bench(tmp_path, write)
    yield bench
    for process in bench.processes:
        with contextlib.suppress(ProcessLookupError):  # all of the group have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_kills_change_nothing(bench, tmp_path):
    rng = random.Random(2505)
    limit, progress, unfinished = 0, [], 0
    for kill in range(KILLS):
        done, before = bench.units_done(), len(bench.calls())
        limit += rng.randint(1, 3)
        bench.open(limit)
        bench.start()
        moment = kill % 4
        if moment == 2:  # at any time, most often before there is a worker
            time.sleep(rng.uniform(0, 2))
        elif moment == 0:  # as soon as a unit is at work
            bench.wait_for(lambda before=before: len(bench.calls()) > before)
        else:  # all that may pass is on disk, and both workers wait in the middle of a unit
            bench.wait_for(
                lambda limit=limit: len(bench.units_done()) == limit and max(bench.calls()) >= limit
            )
        time.sleep(rng.uniform(0, 0.01))
        assert bench.process.poll() is None
        os.killpg(bench.process.pid, signal.SIGKILL)
        bench.process.communicate()

        called = bench.calls()[before:]
        assert not done & set(called), "a finished unit was done again"
        assert done <= bench.units_done(), "a finished unit was lost"
        progress.append(len(bench.units_done()))
        unfinished += bool(set(called) - bench.units_done())
    assert len(set(progress)) >= KILLS // 2 and progress[-1] < UNITS
    assert unfinished >= KILLS // 2  # those kills hit a unit in its middle

    done, before = bench.units_done(), len(bench.calls())
    bench.open(UNITS)
    bench.start()
    assert f"{3 * UNITS} rows" in bench.finish()
    assert sorted(bench.calls()[before:]) == sorted(set(range(UNITS)) - done)

    run(Recipe.load(bench.recipe), tmp_path / "undisturbed")
    killed, undisturbed = bench.out / "rows.jsonl", tmp_path / "undisturbed" / "rows.jsonl"
    assert killed.read_bytes() == undisturbed.read_bytes()
    assert len(Store(bench.out).rows()) == len(killed.read_bytes().splitlines()) == 3 * UNITS


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed_alone(bench):
    bench.open(3)
    bench.start()
    bench.wait_for(lambda: len(bench.calls()) == 3 + WORKERS)
    assert len(workers_of(bench.process)) == WORKERS
    os.kill(bench.process.pid, signal.SIGKILL)
    bench.process.wait()
    deadline = time.monotonic() + 10
    while workers_of(bench.process):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    bench.open(UNITS)
    bench.start()
    bench.finish()
    assert len(bench.units_done()) == UNITS


@pytest.mark.slow
def test_what_a_killed_worker_was_at_is_done_by_another(bench):
    bench.open(3)
    bench.start()
    bench.wait_for(lambda: len(bench.units_done()) == 3 and len(bench.calls()) == 3 + WORKERS)
    workers = workers_of(bench.process)
    assert len(workers) == WORKERS
    os.kill(workers[0], signal.SIGKILL)
    bench.wait_for(lambda: len(bench.calls()) == 4 + WORKERS)
    bench.open(UNITS)
    assert f"{3 * UNITS} rows" in bench.finish()
    assert bench.err == ""
    calls = bench.calls()
    assert set(calls) == set(range(UNITS)) and len(calls) == UNITS + 1


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_exits_130(bench):
    bench.open(5)
    bench.start()
    bench.wait_for(lambda: len(bench.units_done()) == 5 and len(bench.calls()) == 5 + WORKERS)
    os.killpg(bench.process.pid, signal.SIGINT)  # as a terminal does: to every process at once
    out, err = bench.process.communicate(timeout=60)
    assert (bench.process.returncode, out) == (130, "")
    assert err == f"interrupted: 15 of {3 * UNITS} rows are kept in {bench.out}; run again to go on\n"


@pytest.mark.slow
def test_two_runs_in_one_folder_are_one_too_many(bench):
    bench.open(2)
    bench.start()
    bench.wait_for(lambda: len(bench.units_done()) == 2)
    with pytest.raises(BadInput, match=f"another run is at work in {bench.out}: wait for it, or choose"):
        run(Recipe.load(bench.recipe), bench.out)
    bench.open(UNITS)
    bench.finish()
    assert len(bench.units_done()) == UNITS
