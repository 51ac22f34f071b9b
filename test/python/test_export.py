"""torch.export, ahead-of-time compilation and other exporters: what leaves Python is right as well."""

import copy
import importlib.util

import pytest
import torch
import torch._inductor.config

import torchbn
from helpers import (INDUCTOR, MODE, MOMENTUM, ROOT, check_library_is_missed, in_layout, parameters,
                     random, run_python, statistics)
from models import Net


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def operators_of(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


def trained_net():
    net = Net()
    net(random((4, 3, 6, 6), mean=1, std=2, seed=7))
    return net


@pytest.mark.works_with("torch.export")
@pytest.mark.parametrize("strict", [False, True], ids=["nonstrict", "strict"])
def test_export_in_evaluation_is_pure(strict):
    net = Net().eval()
    x = random((4, 3, 6, 6))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (x,), strict=strict, dynamic_shapes={"x": {0: batch}})
    program = program.run_decompositions()
    names = [str(node.target) for node in program.graph.nodes if "torchbn" in str(node.target)]
    assert names == ["torchbn.batch_norm_inference.default"]
    assert not program.graph_signature.buffers_to_mutate
    for size in (1, 4, 9):
        x = random((size, 3, 6, 6), seed=size)
        torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.works_with("torch.export")
@pytest.mark.parametrize("saved", [False, True], ids=["direct", "reloaded"])
def test_export_in_training_updates_the_buffers(tmp_path, saved):
    net = Net().train()
    batch = torch.export.Dim("batch", min=2, max=64)
    # The exported program shares its buffers with the module it was made from.
    program = torch.export.export(copy.deepcopy(net), (random((4, 3, 6, 6)),),
                                  dynamic_shapes={"x": {0: batch}})
    decomposed = program.run_decompositions()
    mutated = set(decomposed.graph_signature.buffers_to_mutate.values())
    assert mutated == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    if saved:
        torch.export.save(decomposed, tmp_path / "net.pt2")
        program = torch.export.load(tmp_path / "net.pt2")
    exported = program.module()
    for size in (4, 7, 2):
        x = random((size, 3, 6, 6), seed=size)
        torch.testing.assert_close(exported(x), net(x))
    torch.testing.assert_close(dict(exported.named_buffers()), dict(net.named_buffers()))
    assert exported.norm.num_batches_tracked == 3


@pytest.mark.works_with("torch.export")
def test_an_exported_evaluation_survives_saving(tmp_path):
    net = trained_net().eval()
    x = random((4, 3, 6, 6))
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))


@pytest.mark.works_with("torch.export")
def test_a_program_without_the_library_names_the_operator(tmp_path):
    path = str(tmp_path / "net.pt2")
    torch.export.save(torch.export.export(Net().eval(), (random((4, 3, 6, 6)),)), path)
    check_library_is_missed(f"torch.export.load({path!r})",
                            "We failed to resolve torch.ops.torchbn.batch_norm")


@pytest.mark.works_with("AOTInductor")
@INDUCTOR
def test_a_package_compiled_ahead_of_time(tmp_path, monkeypatch):
    """It runs here and in a process that has imported torchbn; in one that has not, it says which
    operator is missing."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    net = trained_net().eval()
    package = str(tmp_path / "net.pt2")
    # Precompiling torch's headers takes longer than compiling this net.
    with torch.no_grad(), torch._inductor.config.patch(cpp_cache_precompile_headers=False):
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(net, (random((4, 3, 6, 6)),), dynamic_shapes={"x": {0: batch}})
        torch._inductor.aoti_compile_and_package(program, package_path=package)
        compiled = torch._inductor.aoti_load_package(package)
        for size in (1, 4, 9):
            x = random((size, 3, 6, 6), seed=size)
            torch.testing.assert_close(compiled(x), net(x))
    load = f"torch._inductor.aoti_load_package({package!r})"
    check_library_is_missed(load, "Could not find schema for torchbn::batch_norm_inference")
    result = run_python(f"import torch, torchbn; print({load}(torch.ones(4, 3, 6, 6)).shape)")
    assert result.stdout == "torch.Size([4, 5])\n", result.stderr


@pytest.mark.works_with("decompositions to ATen's operators")
def test_an_evaluation_decomposes_to_core_operators():
    net = trained_net().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (random((4, 3, 6, 6)),), dynamic_shapes={"x": {0: batch}})
    program = program.run_decompositions(load_example("decompositions").decompositions())
    assert not any("torchbn" in name for name in operators_of(program))
    for size in (1, 5):
        x = random((size, 3, 6, 6), seed=size)
        torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.works_with("decompositions to ATen's operators")
def test_parameters_of_mixed_types_decompose():
    """Of which ATen's operator takes fewer."""
    net = torchbn.nn.BatchNorm2d(3).bfloat16().eval()
    net.running_mean, net.running_var = net.running_mean.float() + 1, net.running_var.float() * 2
    x = random((4, 3, 6, 6), torch.bfloat16)
    program = torch.export.export(net, (x,))
    program = program.run_decompositions(load_example("decompositions").decompositions())
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.works_with("decompositions to ATen's operators")
@MOMENTUM
def test_a_training_program_of_atens_operators(momentum):
    net = Net(momentum).train()
    with load_example("decompositions").AtenOperators():
        program = torch.export.export(copy.deepcopy(net), (random((4, 3, 6, 6)),))
    program = program.run_decompositions()
    assert not any("torchbn" in name or "auto_functionalized" in name
                   for name in operators_of(program))
    exported = program.module()
    for step in range(3):
        x = random((4, 3, 6, 6), mean=step, seed=step)
        torch.testing.assert_close(exported(x), net(x))
    torch.testing.assert_close(dict(exported.named_buffers()), dict(net.named_buffers()))


@pytest.mark.works_with("decompositions to ATen's operators")
@MODE
@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, False),
                                   (False, False, True)], ids=["all", "input", "weight", "bias"])
def test_the_decomposition_of_backward_equals_the_operator(training, needs):
    x = in_layout(random((4, 3, 5, 2), torch.bfloat16), "channels_last")
    dy = random(x.shape, torch.bfloat16, seed=1)
    weight, _ = parameters(3)
    mean, invstd = statistics(3, torch.float64)
    given = x if training or needs[1] else None
    arguments = (dy, given, weight, mean, invstd, training, *needs)
    table = load_example("decompositions").decompositions()
    expected = torch.ops.torchbn.batch_norm_backward(*arguments)
    found = table[torch.ops.torchbn.batch_norm_backward.default](*arguments)
    torch.testing.assert_close(found, expected)


@pytest.mark.works_with("ONNX")
def test_an_evaluation_exports_to_onnx(tmp_path):
    pytest.importorskip("onnxscript", reason="exporting to ONNX needs onnxscript")
    from onnx.reference import ReferenceEvaluator

    net = trained_net().eval()
    x = random((4, 3, 6, 6), seed=1)
    program = torch.export.export(net, (x,))
    program = program.run_decompositions(load_example("decompositions").decompositions())
    path = tmp_path / "net.onnx"
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)
    evaluator = ReferenceEvaluator(str(path))
    found = evaluator.run(None, {evaluator.input_names[0]: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), net(x), rtol=1e-4, atol=1e-5)
