"""Jobs and their worker without a page: what is kept, what goes on, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from seedbed.errors import BadInput
from seedbed.noise import NoiseRecipe
from seedbed.pipelines.loading import load
from seedbed.pipelines.session import Session
from seedbed.refinement.variation import variations
from seedbed.report.video import read_record
from seedbed.selection.pools import draw_pool
from seedbed.ui.jobs import DONE, Jobs, Request, ending
from seedbed.ui.worker import Maker, Worker
from tests.pipelines import CALLS, PROMPT

ASKED = Request(prompt="a koala", model="tiny", candidates=3)


class Writer:
    """Writes each task's file, with what was done before it; stops where a test says so."""

    def __init__(self, before=lambda job, what, candidate: None):
        self.before, self.done = before, []

    def make(self, job, what, candidate, show):
        show(what, 0, 1)
        self.before(job, what, candidate)
        show(what, 1, 1)
        self.done.append((what, candidate))
        job.file(candidate, ending(what)).write_text('{"totals": [0.5]}')


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "folder")


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def work(jobs, maker):
    """Do what is left, and end."""
    worker = Worker(jobs, maker).start()
    until(lambda: worker.broken or (jobs.next() is None and worker.now is None))
    worker.stop()
    assert not worker.broken
    return maker


def test_a_job_is_read_as_it_was_written(jobs):
    job = jobs.add(Request(prompt="ein „Koala“", model="m", steps=4, guidance=2.5, seed=7, prior="mixed:1"))
    assert jobs.get(job.name) == job and jobs.all() == [job]
    assert [*job.left()] == [("preview", number) for number in range(6)]


def test_clicks_come_before_previews_and_older_jobs_before_younger_ones(jobs):
    first, second = jobs.add(ASKED), jobs.add(ASKED)
    assert first.name < second.name
    second.file(2, DONE["preview"]).write_text("{}")
    jobs.finish(second.name, 2)
    assert jobs.next()[1:] == ("finish", 2)
    maker = work(jobs, Writer())
    previews = [("preview", number) for number in range(3)]
    assert maker.done == [("finish", 2), *previews, ("preview", 0), ("preview", 1)]
    assert jobs.get(first.name).score(1) == 0.5


def test_a_dropped_candidate_stops_while_it_runs_and_comes_back(jobs):
    job = jobs.add(ASKED)

    def drop(running, what, candidate):
        if candidate == 1 and not jobs.get(job.name).drop:
            jobs.drop(job.name, 1)

    maker = work(jobs, Writer(drop))
    assert maker.done == [("preview", 0), ("preview", 2)]
    jobs.resume(job.name)
    assert work(jobs, Writer()).done == [("preview", 1)]
    with pytest.raises(BadInput, match="finish it first"):
        jobs.replay(job.name, 1)
    jobs.finish(job.name, 1)
    work(jobs, Writer())
    with pytest.raises(BadInput, match="stays"):
        jobs.drop(job.name, 1)
    jobs.replay(job.name, 1)
    assert work(jobs, Writer()).done == [("replay", 1)]


def test_cancelling_keeps_what_is_done(jobs):
    job = jobs.add(ASKED)
    work(jobs, Writer(lambda running, what, candidate: candidate == 1 and jobs.cancel(job.name)))
    job = jobs.get(job.name)
    assert job.has("preview", 0) and not job.has("preview", 1) and job.drop == (1, 2)
    jobs.finish(job.name, 0)
    assert work(jobs, Writer()).done == [("finish", 0)]


def test_maps_and_edits_are_made_once_and_their_errors_stop_nothing_else(jobs):
    job = jobs.add(ASKED)
    with pytest.raises(BadInput, match="click on a candidate"):
        jobs.derive(job.name, -1, "map", "koala")
    with pytest.raises(BadInput, match="not finished yet"):
        jobs.vary(job.name, 0, 0.3, 2)
    for number in (0, 1):
        job.file(number, DONE["finish"]).write_text('{"recipes": [{"seed": 0, "candidate": 1}]}')
    with pytest.raises(BadInput, match="say which word"):
        jobs.derive(job.name, 1, "map", " ")
    for strength, count in ((2, 1), (0.3, 0), (0.3, 101)):
        with pytest.raises(BadInput, match=r"(strength|candidates) must be"):
            jobs.vary(job.name, 1, strength, count)
    jobs.derive(job.name, 1, "map", " koala ")
    jobs.derive(job.name, 0, "edit", "a: b")

    def fail(job, what, candidate):
        if what.startswith("map"):
            raise BadInput("no such word")

    maker = work(jobs, Writer(fail))
    assert maker.done[0] == ("edit:a: b", 0) and len(maker.done) == 4
    job = jobs.get(job.name)
    assert job.error == "" and job.read("map:koala", 1)["error"] == "no such word"
    jobs.derive(job.name, 0, "edit", "a: b")  # there already
    jobs.derive(job.name, 1, "map", "koala")  # once more
    assert [*jobs.get(job.name).left()] == [("map:koala", 1)]
    assert [*jobs.cancel(job.name).left()] == []
    assert [*jobs.resume(job.name).left()] == [("map:koala", 1)]


def test_a_variation_is_called_by_its_strength_and_its_start(jobs):
    job = jobs.add(ASKED)
    job.file(1, DONE["finish"]).write_text('{"recipes": [{"seed": 0, "candidate": 1}]}')
    near, far = (jobs.vary(job.name, 1, strength, 2) for strength in (0.2, 0.5))
    assert near.called(0) == "variation 0 of strength 0.2 of seed 0, 1"
    assert far.called(0) == "variation 0 of strength 0.5 of seed 0, 1"
    made = {"seed": 0, "candidate": 1, "refinements": [{"refiner": "variation:strength=0.2,index=1"}]}
    near.file(0, DONE["finish"]).write_text(json.dumps({"recipes": [made]}))
    again = jobs.vary(near.name, 0, 0.2, 1)
    assert again.called(0) == "variation 0 of strength 0.2 of seed 0, 1 (variation:strength=0.2,index=1)"


def test_what_was_cancelled_or_failed_comes_back(jobs):
    job = jobs.add(ASKED)
    for number in range(3):
        job.file(number, DONE["preview"]).write_text("{}")
    job.file(0, DONE["finish"]).write_text("{}")
    assert jobs.get(job.name).watched == -1  # as nobody has asked for it
    for number in (0, 2):
        jobs.finish(job.name, number)
    jobs.replay(job.name, 0)
    jobs.derive(job.name, 0, "map", "koala")
    jobs.derive(job.name, 0, "edit", "a bear")
    wanted = [("finish", 2), ("replay", 0), ("map:koala", 0), ("edit:a bear", 0)]
    assert [*jobs.get(job.name).left()] == wanted and jobs.get(job.name).watched == 0
    jobs.cancel(job.name)
    assert [*jobs.get(job.name).left()] == []
    jobs.derive(job.name, 0, "edit", "a bear")  # asked for again before
    jobs.cancel(job.name)
    assert [*jobs.resume(job.name).left()] == wanted and jobs.get(job.name).cancelled == ()

    def fail(job, what, candidate):
        if what.startswith("map"):
            raise BadInput("no such word")

    work(jobs, Writer(fail))
    assert jobs.get(job.name).read("map:koala", 0)["error"] == "no such word"
    jobs.resume(job.name)
    assert work(jobs, Writer()).done == [("map:koala", 0)]


def test_finished_videos_of_a_job_with_an_error_are_mapped_and_edited(jobs):
    job = jobs.add(ASKED)
    job.file(0, DONE["finish"]).write_text("{}")
    (job.folder / "error.json").write_text('{"error": "out of memory"}')
    jobs.derive(job.name, 0, "map", "koala")
    assert work(jobs, Writer()).done == [("map:koala", 0)]
    assert jobs.get(job.name).error == "out of memory"


def test_an_error_is_one_line_and_the_queue_goes_on(jobs, capsys):
    first, second = jobs.add(ASKED), jobs.add(ASKED)

    def fail(job, what, candidate):
        if job.name == first.name and candidate == 1:
            raise BadInput("no such\nverifier")

    work(jobs, Writer(fail))
    assert jobs.get(first.name).error == "no such verifier" and not [*jobs.get(first.name).left()]
    assert all(jobs.get(second.name).has("preview", number) for number in range(3))
    jobs.resume(first.name)
    assert work(jobs, Writer()).done == [("preview", 1), ("preview", 2)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"candidates": 0}, "candidates must be a whole number from 1 to 100"),
        ({"steps": 0}, "steps must be"),
        ({"guidance": float("nan")}, "guidance must be"),
        ({"frames": 0}, "frames must be"),
        ({"width": 1.5}, "width must be"),
        ({"strength": -1}, "strength must be"),
    ],
)
def test_a_request_is_checked(changed, message):
    with pytest.raises(BadInput, match=message):
        Request(**{"prompt": "a koala", "model": "tiny", **changed})


def test_a_worker_that_is_stopped_between_two_tasks_ends(jobs):
    """Also where that comes just before it begins to wait for the next task."""
    worker = Worker(jobs, Writer())

    class Late(threading.Event):
        def clear(self):
            worker._stopping = True
            self.set()
            super().clear()

    jobs.changed = Late()
    worker.start()
    worker._thread.join(20)
    assert not worker._thread.is_alive()


def test_candidates_that_are_not_there(jobs):
    job = jobs.add(ASKED)
    with pytest.raises(BadInput, match="no candidate 3"):
        jobs.finish(job.name, 3)
    with pytest.raises(BadInput, match="not shown yet"):
        jobs.finish(job.name, 2)


def test_a_damaged_job_is_left_out(jobs):
    good, bad = jobs.add(ASKED), jobs.add(ASKED)
    (bad.folder / "job.json").write_text('{"request": {"prompt": "x"}}')
    assert jobs.all() == [good]
    with pytest.raises(BadInput, match="not the file of a job"):
        jobs.get(bad.name)


def test_a_folder_has_one_process(jobs):
    code = "import sys\nfrom pathlib import Path\nfrom seedbed.ui.jobs import Jobs\nJobs(Path(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", code, jobs.folder], capture_output=True, text=True)
    assert "is in use by another seedbed ui" in run.stderr


KILLED = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from seedbed.files import written_whole
    from seedbed.ui.jobs import DONE, Jobs, Request, ending
    from seedbed.ui.worker import Worker

    class Slow:
        def make(self, job, what, candidate, show):
            show(what, 0, 1)
            with written_whole(job.file(candidate, DONE[what])) as half:
                half.write_text("{}")
                if candidate == 2:
                    job.file(candidate, ".gif").write_text("half way")
                    time.sleep(60)

    jobs = Jobs(Path(sys.argv[1]))
    jobs.add(Request(prompt="a koala", model="tiny", candidates=4))
    Worker(jobs, Slow()).start()
    time.sleep(60)
""")


def test_a_kill_half_way_loses_nothing_that_is_finished(tmp_path):
    folder = tmp_path / "folder"
    process = subprocess.Popen([sys.executable, "-c", KILLED, folder])
    try:
        until(lambda: [*folder.glob("jobs/*/2.gif")])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (half,) = folder.glob("jobs/*/.*.tmp")
    jobs = Jobs(folder)  # the lock of a killed process is free
    assert not half.exists()
    (job,) = jobs.all()
    assert [*job.left()] == [("preview", 2), ("preview", 3)]
    assert work(jobs, Writer()).done == [("preview", 2), ("preview", 3)]


def test_a_tiny_model_from_the_prompt_to_the_replay(jobs, pipe_of, tmp_path):
    pipe_of("cogvideox").save_pretrained(tmp_path / "tiny")
    content = {"schema": "seedbed.model/1", "call": CALLS["cogvideox"]}
    (tmp_path / "tiny/seedbed.json").write_text(json.dumps(content))
    pipe = load(tmp_path / "tiny", device="cpu")
    takes = Maker(lambda model: pipe)
    asked = Request(prompt=PROMPT, model="tiny", steps=3, candidates=2, seed=4, verifier="artifacts")
    job = jobs.add(asked)
    work(jobs, takes)
    assert jobs.get(job.name).error == ""
    assert all(job.file(number, ".gif").is_file() and job.score(number) is not None for number in (0, 1))
    seen = job.file(1, ".gif").read_bytes()
    jobs.finish(job.name, 1)
    work(jobs, takes)
    assert job.file(1, ".gif").read_bytes() != seen and not job.has("finish", 0)
    jobs.replay(job.name, 1)
    work(jobs, takes)
    assert json.loads(job.file(1, DONE["replay"]).read_text())["identical"] is True
    (chosen,) = read_record(job.file(1, ".mp4"))["recipes"]
    expected = draw_pool(Session(pipe, PROMPT, num_inference_steps=3), 2, 4).recipes[1]
    assert chosen["sha256"] == expected.sha256

    word, other = PROMPT.split()[1], f"{PROMPT} slowly"
    jobs.derive(job.name, 1, "edit", other)
    for each in ("elsewhere", word):
        jobs.derive(job.name, 1, "map", each)
    near = jobs.vary(job.name, 1, 0.2, 1)
    jobs.finish(work(jobs, takes) and near.name, 0)
    work(jobs, takes)
    job = jobs.get(job.name)
    assert job.error == jobs.get(near.name).error == "" and job.latest("map", 1) == f"map:{word}"
    assert "has no word 'elsewhere'" in job.read("map:elsewhere", 1)["error"]
    assert job.file(1, ending(f"map:{word}")).with_suffix(".png").is_file()
    edited = read_record(job.file(1, ending(f"edit:{other}")).with_suffix(".mp4"))
    assert edited["target"] == other and edited["origin"]["recipe"]["sha256"] == chosen["sha256"]
    assert edited["original_sha256"] == job.read("finish", 1)["frames_sha256"]
    (varied,) = near.read("finish", 0)["recipes"]
    (expected,) = variations(NoiseRecipe.from_dict(chosen), 0.2, 1)
    assert varied["refinements"] == list(expected.refinements) and varied["sha256"] != chosen["sha256"]
