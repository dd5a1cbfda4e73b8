// onnxruntime's C interface without its header: entries of its table by their places, and its struct of an operator.
//
// Both only ever grow at the end, so places are the same in every version from LEAST_VERSION on
// (include/onnxruntime/core/session/onnxruntime_c_api.h of microsoft/onnxruntime).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "thread_order.h"

namespace doge::ort {

constexpr uint32_t LEAST_VERSION = 18;  // of the interface: onnxruntime 1.18

enum Type { ANY = 0, FLOAT = 1, UINT8 = 2, INT64 = 7, FLOAT16 = 10, DOUBLE = 11 };
enum Characteristic { REQUIRED = 0, VARIADIC = 2 };
enum ErrorCode { INVALID_ARGUMENT = 2, RUNTIME_EXCEPTION = 6, NOT_IMPLEMENTED = 9 };

struct Status;
struct Value;
struct ShapeInfo;
struct KernelInfo;
struct Context;
struct SessionOptions;
struct Domain;

using Table = void* const*;

struct ApiBase {
  Table (*GetApi)(uint32_t version);  // null where onnxruntime is older
  const char* (*GetVersionString)();
};

class Error {
 public:
  Error(ErrorCode code, std::string message) : code(code), message(std::move(message)) {}
  ErrorCode code;
  std::string message;
};

struct Operator {
  uint32_t version;
  void* (*CreateKernel)(const Operator*, Table, const KernelInfo*);
  const char* (*GetName)(const Operator*);
  const char* (*GetExecutionProviderType)(const Operator*);
  int (*GetInputType)(const Operator*, size_t);
  size_t (*GetInputTypeCount)(const Operator*);
  int (*GetOutputType)(const Operator*, size_t);
  size_t (*GetOutputTypeCount)(const Operator*);
  void (*KernelCompute)(void*, Context*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const Operator*, size_t);
  int (*GetOutputCharacteristic)(const Operator*, size_t);
  int (*GetInputMemoryType)(const Operator*, size_t);
  int (*GetVariadicInputMinArity)(const Operator*);
  int (*GetVariadicInputHomogeneity)(const Operator*);
  int (*GetVariadicOutputMinArity)(const Operator*);
  int (*GetVariadicOutputHomogeneity)(const Operator*);
  Status* (*CreateKernelV2)(const Operator*, Table, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, Context*);
  void* later[7];  // shape inference, versions of the operator, memory in place: not used
};

// The table of the onnxruntime that loaded this library. Throws Error for a failed call.
class Api {
 public:
  explicit Api(Table table) : table_(table) {}

  Status* status(ErrorCode code, const char* message) const {
    return entry<Status* (*)(int, const char*)>(0)(code, message);
  }

  Domain* new_domain(const char* name) const {
    Domain* domain = nullptr;
    check(entry<Status* (*)(const char*, Domain**)>(26)(name, &domain));
    return domain;
  }
  void add(Domain* domain, const Operator* op) const {
    check(entry<Status* (*)(Domain*, const Operator*)>(27)(domain, op));
  }
  void add(SessionOptions* options, Domain* domain) const {
    check(entry<Status* (*)(SessionOptions*, Domain*)>(28)(options, domain));
  }

  int64_t integer(const KernelInfo* info, const char* name) const {
    int64_t value = 0;
    check(entry<Status* (*)(const KernelInfo*, const char*, int64_t*)>(86)(info, name, &value));
    return value;
  }
  // 0 where the operator has no attribute of this name.
  int64_t integer_or_0(const KernelInfo* info, const char* name) const {
    int64_t value = 0;
    if (succeeds(entry<Status* (*)(const KernelInfo*, const char*, int64_t*)>(86)(info, name, &value))) return value;
    if (is_real_or_text(info, name)) throw Error(INVALID_ARGUMENT, std::string(name) + " must be an integer");
    return 0;
  }
  float real(const KernelInfo* info, const char* name) const {
    float value = 0;
    check(entry<Status* (*)(const KernelInfo*, const char*, float*)>(85)(info, name, &value));
    return value;
  }
  std::vector<int64_t> integers(const KernelInfo* info, const char* name) const {
    auto get = entry<Status* (*)(const KernelInfo*, const char*, int64_t*, size_t*)>(163);
    size_t count = 0;
    check(get(info, name, nullptr, &count));
    std::vector<int64_t> values(count);
    check(get(info, name, values.data(), &count));
    return values;
  }

  size_t input_count(const KernelInfo* info) const {
    size_t count = 0;
    check(entry<Status* (*)(const KernelInfo*, size_t*)>(230)(info, &count));
    return count;
  }
  bool is_constant(const KernelInfo* info, size_t index) const {
    int constant = 0;
    const Value* value = nullptr;
    check(entry<Status* (*)(const KernelInfo*, size_t, int*, const Value**)>(249)(info, index, &constant, &value));
    return constant != 0;
  }

  size_t input_count(const Context* context) const {
    size_t count = 0;
    check(entry<Status* (*)(const Context*, size_t*)>(88)(context, &count));
    return count;
  }
  const Value* input(const Context* context, size_t index) const {
    const Value* value = nullptr;
    check(entry<Status* (*)(const Context*, size_t, const Value**)>(90)(context, index, &value));
    if (value == nullptr) throw Error(INVALID_ARGUMENT, "input " + std::to_string(index) + " is missing");
    return value;
  }
  Value* output(Context* context, size_t index, const std::vector<int64_t>& shape) const {
    Value* value = nullptr;
    check(entry<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**)>(91)(context, index, shape.data(),
                                                                                    shape.size(), &value));
    if (value == nullptr) throw Error(INVALID_ARGUMENT, "output " + std::to_string(index) + " is missing");
    come_after(&output_memory);
    return value;
  }

  void* data(const Value* value) const {
    void* data = nullptr;
    check(entry<Status* (*)(Value*, void**)>(51)(const_cast<Value*>(value), &data));
    return data;
  }
  int type(const Value* value, std::vector<int64_t>& shape) const {
    ShapeInfo* info = nullptr;
    check(entry<Status* (*)(const Value*, ShapeInfo**)>(65)(value, &info));
    int type = 0;
    size_t rank = 0;
    Status* failed = entry<Status* (*)(const ShapeInfo*, int*)>(60)(info, &type);
    if (failed == nullptr) failed = entry<Status* (*)(const ShapeInfo*, size_t*)>(61)(info, &rank);
    shape.resize(rank);
    if (failed == nullptr) failed = entry<Status* (*)(const ShapeInfo*, int64_t*, size_t)>(62)(info, shape.data(), rank);
    entry<void (*)(ShapeInfo*)>(99)(info);
    check(failed);
    return type;
  }

  // f(user, 0) ... f(user, count - 1), on the threads of the session.
  void parallel(const Context* context, void (*f)(void*, size_t), size_t count, void* user) const {
    check(entry<Status* (*)(const Context*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(context, f, count, 0,
                                                                                                 user));
  }

 private:
  // Whether a call succeeded, whose reason does not matter.
  bool succeeds(Status* status) const {
    if (status == nullptr) return true;
    entry<void (*)(Status*)>(93)(status);
    return false;
  }

  bool is_real_or_text(const KernelInfo* info, const char* name) const {
    float real = 0;
    size_t length = 0;
    return succeeds(entry<Status* (*)(const KernelInfo*, const char*, float*)>(85)(info, name, &real)) ||
           succeeds(entry<Status* (*)(const KernelInfo*, const char*, char*, size_t*)>(87)(info, name, nullptr, &length));
  }

  template <class Function>
  Function entry(int place) const {
    return reinterpret_cast<Function>(table_[place]);
  }

  void check(Status* status) const {
    if (status == nullptr) return;
    auto code = (ErrorCode)entry<int (*)(const Status*)>(1)(status);
    std::string message = entry<const char* (*)(const Status*)>(2)(status);
    entry<void (*)(Status*)>(93)(status);
    throw Error(code, message);
  }

  Table table_;
};

}  // namespace doge::ort
