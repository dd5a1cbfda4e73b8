#include "team.h"

#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace doge {
namespace {

constexpr uint64_t OVER = ~(uint64_t)0;  // no phase has this ticket
constexpr int SPINS = 3000;              // about 100 microseconds on an EPYC; then another program may have the processor

uint32_t items_left(uint64_t ticket) { return (uint32_t)ticket; }

// Waits a moment, the n-th time in a row.
void pause(int n) {
  if (n > SPINS) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Team::join() {
  if (led_.exchange(true)) {
    help();
    return;
  }
  work_(*this);
  ticket_.store(OVER, std::memory_order_release);
}

void Team::parallel(int count, const std::function<void(int)>& f) {
  if (count == 1) return f(0);
  f_ = &f;
  count_ = count;
  unfinished_.store(count, std::memory_order_relaxed);
  phase_++;
  ticket_.store((uint64_t)phase_ << 32 | (uint32_t)count, std::memory_order_release);
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_relaxed);
    if (items_left(ticket) == 0) break;
    do_one(ticket);
  }
  for (int n = 0; unfinished_.load(std::memory_order_acquire) > 0; n++) pause(n);
}

// Takes an item if nobody else was faster. The phase cannot end before the item is done, so f_ and count_ are its own.
// noexcept, for an exception must not leave while others work with f.
bool Team::do_one(uint64_t ticket) noexcept {
  if (!ticket_.compare_exchange_strong(ticket, ticket - 1, std::memory_order_acq_rel)) return false;
  (*f_)(count_ - (int)items_left(ticket));  // in order, as memory is read ahead
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

void Team::help() {
  for (int n = 0;; n++) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (ticket == OVER) return;
    if (items_left(ticket) > 0 && do_one(ticket)) n = 0;
    else pause(n);
  }
}

}  // namespace doge
