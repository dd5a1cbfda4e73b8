// The library's symbols. onnxruntime calls RegisterCustomOps with its own table, and learns the operators of the domain
// "doge".
#include <cstdlib>
#include <string>

#include "doge_step.h"
#include "dynamic_mask_attention.h"
#include "kernels.h"
#include "onnxruntime_abi.h"
#include "registration.h"

namespace doge::ort {
namespace {

Status* version_refused(const ApiBase* base) {
  // every version has the entry that makes a status at place 0
  Api oldest(base->GetApi(1));
  std::string message = std::string("doge-export's operators need onnxruntime 1.") + std::to_string(LEAST_VERSION) +
                        " or newer; this is " + base->GetVersionString();
  return oldest.status(NOT_IMPLEMENTED, message.c_str());
}

void check_kernels() {
  if (chosen_kernels() != nullptr) return;
  std::string names;
  for (const Kernels* table : runnable_kernels()) names += (names.empty() ? "" : ", ") + std::string(table->name);
  throw Error(INVALID_ARGUMENT, std::string("DOGE_EXPORT_KERNELS is ") + std::getenv("DOGE_EXPORT_KERNELS") +
                                    "; this processor runs " + names);
}

}  // namespace
}  // namespace doge::ort

#ifdef _WIN32
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

// The name of the kernels that are used on this processor; "none" where DOGE_EXPORT_KERNELS names none of its own.
EXPORTED const char* DogeKernels() {
  const doge::Kernels* chosen = doge::chosen_kernels();
  return chosen == nullptr ? "none" : chosen->name;
}

// Rises whenever a graph written for the older number would be computed otherwise, or one for the newer not at all; VERSION
// of runtime/operators.py.
EXPORTED int DogeOperatorsVersion() { return 4; }

EXPORTED doge::ort::Status* RegisterCustomOps(doge::ort::SessionOptions* options, const doge::ort::ApiBase* base) {
  using namespace doge::ort;
  Table table = base->GetApi(LEAST_VERSION);
  if (table == nullptr) return version_refused(base);
  Api api(table);
  return guarded(api, "doge-export's operators", [&] {
    check_kernels();
    Domain* domain = api.new_domain("doge");
    api.add(domain, doge_step());
    api.add(domain, dynamic_mask_attention());
    api.add(options, domain);
  });
}
