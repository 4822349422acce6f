// What every runtime here implements: a model that takes arrays and returns arrays.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// One array in row-major order, in host memory.
struct Array {
  std::string dtype;  ///< NumPy's name with the byte order: "<f4", "<i8", "|b1"
  std::vector<int64_t> shape;
  std::vector<char> data;

  int64_t size() const {
    int64_t found = 1;
    for (int64_t axis : shape) found *= axis;
    return found;
  }
};

/// A loaded model. `run` takes and returns the arrays in the model's order.
/// Everything here throws std::runtime_error with a sentence that says what is wrong.
struct Model {
  virtual ~Model() = default;
  virtual std::vector<Array> run(const std::vector<Array>& inputs) = 0;
};

std::unique_ptr<Model> open_onnxruntime(const std::string& path);
std::unique_ptr<Model> open_aot_inductor(const std::string& path);
std::unique_ptr<Model> open_tensorrt(const std::string& path);
