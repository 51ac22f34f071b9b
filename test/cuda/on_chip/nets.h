#pragma once

#include <cstdint>
#include <vector>

namespace torchbn::cuda {

// What the batch norms of well-known nets work on.

struct Shape {
  int64_t channels, spatial;
};
struct Net {
  const char* name;
  int64_t shown;  // batch
  std::vector<int64_t> batches;
  std::vector<Shape> shapes;
};

constexpr int64_t square(int64_t side) {
  return side * side;
}

inline const std::vector<Net>& nets() {
  static const std::vector<int64_t> kBatches = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  static const std::vector<Net> kNets = {
      {"ResNet-50",
       128,
       kBatches,
       {{64, square(112)},
        {64, square(56)},
        {128, square(56)},
        {256, square(56)},
        {128, square(28)},
        {256, square(28)},
        {512, square(28)},
        {256, square(14)},
        {512, square(14)},
        {1024, square(14)},
        {512, square(7)},
        {2048, square(7)}}},
      {"MobileNetV2",
       128,
       kBatches,
       {{16, square(112)},
        {32, square(112)},
        {96, square(112)},
        {24, square(56)},
        {96, square(56)},
        {144, square(56)},
        {32, square(28)},
        {144, square(28)},
        {192, square(28)},
        {64, square(14)},
        {96, square(14)},
        {192, square(14)},
        {384, square(14)},
        {576, square(14)},
        {160, square(7)},
        {320, square(7)},
        {576, square(7)},
        {960, square(7)},
        {1280, square(7)}}},
      {"EfficientNet-B0",
       128,
       kBatches,
       {{16, square(112)},
        {32, square(112)},
        {96, square(112)},
        {24, square(56)},
        {96, square(56)},
        {144, square(56)},
        {40, square(28)},
        {144, square(28)},
        {240, square(28)},
        {80, square(14)},
        {112, square(14)},
        {240, square(14)},
        {480, square(14)},
        {672, square(14)},
        {192, square(7)},
        {320, square(7)},
        {672, square(7)},
        {1152, square(7)},
        {1280, square(7)}}},
      {"features (N, C): ViT blocks and heads",
       4096,
       {64, 256, 1024, 4096, 64 * 197, 256 * 197},
       {{256, 1}, {384, 1}, {768, 1}, {1000, 1}, {1001, 1}, {2048, 1}, {3072, 1}, {8192, 1}}},
      {"segmentation",
       8,
       {1, 2, 4, 8, 16},
       {{64, square(512)},
        {19, 512 * 1024},
        {32, 256 * 512},
        {48, square(129)},
        {256, square(129)},
        {512, square(65)},
        {2048, square(65)}}},
      {"video",
       8,
       {1, 4, 8, 32},
       {{64, 16 * square(112)},
        {64, 16 * square(56)},
        {128, 8 * square(28)},
        {256, 4 * square(14)},
        {512, 2 * square(7)}}},
  };
  return kNets;
}

}  // namespace torchbn::cuda
