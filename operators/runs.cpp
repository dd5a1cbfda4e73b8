#include "runs.h"

#include <exception>

#include "thread_order.h"

namespace doge::ort {
namespace {

constexpr size_t MOST_IDLE = 16;  // memories of runs that are kept, each as large as the largest run that had it
constexpr size_t THREADS = 64;    // that may join; the session's own number is not told

// A thread of onnxruntime's, which calls it behind all that made the team, and returns behind it.
void join(void* team, size_t) {
  come_after(team);
  ((Team*)team)->join();
  come_before(team);
}

}  // namespace

void Runs::run(const Api& api, const Context* context, const std::function<void(const Products&)>& work) {
  std::exception_ptr failure;
  std::unique_ptr<Memory> memory = idle_memory();
  Team team([&](Team& team) {
    try {
      work(Products(*chosen_kernels(), team, *memory));
    } catch (...) {
      failure = std::current_exception();
    }
  });
  come_before(&team);
  api.parallel(context, join, THREADS, &team);
  come_after(&team);
  if (failure) std::rethrow_exception(failure);
  std::lock_guard<std::mutex> lock(lending_);
  if (idle_.size() < idle_.capacity()) idle_.push_back(std::move(memory));
}

// That of an earlier run; new memory where every one is in use.
std::unique_ptr<Memory> Runs::idle_memory() {
  std::lock_guard<std::mutex> lock(lending_);
  idle_.reserve(MOST_IDLE);
  if (idle_.empty()) return std::make_unique<Memory>();
  std::unique_ptr<Memory> memory = std::move(idle_.back());
  idle_.pop_back();
  return memory;
}

}  // namespace doge::ort
