"""Data parallel training on two processes: as with torch's layer under the same wrapper."""

import copy
import gc
import os

import pytest
import torch
import torch.distributed as dist

import helpers
from helpers import random
from models import replace_batch_norm

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                                reason="needs torch.distributed with gloo")
PROCESSES = 2
STEPS = 3


def make_models(dtype=torch.float64):
    """A net on the operator and the same one of torch's layers. In float64, so that three steps
    carry no visible rounding from one layer to the next."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                 torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4)).to(dtype)
    ours = copy.deepcopy(theirs)
    replace_batch_norm(ours)
    return ours, theirs


def train(model, rank):
    """Each process has its own batches; the outputs of all steps and of an evaluation."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dtype = next(model.parameters()).dtype
    outputs = []
    for step in range(STEPS):
        optimizer.zero_grad()
        outputs.append(model(random((4, 3, 8, 8), dtype, mean=rank, seed=10 * rank + step)))
        outputs[-1].sin().mean().backward()
        optimizer.step()
    outputs.append(model.eval()(random((4, 3, 8, 8), dtype, seed=99)))
    return outputs


def data_parallel(rank):
    results = []
    for model in make_models():
        wrapped = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=True)
        results.append((train(wrapped, rank), model.state_dict()))
        # Each process has seen other batches, and the first one's statistics have gone to all.
        for buffer in model.buffers():
            first = buffer.clone()
            dist.broadcast(first, 0)
            assert torch.equal(buffer, first)
    torch.testing.assert_close(*results)
    assert model[1].num_batches_tracked == STEPS


def fully_sharded(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))

    def train_sharded(model, **options):
        for layer in (model[1], model[4], model):
            fully_shard(layer, mesh=mesh, **options)
        outputs = train(model, rank)
        model.reshard()  # the outermost parameters stay whole after a forward pass
        return outputs, [p.full_tensor() for p in model.parameters()], list(model.buffers())

    ours, theirs = make_models()
    torch.testing.assert_close(train_sharded(ours), train_sharded(theirs))

    # Parameters in bfloat16 beside float32 statistics, which torch's layer does not take.
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mixed, single = (make_models(torch.float32)[0] for _ in range(2))
    torch.testing.assert_close(train_sharded(mixed, mp_policy=half), train_sharded(single),
                               rtol=5e-2, atol=5e-2, check_dtype=False)


def run(rank, wrapper, address):
    helpers.load_library()
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=PROCESSES)
    try:
        wrapper(rank)
        # Wrappers are cycles. One that kept the group until the process ends would abort it then, with
        # gloo's threads still running.
        gc.collect()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("wrapper", [
    pytest.param(data_parallel, id="DistributedDataParallel",
                 marks=pytest.mark.works_with("torch.nn.parallel.DistributedDataParallel")),
    pytest.param(fully_sharded, id="fully_shard",
                 marks=pytest.mark.works_with("torch.distributed.fsdp.fully_shard")),
])
def test_two_processes_train_as_with_torchs_layer(wrapper, tmp_path):
    torch.multiprocessing.spawn(run, (wrapper, f"file://{tmp_path}/rendezvous"), nprocs=PROCESSES)
