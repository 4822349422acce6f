"""Folding while other threads fold and run models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fold_nets import Net, randomise
from torch import nn

from deployfold.folding import FoldResult, fold
from deployfold.util.seeded import Seeded


def network() -> nn.Module:
    def forward(self, x):
        y = self.stem(x)
        for block in self.blocks:
            y = (block(y) + y).relu()
        return self.head(y.mean((2, 3)))

    def block() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4),
        )  # fmt: skip

    return randomise(
        Net(
            forward,
            stem=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            blocks=nn.ModuleList(block() for _ in range(2)),
            head=nn.Linear(4, 3),
        )
    )


def outcome(result: FoldResult) -> object:
    return (
        [(item.name, item.rule, item.into) for item in result.folded],
        [(item.name, item.reason) for item in result.left],
        result.notes,
        [parameter.double().sum().item() for parameter in result.model.parameters()],
    )


def fold_beside_inference(folds: int) -> None:
    net, other, x = network(), network(), (torch.randn(1, 3, 8, 8),)
    expected = outcome(fold(net, x))
    stop, failures, runs = threading.Event(), [], [0]

    def serve() -> None:
        with torch.no_grad():
            want = other(*x)
            while not stop.is_set():
                runs[0] += 1
                if not torch.equal(other(*x), want):
                    failures.append("another output")

    def random_state() -> None:
        torch.manual_seed(3)
        want = torch.get_rng_state()
        while not stop.is_set():
            if not torch.equal(torch.get_rng_state(), want):
                failures.append("another random state")
                return

    threads = [threading.Thread(target=serve), threading.Thread(target=random_state)]
    for thread in threads:
        thread.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: outcome(fold(net, x)), range(folds)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert runs[0] > 0
    assert all(result == expected for result in results)


def test_folds_beside_inference_are_equal():
    fold_beside_inference(16)


@pytest.mark.slow
def test_many_folds_beside_inference_are_equal():
    fold_beside_inference(200)


def test_folding_leaves_the_process_as_it_was():
    """Global hooks, the random state and the default dtype stay the same, for eager and
    TorchScript.
    """
    from torch.nn.modules import module

    def state() -> object:
        hooks = (module._global_forward_hooks, module._global_forward_pre_hooks)
        return torch.get_rng_state().tolist(), torch.get_default_dtype(), [len(x) for x in hooks]

    seen = []

    def forward(self, x):
        seen.append(state())
        return self.net(x)

    net = randomise(Net(forward, net=network()))
    before = state()
    fold(net, (torch.randn(1, 3, 8, 8),))
    assert seen
    assert all(item[1:] == before[1:] for item in seen)
    x = torch.randn(1, 3, 8, 8)
    eager, script = network(), torch.jit.trace(network(), x)
    before = state()
    fold(eager, (x,))
    fold(script, (x,))
    assert state() == before


class Noisy(nn.Module):
    """A forward that draws in each of the ways in which torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(6, 6, num_layers=2, dropout=0.5).train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        x = x + torch.randn(4, 1, 1) + torch.rand_like(x) + torch.randint(0, 9, (4, 1, 1))
        x = nn.functional.dropout(x, 0.5, training=True)
        x = nn.functional.dropout2d(nn.functional.rrelu(x, training=True), 0.3, training=True)
        x = x + torch.empty_like(x).exponential_() + torch.bernoulli(x.sigmoid())
        x = x.flatten(2)[:, :, torch.randperm(36)][..., torch.multinomial(torch.ones(36), 6)]
        x = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
        return self.lstm(nn.functional.gumbel_softmax(x, dim=-1))[0]


def test_a_forward_that_draws_folds_beside_another_and_leaves_the_random_state():
    def fold_noisy(_: int) -> tuple[float, float]:
        result = fold(net, x)
        verification = result.verification
        assert result.batchnorms_after == 0
        return verification.float64_relative, verification.native_max_abs

    net, x = randomise(Noisy()), (torch.randn(2, 3, 8, 8),)
    net.lstm.train()
    expected = fold_noisy(0)
    assert expected[0] < 1e-13
    torch.manual_seed(5)
    before, stop, failures = torch.get_rng_state(), threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if not torch.equal(torch.get_rng_state(), before):
                failures.append("another random state")
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(fold_noisy, range(2)))
    finally:
        stop.set()
        watcher.join()
    assert not failures
    assert results == [expected] * 2


def test_one_seed_gives_the_same_numbers_twice_and_another_seed_others():
    def draw(seed: int) -> list[torch.Tensor]:
        with torch.inference_mode(), Seeded(seed):
            return [net(x), net(x)]

    net, x = randomise(Noisy()), torch.randn(2, 3, 8, 8)
    first, again, other = draw(0), draw(0), draw(1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
