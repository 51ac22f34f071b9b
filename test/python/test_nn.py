"""The layers of torchbn.nn, and convert, against the layers of torch.nn."""

import copy
import pickle

import pytest
import torch

import torchbn
from helpers import MODE, batch_norm, parameters, random, statistics

NAMES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
LAYERS = pytest.mark.parametrize("name", NAMES)
SHAPES = {"BatchNorm1d": (6, 5, 7), "BatchNorm2d": (4, 5, 6, 7), "BatchNorm3d": (2, 5, 3, 4, 5)}


def make(name, **options):
    """torch's layer, and ours with its state."""
    theirs = getattr(torch.nn, name)(5, **options)
    if theirs.affine:
        weight, bias = parameters(5)
        theirs.weight.data.copy_(weight)
        theirs.bias.data.copy_(bias)
    ours = getattr(torchbn.nn, name)(5, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def step(layer, x):
    """The output, the gradients and the state afterwards."""
    x = x.clone().requires_grad_()
    output = layer(x)
    gradients = torch.autograd.grad(output.sin().sum(), [x, *layer.parameters()])
    return [output.detach(), *gradients, *layer.state_dict().values()]


# ---- The layers --------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize("options", [
    dict(), dict(affine=False), dict(momentum=None), dict(momentum=0.4, eps=0.1),
    dict(track_running_stats=False),
], ids=["default", "plain", "cumulative", "other", "untracked"])
def test_steps_and_evaluations_equal_torchs(name, options):
    ours, theirs = make(name, **options)
    for seed, training in enumerate((True, True, False, True, False)):
        x = random(SHAPES[name], mean=1, std=2, seed=seed)
        torch.testing.assert_close(step(ours.train(training), x), step(theirs.train(training), x))


def test_a_layer_that_stops_tracking_keeps_its_buffers_for_evaluation():
    ours, theirs = make("BatchNorm2d")
    x = random(SHAPES["BatchNorm2d"], mean=3)
    for layer in (ours, theirs):
        layer(x)
        layer.track_running_stats = False
    torch.testing.assert_close(step(ours, x), step(theirs, x))
    assert ours.num_batches_tracked == 1
    torch.testing.assert_close(step(ours.eval(), x), step(theirs.eval(), x))


def test_half_of_the_statistics_is_refused_in_evaluation():
    layer, _ = make("BatchNorm2d")
    layer.running_mean = None
    with pytest.raises(RuntimeError, match="evaluation .* needs both"):
        layer.eval()(random(SHAPES["BatchNorm2d"]))


@LAYERS
def test_arguments_state_and_text_are_torchs(name):
    ours, theirs = (getattr(module, name)(5, 0.5, None, True, True, dtype=torch.float64)
                    for module in (torchbn.nn, torch.nn))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.weight.dtype == torch.float64
    theirs.load_state_dict(ours.state_dict())


@LAYERS
@pytest.mark.parametrize("scripted", [False, True], ids=["eager", "scripted"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_wrong_number_of_dimensions_is_refused_in_torchs_words(name, scripted):
    ours, theirs = make(name)
    for rank in range(1, 7):
        x = random((2,) if rank == 1 else (2, 5, *[3] * (rank - 2)))
        try:
            theirs(x)
        except ValueError as error:
            words = str(error)
        else:
            (torch.jit.script(ours) if scripted else ours)(x)
            continue
        with pytest.raises(torch.jit.Error if scripted else ValueError) as refused:
            (torch.jit.script(ours) if scripted else ours)(x)
        assert words in str(refused.value)
    assert ours.num_batches_tracked == theirs.num_batches_tracked


@LAYERS
def test_a_layer_survives_copying_and_pickling(name):
    layer, _ = make(name)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        x = random(SHAPES[name])
        torch.testing.assert_close(step(other, x), step(copy.deepcopy(layer), x))


@pytest.mark.works_with("torch.fx")
@LAYERS
@MODE
def test_a_traced_layer_goes_on_with_the_operator(name, training):
    layer, _ = make(name)
    traced = torch.fx.symbolic_trace(copy.deepcopy(layer).train(training))
    assert "torchbn.batch_norm" in traced.code
    x = random(SHAPES[name])
    expected = step(layer.train(training), x)
    # What was traced in evaluation has no counter.
    torch.testing.assert_close(step(traced, x), expected if training else expected[:-1])


@pytest.mark.works_with("torch.fx")
@LAYERS
def test_a_layer_within_what_is_traced_is_a_leaf(name):
    """As torch.nn's are: the graph can go from one mode to the other, and keeps it apart."""
    ours, theirs = make(name)
    x = random(SHAPES[name], mean=1)
    for layer in (ours, theirs):
        traced = torch.fx.symbolic_trace(torch.nn.Sequential(layer, torch.nn.ReLU()).train())
        assert [n.op for n in traced.graph.nodes] == ["placeholder", "call_module", "call_module",
                                                      "output"]
        assert traced.get_submodule("0") is layer
        traced(x)
        before = layer.running_mean.clone()
        together = traced.eval()(x)
        torch.testing.assert_close(traced(x[:1]), together[:1])
        assert torch.equal(layer.running_mean, before) and layer.num_batches_tracked == 1
    torch.testing.assert_close(step(ours, x), step(theirs, x))


# ---- convert and revert ------------------------------------------------------------------------


def test_converting_changes_the_class_and_nothing_else():
    class Own(torch.nn.BatchNorm2d):
        pass

    shared = torch.nn.BatchNorm1d(4)
    model = torch.nn.ModuleDict({
        "1d": shared, "again": shared, "2d": torch.nn.BatchNorm2d(4).eval(),
        "nested": torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm3d(4)),
        "own": Own(4), "sync": torch.nn.SyncBatchNorm(4), "lazy": torch.nn.LazyBatchNorm2d(),
        "instance": torch.nn.InstanceNorm2d(4)})
    calls = []
    model["2d"].register_forward_hook(lambda *_: calls.append(1))
    before = dict(model.named_parameters(), **dict(model.named_buffers()))
    assert torchbn.convert(model) is model
    after = dict(model.named_parameters(), **dict(model.named_buffers()))
    assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)

    assert type(model["1d"]) is torchbn.nn.BatchNorm1d and model["again"] is model["1d"]
    assert type(model["2d"]) is torchbn.nn.BatchNorm2d and not model["2d"].training
    assert type(model["nested"][1]) is torchbn.nn.BatchNorm3d
    assert type(model["own"]) is Own
    assert type(model["sync"]) is torch.nn.SyncBatchNorm
    assert type(model["lazy"]) is torch.nn.LazyBatchNorm2d
    assert type(model["instance"]) is torch.nn.InstanceNorm2d
    model["2d"](random((2, 4, 3, 3)))
    assert calls == [1]
    torchbn.convert(model)  # a second time is none too many

    assert torchbn.revert(model) is model
    assert type(model["1d"]) is torch.nn.BatchNorm1d
    assert type(model["2d"]) is torch.nn.BatchNorm2d and not model["2d"].training
    assert type(model["nested"][1]) is torch.nn.BatchNorm3d
    assert type(model["own"]) is Own
    model["2d"](random((2, 4, 3, 3)))
    assert calls == [1, 1]


@LAYERS
def test_a_lazy_layer_becomes_what_was_asked_for_last(name):
    lazy = getattr(torch.nn, name.replace("Batch", "LazyBatch"))
    x = random(SHAPES[name])
    layer = torchbn.convert(lazy())
    assert type(layer) is lazy
    layer(x)
    assert type(layer) is getattr(torchbn.nn, name) and layer.num_batches_tracked == 1
    layer = torchbn.revert(torchbn.convert(lazy()))
    layer(x)
    assert type(layer) is getattr(torch.nn, name)
    assert lazy.cls_to_become is type(layer)  # of other models' layers


@LAYERS
def test_a_layer_is_a_model_to_convert_and_revert(name):
    _, theirs = make(name)
    ours = torchbn.convert(copy.deepcopy(theirs))
    assert type(ours) is getattr(torchbn.nn, name)
    assert type(torchbn.revert(copy.deepcopy(ours))) is type(theirs)
    x = random(SHAPES[name], mean=1)
    torch.testing.assert_close(step(ours, x), step(theirs, x))


# ---- batch_norm --------------------------------------------------------------------------------


@MODE
def test_the_function_is_the_operator(training):
    schema = torch.ops.torchbn.batch_norm.default._schema
    defaults = [a.default_value for a in schema.arguments if not a.kwarg_only]
    assert list(torchbn.batch_norm.__defaults__) == defaults[1:]
    x, (weight, bias), (mean, var) = random((4, 3, 5)), parameters(3), statistics(3)
    counter = torch.tensor(2)
    copies = mean.clone(), var.clone(), counter.clone()
    y = torchbn.batch_norm(x, weight, bias, mean, var, training, None, 0.1,
                           num_batches_tracked=counter)
    expected = batch_norm(x, weight, bias, copies[0], copies[1], training, None, 0.1,
                          num_batches_tracked=copies[2])
    torch.testing.assert_close([y, mean, var, counter], [expected, *copies], rtol=0, atol=0)
