#pragma once

// The one place of the version; the build reads it from here.
#define TORCHBN_VERSION_MAJOR 0
#define TORCHBN_VERSION_MINOR 1
#define TORCHBN_VERSION_PATCH 0
