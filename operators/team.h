// Threads that work through one phase after the other without a hand-over between phases.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace doge {

// The first thread that comes leads: it runs the work and opens phases. All others help, as long as there is work.
//
// Each thread has neighbouring items of a phase, the same share of every phase, so it meets again what lies in its own
// cache. Behind its own items it takes those of others. A phase ends when all of its items are done, and the leader can
// do all of them alone. So it never waits for a thread that has not come, and one thread that comes twice helps itself
// with nothing.
class Team {
 public:
  explicit Team(std::function<void(Team&)> work) : work_(std::move(work)) {}

  // To be called on every thread. Returns when the work is done.
  void join();

  // f(0) ... f(count - 1), on all threads of the team. For the leader. f must not throw; where memory ends in it, the
  // process does.
  void parallel(int count, const std::function<void(int)>& f);

 private:
  static constexpr int MOST_SHARES = 16;

  // A thread's neighbouring items of a phase.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};  // the phase's number, and how many of its items nobody has taken
    int end = 0;                      // behind the last item
  };

  bool do_one(Share& share, uint64_t ticket) noexcept;
  bool do_any(int own);
  void help(int own);

  std::function<void(Team&)> work_;
  std::atomic<int> joined_{0};      // threads, the leader among them
  std::atomic<bool> over_{false};   // the work is done
  std::atomic<int> count_{1};       // of shares that have had items
  std::atomic<int> unfinished_{0};  // items of the phase
  const std::function<void(int)>* f_ = nullptr;
  uint32_t phase_ = 0;
  Share shares_[MOST_SHARES];
};

}  // namespace doge
