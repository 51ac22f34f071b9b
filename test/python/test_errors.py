"""Wrong calls: each is an error that names the argument, raised before anything is touched."""

import json
from dataclasses import dataclass, field

import pytest
import torch

from helpers import MODE, Snapshot, batch_norm, in_layout, random, run_python

NAN = float("nan")
GRAD_MODE = pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode],
                                    ids=["grad", "no_grad", "inference_mode"])


def ones(*shape, **options):
    return torch.ones(shape, **options)


def shared_memory(_):
    memory = torch.ones(6)
    return dict(running_mean=memory[:3], running_var=memory[2:5])


def other_device(device):
    return "cpu" if device == "meta" else "meta"


@dataclass
class Call:
    """A correct training call with some arguments replaced, and what the error says."""

    name: str
    text: str
    change: object = field(default_factory=dict)
    training: bool = True
    only: str | None = None  # the device without which the call isn't wrong


# Tensors of other kinds than the dense ones: the dispatcher looks for kernels of their own.
UNSUPPORTED = [
    ("sparse", "input", lambda: ones(4, 3).to_sparse(), "its layout is Sparse$"),
    ("csr", "input", lambda: ones(4, 3).to_sparse_csr(), "its layout is SparseCsr"),
    ("quantized", "input", lambda: torch.quantize_per_tensor(ones(4, 3), 0.1, 0, torch.quint8),
     "is quantized"),
    ("nested", "input", lambda: torch.nested.nested_tensor([ones(3, 4), ones(3, 5)]), "is nested"),
    ("sparse_weight", "weight", lambda: ones(3).to_sparse(), "its layout is Sparse$"),
    ("sparse_running_mean", "running_mean", lambda: ones(3).to_sparse(), "its layout is Sparse$"),
]

CALLS = [
    # input
    Call("rank1", r"input must have shape \(N, C, \.\.\.\).*shape \[3\]", dict(input=ones(3))),
    Call("rank0", r"input must have shape .*shape \[\]", dict(input=ones())),
    Call("integer", "input must be float32, float64, bfloat16 or float16, but is int32",
         dict(input=ones(4, 3, dtype=torch.int32))),
    Call("complex", "input must be float32.*but is complex64", dict(input=ones(4, 3) + 0j)),
    Call("boolean", "input must be float32.*but is bool", dict(input=ones(4, 3) > 0)),
    Call("none", "^batch_norm: input must be a tensor, but is None", dict(input=None)),
    *[Call(name, f"^batch_norm: {argument} must be a dense .*tensor, but {text}",
           lambda _, argument=argument, make=make: {argument: make()}, only="cpu",
           training=training)
      for training in (True, False) for name, argument, make, text in UNSUPPORTED],
    Call("one_value", r"more than one value per channel.*\[1, 3\]", dict(input=ones(1, 3))),
    Call("one_value_4d", r"more than one value per channel.*\[1, 3, 1, 1\]",
         dict(input=ones(1, 3, 1, 1))),
    # parameters
    Call("weight_size", r"weight must have one value per channel of input.*\[4, 3\].*\[2\]",
         dict(weight=ones(2))),
    Call("bias_size", r"bias must have one value per channel of input.*\[4, 3\].*\[4\]",
         dict(bias=ones(4))),
    Call("weight_rank", r"weight must have one dimension.*\[1, 3\]", dict(weight=ones(1, 3))),
    Call("bias_scalar", r"bias must have one dimension.*\[\]", dict(bias=ones())),
    Call("weight_dtype", "weight must be float32 for float32 input, but is float64",
         dict(weight=ones(3, dtype=torch.float64))),
    Call("bias_dtype", "bias must be float16 or float32 for float16 input, but is bfloat16",
         dict(input=ones(4, 3, dtype=torch.float16), bias=ones(3, dtype=torch.bfloat16))),
    Call("double_parameters", "weight must be float64 for float64 input, but is float32",
         dict(input=ones(4, 3, dtype=torch.float64))),
    Call("weight_device", "weight must be on input's device",
         lambda d: dict(weight=ones(3, device=other_device(d)))),
    # running statistics
    Call("mean_alone", "running_mean and running_var must be given together.*running_var is None",
         dict(running_var=None)),
    Call("var_alone", "running_mean and running_var must be given together.*running_mean is None",
         dict(running_mean=None)),
    Call("mean_size", r"running_mean must have one value per channel of input.*\[5\]",
         dict(running_mean=ones(5))),
    Call("var_rank", r"running_var must have one dimension.*\[3, 1\]",
         dict(running_var=ones(3, 1))),
    Call("mean_dtype", "running_mean must be float32 for float32 input, but is bfloat16",
         dict(running_mean=ones(3, dtype=torch.bfloat16))),
    Call("var_requires_grad", "running_var must not require grad",
         dict(running_var=ones(3, requires_grad=True))),
    Call("mean_expanded", "running_mean.*must not overlap itself",
         lambda d: dict(running_mean=ones(1, device=d).expand(3))),
    Call("mean_is_var", "running_mean.*must not share memory with running_var",
         lambda d: (lambda t: dict(running_mean=t, running_var=t))(ones(3, device=d))),
    Call("mean_overlaps_var", "running_mean.*must not share memory with running_var",
         shared_memory, only="cpu"),
    Call("mean_in_input", "running_mean.*must not share memory with input",
         lambda d: (lambda t: dict(input=t, running_mean=t[0]))(ones(4, 3, device=d))),
    Call("var_is_weight", "running_var.*must not share memory with weight",
         lambda d: (lambda t: dict(weight=t, running_var=t))(ones(3, device=d))),
    # counter, numbers
    Call("counter_dtype", "num_batches_tracked must be an int64 scalar.*float32",
         dict(num_batches_tracked=ones())),
    Call("counter_shape", r"num_batches_tracked must be an int64 scalar.*\[1\]",
         dict(num_batches_tracked=torch.zeros(1, dtype=torch.int64))),
    Call("counter_device", "num_batches_tracked must be on input's device",
         lambda d: dict(num_batches_tracked=torch.tensor(0, device=other_device(d)))),
    Call("cumulative_without_counter", "momentum=None.*needs num_batches_tracked",
         dict(momentum=None, num_batches_tracked=None)),
    Call("momentum_nan", "momentum must be finite or None, but is nan", dict(momentum=NAN)),
    Call("momentum_infinite", "momentum must be finite or None", dict(momentum=float("inf"))),
    Call("eps_negative", "eps must be finite and not negative, but is -0.1", dict(eps=-0.1)),
    Call("eps_nan", "eps must be finite and not negative, but is nan", dict(eps=NAN)),
    # evaluation
    Call("no_statistics", "evaluation .*needs both, but both are None",
         dict(running_mean=None, running_var=None), training=False),
    Call("no_mean", "evaluation .*but running_mean is None", dict(running_mean=None),
         training=False),
    Call("no_var", "evaluation .*but running_var is None", dict(running_var=None),
         training=False),
    Call("eval_size", "running_var must have one value per channel", dict(running_var=ones(2)),
         training=False),
    Call("eval_dtype", "running_mean must be float32 for float32 input",
         dict(running_mean=ones(3, dtype=torch.float64)), training=False),
    Call("eval_rank1", r"input must have shape \(N, C", dict(input=ones(3)), training=False),
    Call("eval_eps", "eps must be finite", dict(eps=float("inf")), training=False),
]


def arguments_of(call, device):
    change = call.change(device) if callable(call.change) else {
        name: value.detach().to(device).requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor) else value for name, value in call.change.items()}
    dense = dict(input=random((4, 3)), weight=ones(3), bias=ones(3), running_mean=torch.zeros(3),
                 running_var=ones(3), num_batches_tracked=torch.tensor(0))
    return {**{name: value.to(device) for name, value in dense.items()}, "momentum": 0.1,
            "eps": 1e-5, "training": call.training, **change}


def assert_raises(call, device):
    arguments = arguments_of(call, device)
    snapshot = Snapshot(*arguments.values())
    with pytest.raises(RuntimeError, match=call.text):
        batch_norm(**arguments)
    snapshot.assert_unchanged()


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.name)
@pytest.mark.parametrize("device", [
    "cpu", "meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_wrong_call_raises_and_changes_nothing(device, call):
    if call.only not in (None, device):
        pytest.skip(f"only {call.only} tensors can be wrong in this way")
    assert_raises(call, device)


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.name)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode],
                         ids=["no_grad", "inference_mode"])
def test_no_mode_goes_round_the_checks(call, mode):
    if call.name == "var_requires_grad" and mode is torch.inference_mode:
        pytest.skip("in inference mode nothing requires grad")
    with mode():
        assert_raises(call, "cpu")


def test_the_unchanged_call_is_right(device):
    """Otherwise every wrong call could fail for the same wrong reason."""
    for training in (True, False):
        arguments = arguments_of(Call("right", "", training=training), device)
        batch_norm(**arguments)
        assert arguments["num_batches_tracked"] == int(training)


def test_unknown_and_missing_arguments_are_refused_by_the_schema():
    for wrong in (lambda: batch_norm(), lambda: batch_norm(ones(4, 3), nonsense=1),
                  lambda: batch_norm(None), lambda: batch_norm(ones(4, 3), "weight"),
                  lambda: batch_norm(ones(4, 3), training="yes")):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()


def test_freed_memory_is_refused_before_anything_is_updated(device):
    for freed in ("input", "weight", "bias", "running_mean", "running_var"):
        arguments = arguments_of(Call("right", ""), device)
        arguments[freed].untyped_storage().resize_(0)
        kept = Snapshot(*(value for name, value in arguments.items() if name != freed))
        with pytest.raises(RuntimeError, match=f"the memory of {freed} has been freed"):
            batch_norm(**arguments)
        kept.assert_unchanged()


@pytest.mark.parametrize("freed", ["grad_output", "input"])
def test_freed_memory_that_would_be_copied_is_refused(device, freed):
    """Kernels on a GPU load vectors, and no vector begins where these tensors do."""
    tensors = [in_layout(random((4, 3), device=device), "offset") for _ in range(2)]
    grad_output, x = tensors
    tensors[freed == "input"].untyped_storage().resize_(0)
    s = ones(3, device=device, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=f"the memory of {freed} has been freed"):
        torch.ops.torchbn.batch_norm_backward(grad_output, x, None, s, s, True, True, False, False)
    if freed == "input":
        for training in (True, False):
            with pytest.raises(RuntimeError, match="the memory of input has been freed"):
                batch_norm(x, None, None, ones(3, device=device), ones(3, device=device), training)


@GRAD_MODE
@pytest.mark.parametrize("negated", ["running_mean", "running_var", "num_batches_tracked"])
def test_a_lazily_negated_buffer_is_refused(device, negated, mode):
    arguments = arguments_of(Call("right", ""), device)
    arguments[negated] = torch._neg_view(arguments[negated])
    snapshot = Snapshot(*arguments.values())
    internal = [arguments[name] for name in (
        "input", "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "momentum",
        "eps")]
    for call in (lambda: batch_norm(**arguments),
                 lambda: torch.ops.torchbn.batch_norm_train(*internal)):
        with mode(), pytest.raises(RuntimeError,
                                   match=f"{negated} is a lazily negated view.*resolve_neg"):
            call()
    snapshot.assert_unchanged()


@GRAD_MODE
@MODE
def test_what_is_read_may_be_lazily_negated(device, training, mode):
    read = ["input", "weight", "bias"] + ([] if training else ["running_mean", "running_var"])
    plain = arguments_of(Call("right", "", training=training), device)
    negated = {name: torch._neg_view(-value) if name in read else value
               for name, value in plain.items()}
    with mode():
        torch.testing.assert_close(batch_norm(**negated), batch_norm(**plain))


# The internal operators can be called with anything, too; a missing check there reads or writes
# beyond a tensor, hence the process of its own.
INTERNAL = {
    "backward_grad_shape": ("backward(x[:2], x, w, s, s, True, True, True, True)",
                            "grad_output must have input's shape"),
    "backward_grad_rank": ("backward(x.unsqueeze(2), x, w, s, s, True, True, True, True)",
                           "grad_output must have input's shape"),
    "backward_grad_dtype": ("backward(x.double(), x, w, s, s, True, True, True, True)",
                            "grad_output must have input's dtype"),
    "backward_mean_size": ("backward(x, x, w, s[:1], s, True, True, True, True)",
                           "mean must have one value per channel"),
    "backward_invstd_size": ("backward(x, x, w, s, s.repeat(9), True, True, True, True)",
                             "invstd must have one value per channel"),
    "backward_mean_dtype": ("backward(x, x, w, s.float(), s, True, True, True, True)",
                            "mean must be float64"),
    "backward_weight_size": ("backward(x, x, w[:1], s, s, True, True, True, True)",
                             "weight must have one value per channel"),
    "backward_no_input": ("backward(x, None, w, s, s, True, True, False, False)",
                          "input is needed"),
    "backward_no_input_for_weight": ("backward(x, None, w, s, s, False, False, True, False)",
                                     "input is needed"),
    "backward_no_weight": ("backward(x, x, None, s, s, True, True, True, True)", "weight"),
    "inference_mean_size": ("inference(x, w, w, w[:1], w, 1e-5)",
                            "running_mean must have one value per channel"),
    "inference_no_mean": ("inference(x, w, w, None, w, 1e-5)",
                          "running_mean must be a tensor, but is None"),
    "inference_weight_size": ("inference(x, w.repeat(5), w, w, w, 1e-5)",
                              "weight must have one value per channel"),
    "inference_meta_mean": ("inference(x, w, w, w.to('meta'), w, 1e-5)",
                            "running_mean must be on input's device"),
    "train_var_size": ("train(x, w, w, w.clone(), w[:1].clone(), None, 0.1, 1e-5)",
                       "running_var must have one value per channel"),
    "train_integer": ("train(x.long(), w, w, None, None, None, 0.1, 1e-5)", "input must be float32"),
    "train_scalar": ("train(x[0, 0], w, w, None, None, None, 0.1, 1e-5)",
                     "input must have shape"),
    "train_freed_input": ("train(freed(x), w, w, None, None, None, 0.1, 1e-5)",
                          "the memory of input has been freed"),
    "train_freed_weight": ("train(x, freed(w.repeat(2)[3:]), w, None, None, None, 0.1, 1e-5)",
                           "the memory of weight has been freed"),
    "inference_freed_mean": ("inference(x, w, w, freed(w.clone()), w, 1e-5)",
                             "the memory of running_mean has been freed"),
    "backward_freed_gradient": ("backward(freed(x.clone()), x, w, s, s, True, True, True, True)",
                                "the memory of grad_output has been freed"),
    "train_long_overlap": ("train(x, w, w, *torch.ones(4).as_strided((2, 3), (1, 1)), None, 0.1, "
                           "1e-5)", "must not share memory"),
}


def test_wrong_calls_of_internal_operators_raise_in_a_living_process():
    result = run_python(f"""
import json, torch, helpers
helpers.load_library()
helpers.load_library()  # a second time changes nothing
ops = torch.ops.torchbn
train, inference = ops.batch_norm_train, ops.batch_norm_inference
backward = ops.batch_norm_backward
def freed(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor
texts = {{}}
for name, code in json.loads({json.dumps(json.dumps({n: c for n, (c, _) in INTERNAL.items()}))}).items():
    x, w, s = torch.randn(4, 3), torch.ones(3), torch.ones(3, dtype=torch.float64)
    try:
        eval(code)
        texts[name] = "no error"
    except RuntimeError as error:
        texts[name] = str(error)
print(json.dumps(texts))
""")
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stderr}"
    texts = json.loads(result.stdout)
    wrong = {name: texts[name] for name, (_, text) in INTERNAL.items() if text not in texts[name]}
    assert not wrong
