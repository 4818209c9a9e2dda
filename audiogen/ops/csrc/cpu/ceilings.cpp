// See ceilings.isa.cpp; called from benchmarks/kernels.py.
#include "ceilings.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED double audiogen_multiply_adds(long rounds) { return AUDIOGEN_CHOOSE(multiply_adds)(rounds); }

EXPORTED float audiogen_read_numbers(const float* numbers, long n, long times) {
  return AUDIOGEN_CHOOSE(read_numbers)(numbers, n, times);
}
