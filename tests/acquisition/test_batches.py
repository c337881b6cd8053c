"""Batches by memory: measured on the first candidate, halved where it does not suffice."""

from itertools import chain

import pytest
import torch

from seedbed import BadInput
from seedbed.acquisition import Bansa
from seedbed.acquisition.base import rows_that_fit
from seedbed.acquisition.scoring import Batches, Memory, memory_of
from seedbed.selection.choosing import select
from tests.pipelines import CALLS, PROMPT

GIB = 2**30


class Device:
    """A device with `total` bytes, of which a forward takes `each` for every row."""

    def __init__(self, total, each, taken=0):
        self.total, self.each, self.taken, self.most = total, each, taken, taken
        self.batches = []

    def memory(self):
        def begin():
            self.most = self.taken
            return self.taken

        return Memory(begin, lambda: self.most, lambda: self.total - self.taken)

    def forward(self, batch):
        need = self.taken + self.each * len(batch)
        if need > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.most = max(self.most, need)
        self.batches.append(list(batch))


def ran(device, candidates=10, batch_size="auto", **options):
    most = 10 if batch_size == "auto" else batch_size
    batches = Batches(batch_size, most, device.memory(), **options)
    batches.run(range(candidates), device.forward)
    assert [*chain(*device.batches)] == list(range(candidates))
    return [len(batch) for batch in device.batches]


def test_the_first_candidate_says_how_many_fit():
    assert ran(Device(80 * GIB, GIB // 2)) == [1, 3, 3, 3]  # 2 GiB
    assert ran(Device(80 * GIB, GIB // 100)) == [1, 9]
    assert ran(Device(80 * GIB, 5 * GIB)) == [1] * 10
    assert ran(Device(4 * GIB, GIB // 2, taken=3 * GIB)) == [1] * 10
    assert ran(Device(80 * GIB, GIB // 100), shares=False) == [1] * 10


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_run_twice():
    device = Device(80 * GIB, GIB // 10)
    plain = device.forward

    def forward(batch):
        # Other sizes take other kernels, and more than was foreseen.
        device.each = GIB // 10 if len(batch) < 5 else 20 * GIB
        plain(batch)

    batches = Batches("auto", 10, device.memory())
    batches.run(range(10), forward)
    assert [len(batch) for batch in device.batches] == [1, 3, 3, 3]


def test_what_does_not_fit_alone_or_was_asked_for_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        ran(Device(GIB, 2 * GIB))
    with pytest.raises(torch.OutOfMemoryError):
        ran(Device(3 * GIB, GIB), batch_size=4)
    assert ran(Device(4 * GIB, GIB), batch_size=4) == [3, 3, 4]


def test_without_a_counter_latent_values_decide():
    assert memory_of(torch.device("cpu")) is None
    assert rows_that_fit("auto", torch.empty(1, 13, 16, 60, 90)) == 2  # CogVideoX at full size
    assert rows_that_fit("auto", torch.empty(1, 16, 21, 90, 160)) == 1
    assert rows_that_fit(7, torch.empty(1, 13, 16, 60, 90)) == 7
    assert rows_that_fit("auto", torch.empty(1, 4, 8, 8)) == 9765
    assert (Batches("auto", 3).most, Batches("auto", 0).most, Batches(3, 3, shares=False).most) == (3, 1, 1)


@pytest.mark.parametrize(
    ("candidates", "most", "sizes"), [(10, 3, [2, 2, 3, 3]), (3, 1, [1, 1, 1]), (4, 3, [2, 2])]
)
def test_batches_are_even_and_bounded(candidates, most, sizes):
    batches = []
    Batches("auto", most).run(range(candidates), batches.append)
    assert [len(batch) for batch in batches] == sizes
    assert [index for batch in batches for index in batch] == list(range(candidates))


@pytest.mark.parametrize("value", [0, -1, True, 2.0, None, "all"])
def test_other_sizes_are_refused(pipe_of, value):
    with pytest.raises(BadInput, match="batch_size must be a whole number of at least 1"):
        select(
            pipe_of("cogvideox"), PROMPT, candidates=2, batch_size=value, progress=False, **CALLS["cogvideox"]
        )


def test_a_pool_on_a_measured_device_chooses_the_same(pipe_of, monkeypatch):
    device = Device(80 * GIB, GIB)
    options = {
        "candidates": 5,
        "acquisition": Bansa(depth=None, race=((1, 3),)),
        "progress": False,
        **CALLS["cogvideox"],
    }
    expected = select(pipe_of("cogvideox"), PROMPT, **options)
    monkeypatch.setattr("seedbed.acquisition.scoring.memory_of", lambda _: device.memory())
    measured = select(pipe_of("cogvideox"), PROMPT, **options)
    assert measured.order == expected.order
    torch.testing.assert_close(measured.scores, expected.scores, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.gpu
def test_a_cuda_device_is_measured(pipe_of):
    from tests.pipelines import cogvideox

    device = torch.device("cuda")
    pipe = cogvideox().to(device)
    memory = memory_of(device)
    before = memory.begin()
    held = torch.zeros(2**20, device=device)
    assert memory.peak() - before >= held.nbytes and memory.free() > 0
    options = {"candidates": 6, "acquisition": "bansa", "progress": False, **CALLS["cogvideox"]}
    assert select(pipe, PROMPT, **options).order == select(pipe, PROMPT, batch_size=1, **options).order
