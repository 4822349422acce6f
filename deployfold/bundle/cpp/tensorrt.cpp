// An engine in TensorRT or TensorRT-RTX, which have the same interface, on the first GPU.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "model.h"

namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) std::cerr << message << '\n';
  }
};

/// Memory on the GPU, freed with the object.
class Buffer {
 public:
  explicit Buffer(size_t bytes) { check(cudaMalloc(&data_, bytes > 0 ? bytes : 1)); }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

struct Kind {
  const char* dtype;
  size_t bytes;
};
const std::map<nvinfer1::DataType, Kind> kKinds = {
    {nvinfer1::DataType::kFLOAT, {"<f4", 4}}, {nvinfer1::DataType::kHALF, {"<f2", 2}},
    {nvinfer1::DataType::kINT64, {"<i8", 8}}, {nvinfer1::DataType::kINT32, {"<i4", 4}},
    {nvinfer1::DataType::kINT8, {"|i1", 1}},  {nvinfer1::DataType::kUINT8, {"|u1", 1}},
    {nvinfer1::DataType::kBOOL, {"|b1", 1}},
};

class TensorRTModel : public Model {
 public:
  explicit TensorRTModel(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    const std::vector<char> plan{std::istreambuf_iterator<char>(stream), {}};
    if (plan.empty()) throw std::runtime_error("cannot read " + path);
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (!runtime_) throw std::runtime_error("TensorRT finds no GPU or driver");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_)
      throw std::runtime_error(path + " was built for another GPU or version of TensorRT");
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error("the GPU has too little memory for " + path);
  }

  std::vector<Array> run(const std::vector<Array>& inputs) override {
    std::vector<std::unique_ptr<Buffer>> buffers;
    std::vector<const char*> outputs;
    size_t used = 0;
    for (int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
      const char* name = engine_->getIOTensorName(index);
      if (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kOUTPUT) {
        outputs.push_back(name);
        continue;
      }
      if (used == inputs.size()) throw std::runtime_error("the reference has too few inputs");
      const Array& one = inputs[used++];
      if (one.dtype != kind(name).dtype)
        throw std::runtime_error(std::string(name) + " takes " + kind(name).dtype);
      nvinfer1::Dims shape{};
      shape.nbDims = static_cast<int32_t>(one.shape.size());
      for (size_t axis = 0; axis < one.shape.size(); ++axis) shape.d[axis] = one.shape[axis];
      if (!context_->setInputShape(name, shape))
        throw std::runtime_error(std::string("no optimization profile has the shape of ") + name);
      buffers.push_back(std::make_unique<Buffer>(one.data.size()));
      check(cudaMemcpy(buffers.back()->data(), one.data.data(), one.data.size(),
                       cudaMemcpyHostToDevice));
      context_->setTensorAddress(name, buffers.back()->data());
    }
    const size_t first = buffers.size();
    std::vector<Array> found;
    for (const char* name : outputs) {
      const nvinfer1::Dims shape = context_->getTensorShape(name);
      Array one{kind(name).dtype, {shape.d, shape.d + shape.nbDims}, {}};
      for (int64_t axis : one.shape)
        if (axis < 0)
          throw std::runtime_error(std::string("the shape of ") + name + " depends on the data");
      one.data.resize(one.size() * kind(name).bytes);
      buffers.push_back(std::make_unique<Buffer>(one.data.size()));
      context_->setTensorAddress(name, buffers.back()->data());
      found.push_back(std::move(one));
    }
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream));
    const bool started = context_->enqueueV3(stream);
    const cudaError_t status = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    if (!started) throw std::runtime_error("TensorRT refused the run");
    check(status);
    for (size_t index = 0; index < found.size(); ++index)
      check(cudaMemcpy(found[index].data.data(), buffers[first + index]->data(),
                       found[index].data.size(), cudaMemcpyDeviceToHost));
    return found;
  }

 private:
  const Kind& kind(const char* name) const {
    const auto found = kKinds.find(engine_->getTensorDataType(name));
    if (found == kKinds.end())
      throw std::runtime_error(std::string(name) + " has a type that is not passed here");
    return found->second;
  }

  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace

std::unique_ptr<Model> open_tensorrt(const std::string& path) {
  return std::make_unique<TensorRTModel>(path);
}
