// An ONNX in ONNX Runtime, by its C API, on the CPU.
#include <onnxruntime_c_api.h>

#include <cstring>
#include <map>
#include <stdexcept>

#include "model.h"

namespace {

const OrtApi& api() {
  static const OrtApi* found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) throw std::runtime_error("the ONNX Runtime library is older than its header");
  return *found;
}

void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw std::runtime_error("ONNX Runtime: " + message);
}

struct Kind {
  const char* dtype;
  ONNXTensorElementDataType type;
  size_t bytes;
};
constexpr Kind kKinds[] = {
    {"<f4", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4}, {"<f8", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 8},
    {"<f2", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}, {"<i8", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
    {"<i4", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, 4}, {"|i1", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1},
    {"|u1", ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1}, {"|b1", ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 1},
};

class OnnxRuntimeModel : public Model {
 public:
  explicit OnnxRuntimeModel(const std::string& path) {
    OrtSessionOptions* options = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "deployfold", &env_));
    check(api().CreateSessionOptions(&options));
#ifdef _WIN32
    OrtStatus* status =
        api().CreateSession(env_, std::wstring(path.begin(), path.end()).c_str(), options, &session_);
#else
    OrtStatus* status = api().CreateSession(env_, path.c_str(), options, &session_);
#endif
    api().ReleaseSessionOptions(options);
    check(status);
    check(api().GetAllocatorWithDefaultOptions(&allocator_));
    check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
    size_t inputs = 0, outputs = 0;
    check(api().SessionGetInputCount(session_, &inputs));
    check(api().SessionGetOutputCount(session_, &outputs));
    for (size_t one = 0; one < inputs; ++one) {
      char* name = nullptr;
      check(api().SessionGetInputName(session_, one, allocator_, &name));
      input_names_.push_back(kept(name));
    }
    for (size_t one = 0; one < outputs; ++one) {
      char* name = nullptr;
      check(api().SessionGetOutputName(session_, one, allocator_, &name));
      output_names_.push_back(kept(name));
    }
  }

  ~OnnxRuntimeModel() override {
    api().ReleaseMemoryInfo(memory_);
    api().ReleaseSession(session_);
    api().ReleaseEnv(env_);
  }

  std::vector<Array> run(const std::vector<Array>& inputs) override {
    if (inputs.size() != input_names_.size())
      throw std::runtime_error("the model takes " + std::to_string(input_names_.size()) +
                               " inputs, but the reference has " + std::to_string(inputs.size()));
    std::vector<OrtValue*> given(inputs.size()), made(output_names_.size());
    for (size_t one = 0; one < inputs.size(); ++one) given[one] = value(inputs[one]);
    const auto in = pointers(input_names_), out = pointers(output_names_);
    check(api().Run(session_, nullptr, in.data(), given.data(), given.size(), out.data(), out.size(),
                    made.data()));
    std::vector<Array> found;
    for (OrtValue* one : made) found.push_back(array(one));
    for (OrtValue* one : given) api().ReleaseValue(one);
    for (OrtValue* one : made) api().ReleaseValue(one);
    return found;
  }

 private:
  std::string kept(char* name) {
    const std::string copy = name;
    check(api().AllocatorFree(allocator_, name));
    return copy;
  }

  static std::vector<const char*> pointers(const std::vector<std::string>& names) {
    std::vector<const char*> found;
    for (const auto& name : names) found.push_back(name.c_str());
    return found;
  }

  OrtValue* value(const Array& one) {
    for (const Kind& kind : kKinds) {
      if (one.dtype != kind.dtype) continue;
      OrtValue* made = nullptr;
      check(api().CreateTensorWithDataAsOrtValue(
          memory_, const_cast<char*>(one.data.data()), one.data.size(), one.shape.data(),
          one.shape.size(), kind.type, &made));
      return made;
    }
    throw std::runtime_error("inputs of the type " + one.dtype + " are not passed here");
  }

  static Array array(OrtValue* one) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api().GetTensorTypeAndShape(one, &info));
    ONNXTensorElementDataType type;
    size_t axes = 0;
    check(api().GetTensorElementType(info, &type));
    check(api().GetDimensionsCount(info, &axes));
    Array found;
    found.shape.resize(axes);
    check(api().GetDimensions(info, found.shape.data(), axes));
    api().ReleaseTensorTypeAndShapeInfo(info);
    for (const Kind& kind : kKinds) {
      if (type != kind.type) continue;
      void* data = nullptr;
      check(api().GetTensorMutableData(one, &data));
      found.dtype = kind.dtype;
      found.data.resize(found.size() * kind.bytes);
      if (!found.data.empty()) std::memcpy(found.data.data(), data, found.data.size());
      return found;
    }
    throw std::runtime_error("an output has a type that is not read here");
  }

  OrtEnv* env_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<std::string> input_names_, output_names_;
};

}  // namespace

std::unique_ptr<Model> open_onnxruntime(const std::string& path) {
  return std::make_unique<OnnxRuntimeModel>(path);
}
