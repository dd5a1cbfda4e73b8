// A class as an operator of onnxruntime.
//
// The class has NAME, and the types of its first inputs and outputs in INPUT_TYPES and OUTPUT_TYPES; behind them come any
// number of any type. An object is made of (const Api&, const KernelInfo*) for every node, and has api() and
// compute(Context*), which several threads may call at once.
#pragma once

#include <exception>
#include <iterator>
#include <string>

#include "onnxruntime_abi.h"
#include "thread_order.h"

namespace doge::ort {

// The status of some work. No exception may reach onnxruntime, which is compiled apart from this.
template <class Work>
Status* guarded(const Api& api, const char* op, Work work) {
  try {
    work();
    return nullptr;
  } catch (const Error& error) {
    return api.status(error.code, (std::string(op) + ": " + error.message).c_str());
  } catch (const std::exception& error) {
    return api.status(RUNTIME_EXCEPTION, (std::string(op) + ": " + error.what()).c_str());
  }
}

template <class Kernel>
Operator operator_of() {
  Operator op{};
  op.version = LEAST_VERSION;
  op.GetName = [](const Operator*) { return Kernel::NAME; };
  op.GetExecutionProviderType = [](const Operator*) -> const char* { return nullptr; };
  op.GetInputType = [](const Operator*, size_t i) {
    return i < std::size(Kernel::INPUT_TYPES) ? Kernel::INPUT_TYPES[i] : (int)ANY;
  };
  op.GetInputTypeCount = [](const Operator*) -> size_t { return std::size(Kernel::INPUT_TYPES) + 1; };
  op.GetOutputType = [](const Operator*, size_t i) {
    return i < std::size(Kernel::OUTPUT_TYPES) ? Kernel::OUTPUT_TYPES[i] : (int)ANY;
  };
  op.GetOutputTypeCount = [](const Operator*) -> size_t { return std::size(Kernel::OUTPUT_TYPES) + 1; };
  op.GetInputCharacteristic = [](const Operator*, size_t i) {
    return (int)(i < std::size(Kernel::INPUT_TYPES) ? REQUIRED : VARIADIC);
  };
  op.GetOutputCharacteristic = [](const Operator*, size_t i) {
    return (int)(i < std::size(Kernel::OUTPUT_TYPES) ? REQUIRED : VARIADIC);
  };
  op.GetInputMemoryType = [](const Operator*, size_t) { return 0; };
  op.GetVariadicInputMinArity = [](const Operator*) { return 1; };
  op.GetVariadicInputHomogeneity = [](const Operator*) { return 0; };
  op.GetVariadicOutputMinArity = [](const Operator*) { return 1; };
  op.GetVariadicOutputHomogeneity = [](const Operator*) { return 0; };
  op.CreateKernelV2 = [](const Operator*, Table table, const KernelInfo* info, void** kernel) {
    return guarded(Api(table), Kernel::NAME, [&] { *kernel = new Kernel(Api(table), info); });
  };
  op.KernelComputeV2 = [](void* kernel, Context* context) {
    Status* status = guarded(((Kernel*)kernel)->api(), Kernel::NAME, [&] { ((Kernel*)kernel)->compute(context); });
    come_before(&output_memory);
    return status;
  };
  op.KernelDestroy = [](void* kernel) { delete (Kernel*)kernel; };
  return op;
}

}  // namespace doge::ort
