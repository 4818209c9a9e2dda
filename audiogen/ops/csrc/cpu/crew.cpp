// Whether two threads share a stream's rows, decided while it runs. They meet once a layer, some 20 times a step of 10 to
// 80 microseconds. Where both have a core to themselves that gains up to a half; where other processes want the cores too,
// each meeting may wait for the other's turn, milliseconds later, and a step can take a thousand times as long.
//
// So the leader measures steps alone, calls the other one, tries a few together, and doubles their number as long as they
// are faster. Once they are not, or the other does not come at once, it goes on alone, for ten times as long as it has
// lost and longer each time: about a tenth is lost at most. A later call of the op remembers. The results are the same
// bits either way. Nobody spins for long: who waits gives up the core.
#include "crew.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "crew_room.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace audiogen {
namespace {

// Seconds.
constexpr double stretch = 1e-3;        // from one decision to the next
constexpr double patience = 2e-4;       // for the other one to come
constexpr double warming = 2e-3;        // alone, before the first try
constexpr double shortest_rest = 8e-3;  // alone, after a try that failed
constexpr double longest_rest = 2;      // unless ten times the loss is more
constexpr double gain = 0.95;           // of the time alone, which sharing must undercut
constexpr long home = 1L << 40;         // the number of the order to go home

std::atomic<int> forced{int(Sharing::as_it_pays)};
std::atomic<long> shared_steps{0};
// Of the process: cores are lost to others whichever stream it is.
std::atomic<double> rest_until{0}, next_rest{shortest_rest};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

long load(const long& number) { return __atomic_load_n(&number, __ATOMIC_SEQ_CST); }

void publish(Crew& crew, long& number, long value) {
  __atomic_store_n(&number, value, __ATOMIC_SEQ_CST);
  if (load(crew.sleepers)) crew_wake(crew);
}

void wait_for(Crew& crew, const long& number, long wanted) {
  for (int turns = 0; turns < 2000; ++turns)
    if (load(number) >= wanted) return;
  crew_sleep(crew, &number, wanted);
}

void failed(double now, double lost) {
  const double next = next_rest.load(), rest = next > 10 * lost ? next : 10 * lost;
  rest_until.store(now + rest);
  next_rest.store(2 * next < longest_rest ? 2 * next : longest_rest);
}

// Takes down what the last steps took, and says whether the next ones are for both.
bool learn(CrewRoom& room, double now) {
  const long steps = room.last.end - room.last.begin;
  if (steps == 0) return false;
  const double took = (now - room.began) / steps;
  if (!room.last.together) {
    room.alone = took < 1.02 * room.alone ? took : 1.02 * room.alone;  // the best so far, slowly forgotten
    return now > room.first + warming && now > rest_until.load();
  }
  if (took < gain * room.alone) {
    room.try_steps *= 2;
    const double next = next_rest.load() / 2;
    next_rest.store(next > shortest_rest ? next : shortest_rest);
    return true;
  }
  room.try_steps = CrewRoom::first_try;
  failed(now, now - room.called - steps * room.alone);
  return false;
}

void give(Crew& crew, const Order& order) {
  crew.room->order = order;
  publish(crew, crew.ordered.number, crew.ordered.number + 1);
}

// Whether the other one is awake and comes at once.
bool comes(Crew& crew) {
  if (!load(crew.room->present.number) || load(crew.taken.number) < crew.ordered.number) return false;
  if (crew.room->last.together) return true;
  give(crew, {0, 0, true});
  const double begin = seconds_now();
  while (seconds_now() < begin + patience)
    if (load(crew.taken.number) >= crew.ordered.number) return true;
  failed(seconds_now(), patience);
  return false;
}

}  // namespace

Order crew_lead(Crew& crew, long now, long end) {
  CrewRoom& room = *crew.room;
  if (now == end) {
    publish(crew, crew.ordered.number, home);
    return {end, end, false};
  }
  const double time = seconds_now();
  if (now == 0) room.first = time;
  bool together = learn(room, time);
  room.called = time;
  long steps = 16;
  switch (Sharing(forced.load())) {
    case Sharing::never:
      together = false;
      break;
    case Sharing::in_turn:
      together = !room.last.together;
      steps = together ? 5 : 3;
      if (together) wait_for(crew, room.present.number, 1);
      break;
    case Sharing::as_it_pays:
      together = together && comes(crew);
      if (room.alone == CrewRoom::unknown) break;
      steps = long(stretch / room.alone) + 1;
      if (together && room.try_steps < steps) steps = room.try_steps;
  }
  room.last = {now, now + steps < end ? now + steps : end, together};
  if (together) {
    give(crew, room.last);
    wait_for(crew, crew.taken.number, crew.ordered.number);
    shared_steps.fetch_add(room.last.end - now, std::memory_order_relaxed);
  }
  room.began = seconds_now();
  return room.last;
}

Order crew_follow(Crew& crew) {
  CrewRoom& room = *crew.room;
  if (!room.present.number) publish(crew, room.present.number, 1);
  for (;;) {
    wait_for(crew, crew.ordered.number, crew.taken.number + 1);
    if (load(crew.ordered.number) >= home) return {0, 0, false};
    const Order order = room.order;
    publish(crew, crew.taken.number, crew.taken.number + 1);
    if (order.begin < order.end) return order;  // else: only whether one is there
  }
}

void crew_sleep(Crew& crew, const long* number, long wanted) {
  std::unique_lock<std::mutex> lock(crew.room->mutex);
  __atomic_fetch_add(&crew.sleepers, 1, __ATOMIC_SEQ_CST);  // before the number is read: who writes it looks here after
  crew.room->woken.wait(lock, [&] { return load(*number) >= wanted; });
  __atomic_fetch_sub(&crew.sleepers, 1, __ATOMIC_SEQ_CST);
}

void crew_wake(Crew& crew) {
  std::lock_guard<std::mutex> lock(crew.room->mutex);
  crew.room->woken.notify_all();
}

}  // namespace audiogen

// For tests (Sharing in crew_room.h), and how many steps two threads have made together since the library was loaded.
EXPORTED void audiogen_set_sharing(int how) { audiogen::forced.store(how); }
EXPORTED long audiogen_shared_steps() { return audiogen::shared_steps.load(); }
