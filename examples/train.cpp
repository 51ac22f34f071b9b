// Trains a small convolutional net on the digits that train_digits.py writes, in C++ alone,
// with torchbn::nn::BatchNorm2d.
//
//   train digits.pt

#include <torch/torch.h>
#include <torchbn/nn.h>

#include <cstdio>
#include <exception>
#include <iostream>

#include "digits.h"

namespace {

constexpr int64_t kEpochs = 8;
constexpr int64_t kBatch = 64;

/// [N, 1, 8, 8] -> [N, 10]
torch::nn::Sequential make_net() {
  torch::nn::Sequential net;
  int64_t channels = 1;
  for (const int64_t width : {16, 32, 64}) {  // 8 x 8, 4 x 4 and 2 x 2 pixels
    const int64_t stride = channels == 1 ? 1 : 2;
    // Without bias: batch norm would subtract it again.
    net->push_back(torch::nn::Conv2d(
        torch::nn::Conv2dOptions(channels, width, 3).padding(1).stride(stride).bias(false)));
    net->push_back(torchbn::nn::BatchNorm2d(width));
    net->push_back(torch::nn::ReLU());
    channels = width;
  }
  net->push_back(torch::nn::Flatten());
  net->push_back(torch::nn::Linear(channels * 2 * 2, 10));
  return net;
}

/// One pass over the training digits in random order; the mean loss.
double train_epoch(torch::nn::Sequential& net, torch::optim::Optimizer& optimizer,
                   const Digits& digits) {
  net->train();
  double sum = 0;
  const auto batches = torch::randperm(digits.train_labels.size(0)).split(kBatch);
  for (const torch::Tensor& batch : batches) {
    const auto logits = net->forward(digits.train_images.index_select(0, batch));
    const auto labels = digits.train_labels.index_select(0, batch);
    const auto loss = torch::nn::functional::cross_entropy(logits, labels);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    sum += loss.item<double>();
  }
  return sum / static_cast<double>(batches.size());
}

double accuracy(torch::nn::Sequential& net, const Digits& digits) {
  const torch::NoGradGuard no_grad;
  net->eval();
  const int64_t hits = count_hits(net->forward(digits.test_images), digits.test_labels);
  return static_cast<double>(hits) / static_cast<double>(digits.test_labels.size(0));
}

bool train(const char* digits_path) {
  torch::set_num_threads(1);  // the images are small
  torch::manual_seed(0);
  const Digits digits = load_digits(digits_path);
  auto net = make_net();
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));

  for (int64_t epoch = 1; epoch <= kEpochs; ++epoch) {
    const double loss = train_epoch(net, optimizer, digits);
    std::printf("epoch %ld of %ld: loss %.4f, accuracy %.2f %%\n", epoch, kEpochs, loss,
                100 * accuracy(net, digits));
    std::fflush(stdout);
  }
  const double final_accuracy = accuracy(net, digits);
  std::printf("accuracy of the net trained in C++: %.2f %%\n", 100 * final_accuracy);
  if (final_accuracy < 0.95) {
    std::cerr << "error: the net has not learnt the digits\n";
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: train DIGITS\n"
                 "the file digits.pt that train_digits.py writes\n";
    return 2;
  }
  try {
    return train(argv[1]) ? 0 : 1;
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
  }
  return 1;
}
