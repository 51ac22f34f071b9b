#pragma once

// Marks what libtorchbn.so offers to other programs; everything else in it is hidden.
#define TORCHBN_API __attribute__((visibility("default")))
