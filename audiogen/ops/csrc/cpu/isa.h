// Which instructions this CPU has, asked once, at run time. Kernels come as one table of functions per level, each from
// the same source (name.isa.cpp) compiled with other flags; `choose` picks the table.
#pragma once

#include <cstring>

namespace audiogen {

enum class Level { portable = 0, avx2 = 1, avx512 = 2 };
constexpr const char* level_names[] = {"portable", "avx2", "avx512"};

inline bool supports(Level level) {
#ifdef AUDIOGEN_X86
  __builtin_cpu_init();
  switch (level) {
    case Level::avx512:
#ifdef AUDIOGEN_EMULATION
      return supports(Level::avx2);
#endif
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && supports(Level::avx2);
    case Level::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // all such CPUs also have f16c
    default:
      return true;
  }
#else
  return level == Level::portable;
#endif
}

inline Level best_level() {
  return supports(Level::avx512) ? Level::avx512 : supports(Level::avx2) ? Level::avx2 : Level::portable;
}

Level level();  // the one in use: the best, unless a test has asked for another

// The entry of a table (portable, avx2, avx512) that is in use. On other CPUs than x86 there is only the first.
#ifdef AUDIOGEN_X86
#define AUDIOGEN_CHOOSE(function)                                                    \
  (::audiogen::level() == ::audiogen::Level::avx512  ? ::audiogen::avx512::function  \
   : ::audiogen::level() == ::audiogen::Level::avx2 ? ::audiogen::avx2::function    \
                                                     : ::audiogen::portable::function)
#else
#define AUDIOGEN_CHOOSE(function) ::audiogen::portable::function
#endif

// Declares `function` in every namespace that AUDIOGEN_CHOOSE looks into.
#ifdef AUDIOGEN_X86
#define AUDIOGEN_EACH_LEVEL(declaration) \
  namespace portable { declaration }     \
  namespace avx2 { declaration }         \
  namespace avx512 { declaration }
#else
#define AUDIOGEN_EACH_LEVEL(declaration) \
  namespace portable { declaration }
#endif

}  // namespace audiogen
