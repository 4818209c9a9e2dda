// What the members of a crew share besides their counts (crew.h). Not for *.isa.cpp: see build.py.
#pragma once

#include <condition_variable>
#include <mutex>

#include "crew.h"

namespace audiogen {

enum class Sharing : int { as_it_pays, never, in_turn };

struct CrewRoom {
  static constexpr double unknown = 1e9;
  static constexpr long first_try = 2;  // steps

  std::mutex mutex;
  std::condition_variable woken;
  Crew::Count present;         // 1 once the other one has come
  Order order{0, 0, false};    // for the other one, written when it has taken the one before

  // The leader's own. Times in seconds.
  Order last{0, 0, false};
  double first = 0, called = 0, began = 0;  // the first call; the last one, and when its steps began
  double alone = unknown;                   // a step, alone, at its best
  long try_steps = first_try;
};

}  // namespace audiogen
