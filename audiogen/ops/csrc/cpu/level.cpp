// The level in use, and what Python asks about it (audiogen/ops/library.py).
#include "isa.h"

#include <atomic>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace audiogen {

static std::atomic<int> chosen{-1};

Level level() {
  int now = chosen.load(std::memory_order_relaxed);
  if (now < 0) chosen.store(now = int(best_level()), std::memory_order_relaxed);
  return Level(now);
}

static int named(const char* name) {
  for (int i = 0; i < 3; ++i)
    if (!std::strcmp(name, level_names[i])) return i;
  return -1;
}

}  // namespace audiogen

EXPORTED const char* audiogen_level() { return audiogen::level_names[int(audiogen::level())]; }

EXPORTED int audiogen_supports(const char* name) {
  int found = audiogen::named(name);
  return found >= 0 && audiogen::supports(audiogen::Level(found));
}

EXPORTED int audiogen_set_level(const char* name) {
  if (!audiogen_supports(name)) return 0;
  audiogen::chosen.store(audiogen::named(name));
  return 1;
}
