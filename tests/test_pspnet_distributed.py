"""Several processes against one with their batches together, and what happens when one of them fails."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from pspnet import distributed
from pspnet.checkpoint import read_checkpoint
from pspnet.recipe import TrainConfig
from tests.nets import CAMVID, ROOT
from tests.training_runs import recorded_run

SAME_SUMS = 1e-4  # float32 sums in another order, over a few steps
SAME_STATISTICS = 1e-3  # batch norm's sums on a GPU, too
PATIENCE_S = 120


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A module in two processes on this machine, as a user starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def two_processes(*arguments: str) -> list[tuple[int, str]]:
    """A module in two processes without torchrun, which takes seconds to start; exit code and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for number in ("0", "1"):
        environment = {**os.environ, **common, "RANK": number, "LOCAL_RANK": number, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *arguments]
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    return [(p.returncode, error) for p in running if (error := p.communicate(timeout=PATIENCE_S)[1]) is not None]


def compare(config: TrainConfig, folder: Path, tolerance: float) -> None:
    """Two processes with the batch and accumulation of `config` against one that takes all of it at once."""
    (folder / "two").mkdir()
    done = two_processes("tests.training_runs", str(folder / "two"), json.dumps(dataclasses.asdict(config)))
    assert [code for code, _ in done] == [0, 0], done
    whole = dataclasses.replace(config, batch=2 * config.batch * config.accumulate, accumulate=1)
    losses = recorded_run(whole, folder / "one")
    assert json.loads((folder / "two" / "losses.json").read_text()) == pytest.approx(losses, abs=tolerance)
    assert len(losses) == 4 and len(set(losses)) == 4
    one, two = (read_checkpoint(folder / name / "last.pt") for name in ("one", "two"))
    for name, value in one[1]["model"].items():
        torch.testing.assert_close(two[1]["model"][name], value, rtol=0, atol=tolerance)
    counted = [{n: row["pixels"] for n, row in spec.metrics["val"]["per_class"].items()} for spec, _ in (one, two)]
    assert counted[0] == counted[1] and sum(counted[0].values()) > 100_000  # no picture twice, none left out
    assert two[0].metrics["val"]["miou"] == pytest.approx(one[0].metrics["val"]["miou"], abs=0.1)


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=2, batch=1, accumulate=2, crop=64, lr=0.002, workers=0, seed=3, freeze_bn=True, class_weights="enet",
    )  # fmt: skip
    compare(config, tmp_path, SAME_SUMS)


@pytest.mark.gpu
def test_synchronised_batch_norm_equals_one_process_with_the_doubled_batch(tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch=2, crop=64, lr=0.002, workers=0, seed=3, amp="off", deterministic=True)
    compare(config, tmp_path, SAME_STATISTICS)


def test_a_failing_process_ends_all(tmp_path: Path) -> None:
    shutil.copytree(CAMVID, tmp_path / "data")
    broken = sorted((tmp_path / "data" / "train" / "labels").iterdir())[2]
    labels = cv2.imread(str(broken), cv2.IMREAD_UNCHANGED)
    labels[:] = 77
    cv2.imwrite(str(broken), labels)
    done = torchrun(
        "pspnet", "train", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "run"), "--weights", "none", "--bins",
        "1,2", "--output-stride", "32", "--size", "64x96", "--crop", "64", "--batch", "2", "--workers", "0",
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count(f"{broken.name} holds the value 77") == 1 and "pspnet: " in done.stderr
    assert "pspnet/cli.py" not in done.stderr  # torchrun itself ends with a traceback, we do not
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(("count", "world"), [(7, 3), (2, 4), (5, 1)])
def test_shares_hold_every_item_once(monkeypatch: pytest.MonkeyPatch, count: int, world: int) -> None:
    monkeypatch.setattr(distributed, "world", lambda: world)
    shares = []
    for number in range(world):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares += distributed.share_of(count)
    assert sorted(shares) == list(range(count))


def test_a_plain_run_is_process_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined():
        assert (distributed.rank(), distributed.world()) == (0, 1)
        values = torch.ones(2)
        assert distributed.summed(values) is values
        module = torch.nn.Linear(1, 1)
        assert distributed.replicated(module) is module


def test_lost_processes_are_one_line_and_own_bugs_are_not_hidden() -> None:
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4321")
    assert "process 1: another process of this run has ended" in distributed._peer_message(lost, 1)
    assert not distributed._peer_message(RuntimeError("shape mismatch"), 1)
