// An AOTInductor package in libtorch. The package holds native code, which loading runs.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstring>
#include <map>
#include <stdexcept>

#include "model.h"

namespace {

const std::map<std::string, at::ScalarType> kKinds = {
    {"<f4", at::kFloat}, {"<f8", at::kDouble}, {"<f2", at::kHalf}, {"<i8", at::kLong},
    {"<i4", at::kInt},   {"|i1", at::kChar},   {"|u1", at::kByte}, {"|b1", at::kBool},
};

class AotInductorModel : public Model {
 public:
  explicit AotInductorModel(const std::string& path) : loader_(path) {
    const auto metadata = loader_.get_metadata();
    const auto device = metadata.find("AOTI_DEVICE_KEY");
    if (device != metadata.end() && device->second == "cuda") device_ = at::Device(at::kCUDA, 0);
  }

  std::vector<Array> run(const std::vector<Array>& inputs) override {
    std::vector<at::Tensor> given;
    for (const Array& one : inputs) {
      const auto kind = kKinds.find(one.dtype);
      if (kind == kKinds.end())
        throw std::runtime_error("inputs of the type " + one.dtype + " are not passed here");
      // A copy, since the compiled code asks for aligned memory.
      given.push_back(
          at::from_blob(const_cast<char*>(one.data.data()), one.shape, kind->second)
              .clone()
              .to(device_));
    }
    std::vector<Array> found;
    for (const at::Tensor& one : loader_.run(given)) found.push_back(array(one));
    return found;
  }

 private:
  static Array array(const at::Tensor& tensor) {
    const at::Tensor one = tensor.to(at::kCPU).contiguous();
    for (const auto& [dtype, type] : kKinds) {
      if (one.scalar_type() != type) continue;
      Array found{dtype, one.sizes().vec(), std::vector<char>(one.nbytes())};
      if (one.nbytes() > 0) std::memcpy(found.data.data(), one.data_ptr(), one.nbytes());
      return found;
    }
    throw std::runtime_error("an output has a type that is not read here");
  }

  torch::inductor::AOTIModelPackageLoader loader_;
  at::Device device_ = at::kCPU;
};

}  // namespace

std::unique_ptr<Model> open_aot_inductor(const std::string& path) {
  return std::make_unique<AotInductorModel>(path);
}
