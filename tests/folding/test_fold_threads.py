"""Folding beside other threads, which fold and run models meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fold_nets import Net, randomise
from torch import nn

from deployfold.folding import FoldResult, fold


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
    """No hooks for all modules, no random state, no default dtype, of eager or TorchScript."""
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
