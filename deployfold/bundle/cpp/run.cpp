// Runs one artifact of a bundle on the reference inputs, and compares it with the original model.
//
//     run FILE reference.npz [MIN_DB]
//
// FILE is an .onnx, an .aoti.pt2 or an .engine. The exit code is 0 if every output has at least
// MIN_DB decibels of SQNR against the original's; 20 by default, as for run.py where the build
// measured nothing.
#include <cmath>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <limits>
#include <stdexcept>

#include "npz.h"

namespace {

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

std::unique_ptr<Model> open_model(const std::string& path) {
  if (ends_with(path, ".onnx")) {
#ifdef WITH_ONNXRUNTIME
    return open_onnxruntime(path);
#endif
  } else if (ends_with(path, ".aoti.pt2")) {
#ifdef WITH_AOT_INDUCTOR
    return open_aot_inductor(path);
#endif
  } else if (ends_with(path, ".engine")) {
#ifdef WITH_TENSORRT
    return open_tensorrt(path);
#endif
  } else {
    throw std::runtime_error(path + " is not an .onnx, an .aoti.pt2 or an .engine");
  }
  throw std::runtime_error("this program was compiled without the runtime of " + path +
                           "; cmake says which runtimes it found");
}

std::vector<Array> numbered(const std::map<std::string, Array>& arrays, const std::string& side) {
  std::vector<Array> found;
  for (int index = 0;; ++index) {
    const auto one = arrays.find(side + "_" + std::to_string(index));
    if (one == arrays.end()) return found;
    found.push_back(one->second);
  }
}

/// A number of an array as double.
double value(const Array& array, int64_t index) {
  const auto read = [&](auto kind) {
    std::memcpy(&kind, array.data.data() + index * sizeof kind, sizeof kind);
    return static_cast<double>(kind);
  };
  if (array.dtype == "<f4") return read(float{});
  if (array.dtype == "<f8") return read(double{});
  if (array.dtype == "<i8") return read(int64_t{});
  if (array.dtype == "<i4") return read(int32_t{});
  if (array.dtype == "|i1") return read(int8_t{});
  if (array.dtype == "|u1" || array.dtype == "|b1") return read(uint8_t{});
  throw std::runtime_error("outputs of the type " + array.dtype + " are not compared here");
}

/// 10 log10(Σ original² / Σ (original - found)²); infinite for equal arrays, as in the report.
double sqnr_db(const Array& original, const Array& found, double* max_abs_diff) {
  if (original.shape != found.shape)
    throw std::runtime_error("an output does not have the shape of the original's");
  double signal = 0, noise = 0;
  for (int64_t index = 0; index < original.size(); ++index) {
    const double expected = value(original, index), difference = expected - value(found, index);
    if (std::isnan(difference)) return std::numeric_limits<double>::quiet_NaN();
    signal += expected * expected;
    noise += difference * difference;
    *max_abs_diff = std::max(*max_abs_diff, std::abs(difference));
  }
  return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

int compare(const std::string& path, const std::string& reference, double limit) {
  const auto arrays = read_npz(reference);
  const auto expected = numbered(arrays, "output");
  const auto outputs = open_model(path)->run(numbered(arrays, "input"));
  if (expected.empty() || outputs.size() != expected.size())
    throw std::runtime_error("the model does not have the outputs of the reference");
  double least = std::numeric_limits<double>::infinity(), max_abs_diff = 0;
  for (size_t index = 0; index < outputs.size(); ++index) {
    const double found = sqnr_db(expected[index], outputs[index], &max_abs_diff);
    if (!(found >= least)) least = found;  // also NaN
  }
  const bool passed = least >= limit;
  std::cout << path << ": " << (passed ? "as it was built" : "NOT as it was built")
            << std::setprecision(3) << "; max |Δ| " << max_abs_diff << std::fixed
            << std::setprecision(1) << ", " << least << " dB against the original (limit " << limit
            << " dB)\n";
  return passed ? 0 : 8;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3 || count > 4) {
    std::cerr << "Usage: run FILE reference.npz [MIN_DB]\n";
    return 2;
  }
  try {
    return compare(words[1], words[2], count > 3 ? std::stod(words[3]) : 20.0);
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << ".\n";
    return 8;
  }
}
