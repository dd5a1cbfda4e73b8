#include "team.h"

#include <algorithm>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace doge {
namespace {

constexpr int SPINS = 3000;  // about 100 microseconds on an EPYC; then another program may have the processor

uint32_t items_left(uint64_t ticket) { return (uint32_t)ticket; }

// Waits a moment, the n-th time in a row.
void pause(int n) {
  if (n > SPINS) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Team::join() {
  int own = joined_.fetch_add(1);
  if (own > 0) {
    help(own);
    return;
  }
  work_(*this);
  over_.store(true, std::memory_order_release);
}

void Team::parallel(int count, const std::function<void(int)>& f) {
  if (count == 1) return f(0);
  int shares = std::min({joined_.load(std::memory_order_relaxed), MOST_SHARES, std::max(count, 1)});
  f_ = &f;
  unfinished_.store(count, std::memory_order_relaxed);
  count_.store(std::max(shares, count_.load(std::memory_order_relaxed)), std::memory_order_relaxed);
  phase_++;
  for (int i = 0; i < shares; i++) {
    int first = (int)((int64_t)count * i / shares);
    shares_[i].end = (int)((int64_t)count * (i + 1) / shares);
    shares_[i].ticket.store((uint64_t)phase_ << 32 | (uint32_t)(shares_[i].end - first), std::memory_order_release);
  }
  while (do_any(0)) {
  }
  for (int n = 0; unfinished_.load(std::memory_order_acquire) > 0; n++) pause(n);
}

// Takes an item if nobody else was faster. The phase cannot end before the item is done, so f_ and the share's end are
// its own. noexcept, for an exception must not leave while others work with f.
bool Team::do_one(Share& share, uint64_t ticket) noexcept {
  if (!share.ticket.compare_exchange_strong(ticket, ticket - 1, std::memory_order_acq_rel)) return false;
  (*f_)(share.end - (int)items_left(ticket));  // in order, as memory is read ahead
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

// An item of the own share, or of the next one that has any. False where all are taken.
bool Team::do_any(int own) {
  int count = count_.load(std::memory_order_relaxed);
  for (int i = 0; i < count; i++) {
    Share& share = shares_[(own + i) % count];
    for (;;) {
      uint64_t ticket = share.ticket.load(std::memory_order_acquire);
      if (items_left(ticket) == 0) break;
      if (do_one(share, ticket)) return true;
    }
  }
  return false;
}

void Team::help(int own) {
  for (int n = 0; !over_.load(std::memory_order_acquire); n++) {
    if (do_any(own)) n = 0;
    else pause(n);
  }
}

}  // namespace doge
