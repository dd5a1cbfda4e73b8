// Threads that work through one phase after the other without a hand-over between phases.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace doge {

// The first thread that comes leads: it runs the work and opens phases. All others help, as long as there is work.
//
// A phase ends when all of its items are done, and the leader can do all of them alone. So it never waits for a thread
// that has not come, and one thread that comes twice helps itself with nothing.
class Team {
 public:
  explicit Team(std::function<void(Team&)> work) : work_(std::move(work)) {}

  // To be called on every thread. Returns when the work is done.
  void join();

  // f(0) ... f(count - 1), on all threads of the team. For the leader; f must not throw; where memory ends in it, the process does.
  void parallel(int count, const std::function<void(int)>& f);

 private:
  bool do_one(uint64_t ticket) noexcept;
  void help();

  std::function<void(Team&)> work_;
  std::atomic<bool> led_{false};
  std::atomic<uint64_t> ticket_{0};  // the phase's number, and how many of its items nobody has taken
  std::atomic<int> unfinished_{0};   // items of the phase
  const std::function<void(int)>* f_ = nullptr;
  int count_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace doge
