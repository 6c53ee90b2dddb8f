"""Training on several GPUs or machines: `torchrun ... -m pspnet train ...` starts one process per GPU.

Every function works in a plain run, too: it is process 0 of 1 there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pspnet.errors import PspnetError

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process; validation of the slowest share has to fit in."""

LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL")


def world() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_world() -> int:
    """Number of this run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def device() -> torch.device:
    """This process's GPU, or the CPU. More processes than GPUs share them."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0
    return torch.device("cuda", local % torch.cuda.device_count())


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that torchrun started; does nothing in a plain run.

    Only process 0 prints. An error of another process is raised with its number; where a process has ended, those that
    wait for it raise PspnetError, so that none waits for ever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    number = int(os.environ.get("RANK", "0"))
    # NCCL takes one process per GPU; gloo lets them share one, and serves CPUs.
    own_gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        dist.init_process_group("nccl" if own_gpu else "gloo", timeout=TIMEOUT)
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        with _quiet(number > 0):
            yield
        dist.barrier()
        dist.destroy_process_group()  # not after an error: it would wait for the others
    except (PspnetError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not (message := _peer_message(error, number)):
            raise
        raise PspnetError(message) from error


def _peer_message(error: Exception, number: int) -> str:
    if isinstance(error, PspnetError):
        return f"process {number}: {error}" if number else ""
    lost = any(text in str(error) for text in LOST_PEER)
    return f"process {number}: another process of this run has ended or hangs; its own line says why" if lost else ""


@contextlib.contextmanager
def _quiet(yes: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if yes:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over all processes; `values` itself is left as it is."""
    if world() == 1:
        return values
    total = values.detach().clone().to(device())
    dist.all_reduce(total)
    return total.to(values.device)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world() > 1:
        dist.barrier()


def share_of(count: int) -> range:
    """This process's part of `count` items: every item is in exactly one part, and no part is filled up."""
    return range(rank(), count, world())


def with_global_batch_norm(model: nn.Module) -> nn.Module:
    """The model with batch norm over the pictures of all processes (SyncBN), which needs CUDA.

    On CPUs every process normalises with its own pictures; process 0's running statistics are kept.
    """
    if world() == 1:
        return model
    if device().type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    print("batch norm uses the pictures of each process alone: SyncBN needs CUDA. --freeze-bn keeps it as it is")
    return model


def replicated(model: nn.Module) -> nn.Module:
    """The model with gradients averaged over all processes, and process 0's weights in each."""
    if world() == 1:
        return model
    gpu = device()
    return DistributedDataParallel(model, device_ids=[gpu.index] if gpu.type == "cuda" else None)


def share_buffers(model: nn.Module) -> None:
    """Give every process the running statistics of process 0, so that all validate the same network."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
