// Names the torch that the library was built with, for who reads the file before loading it, as
// python/torchbn does. A library that was built with another minor version of torch does not load,
// and all that the loader then says is that a symbol is missing. Nothing refers to the text: the
// compiler has to be told to keep it, and so has a linker that drops what is not referred to.

#include <torch/version.h>

namespace {

[[gnu::used, gnu::retain]] constexpr char kBuiltWith[] =
    "torchbn was built with torch " TORCH_VERSION;

}  // namespace
