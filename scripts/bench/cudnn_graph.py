"""cuDNN's batch normalization through its graph interface, where newer kernels are.

The graphs are made by NVIDIA's frontend, `pip install nvidia-cudnn-frontend`, which takes the library
that torch's wheel brings along. Calls cost microseconds of Python, so that it is in CUDA graphs that
this is compared.
"""

import functools

import cudnn_layer
import torch


def missing(device):
    try:
        import cudnn  # noqa: F401
    except ImportError:
        return "the package nvidia-cudnn-frontend is not installed"
    return None


@functools.cache
def handle():
    import cudnn
    return cudnn.create_handle()


def data_type(dtype):
    import cudnn
    types = {torch.float32: cudnn.data_type.FLOAT, torch.float16: cudnn.data_type.HALF,
             torch.bfloat16: cudnn.data_type.BFLOAT16}
    if dtype not in types:
        raise NotImplementedError(f"cuDNN's graphs do not take {dtype}")
    return types[dtype]


class Graph:
    """One operation on tensors that have names. `operation` names the function of cuDNN's graph;
    `inputs` and `outputs` are {name: (sizes, strides, type)}, the inputs' names being those that the
    function has for them. What is on the CPU when the graph is run is named `by_value`."""

    def __init__(self, operation, inputs, outputs, by_value=()):
        import cudnn
        wide = cudnn.data_type.FLOAT
        self.graph = cudnn.pygraph(io_data_type=wide, intermediate_data_type=wide,
                                   compute_data_type=wide, handle=handle())
        self.tensors = {
            name: self.graph.tensor(name=name, dim=sizes, stride=strides, data_type=data_type(dtype),
                                    is_pass_by_value=name in by_value)
            for name, (sizes, strides, dtype) in inputs.items()}
        made = getattr(self.graph, operation)(**self.tensors)
        for tensor, (name, (sizes, strides, dtype)) in zip(made, outputs.items(), strict=True):
            tensor.set_output(True).set_data_type(data_type(dtype))
            self.tensors[name] = tensor.set_dim(sizes).set_stride(strides)
        self.graph.validate()
        self.graph.build_operation_graph()
        self.graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self.graph.check_support()
        self.graph.build_plans()
        self.work_bytes = self.graph.get_workspace_size()

    def run(self, device, **tensors):
        """Writes what is given as outputs."""
        import cudnn
        cudnn.set_stream(handle=handle(), stream=cudnn_layer.stream())
        work = torch.empty(self.work_bytes, dtype=torch.uint8, device=device)
        self.graph.execute({self.tensors[name]: tensor for name, tensor in tensors.items()}, work,
                           handle=handle())


class Layer:
    """As cudnn_layer.batch_norm asks for them."""

    def __init__(self, x):
        sizes, strides = cudnn_layer.sizes_and_strides(x)
        channels, ones = x.shape[1], [1] * (len(sizes) - 2)
        self.planes = sizes, strides, x.dtype
        self.channels = [1, channels, *ones], [channels, 1, *ones], torch.float32
        self.number = [1, 1, *ones], [1, 1, *ones], torch.float32

    @functools.cached_property
    def forward(self):
        return Graph("batchnorm",
                     {"input": self.planes, "scale": self.channels, "bias": self.channels,
                      "in_running_mean": self.channels, "in_running_var": self.channels,
                      "epsilon": self.number, "momentum": self.number},
                     {"y": self.planes, "mean": self.channels, "inv_variance": self.channels,
                      "out_running_mean": self.channels, "out_running_var": self.channels},
                     by_value=("epsilon", "momentum"))

    @functools.cached_property
    def gradients(self):
        return Graph("batchnorm_backward",
                     {"grad": self.planes, "input": self.planes, "scale": self.channels,
                      "mean": self.channels, "inv_variance": self.channels},
                     {"dx": self.planes, "dscale": self.channels, "dbias": self.channels})

    def train(self, x, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, invstd = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        # The running statistics are updated where they are.
        self.forward.run(
            x.device, input=x, scale=weight, bias=bias, in_running_mean=running_mean,
            in_running_var=running_var, epsilon=torch.tensor(eps), momentum=torch.tensor(momentum),
            y=y, mean=mean, inv_variance=invstd, out_running_mean=running_mean,
            out_running_var=running_var)
        return y, mean, invstd

    def backward(self, dy, x, weight, bias, mean, invstd, eps):
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        self.gradients.run(x.device, grad=dy, input=x, scale=weight, mean=mean,
                           inv_variance=invstd, dx=dx, dscale=dweight, dbias=dbias)
        return dx, dweight, dbias

    def inference(self, *_):
        raise NotImplementedError("cuDNN's graphs want 1 / sqrt(var + eps) for evaluation")


def batch_norm(momentum, eps):
    """A function as peers.py has them."""
    return cudnn_layer.batch_norm(Layer, momentum, eps)
