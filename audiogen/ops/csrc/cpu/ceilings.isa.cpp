// What this core can do at most, for benchmarks to compare with: multiply-adds in registers, and reading memory.
#include "ceilings.h"

#include "simd.h"

namespace audiogen::AUDIOGEN_ISA {

// -> floating-point operations done. 12 independent sums hide the latency of a multiply-add on any recent core.
double multiply_adds(long rounds) {
  typedef Simd<float> S;
  S::Vector sums[12], factor = S::all(0.999f), term = S::all(0.001f);
  for (int i = 0; i < 12; ++i) sums[i] = S::all(float(i));
  for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = S::fma(sums[i], factor, term);
  for (int i = 1; i < 12; ++i) sums[0] += sums[i];
  volatile float kept = sums[0][0];
  (void)kept;
  return 2.0 * 12 * S::width * double(rounds);
}

// The sum of n numbers, n a multiple of 128, read `times` times.
float read_numbers(const float* numbers, long n, long times) {
  typedef Simd<float> S;
  S::Vector sums[8] = {};
  for (; times > 0; --times)
    for (long i = 0; i < n; i += 8 * S::width)
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) sums[j] += S::load(numbers + i + j * S::width);
  for (int j = 1; j < 8; ++j) sums[0] += sums[j];
  return sums[0][0];
}

}  // namespace audiogen::AUDIOGEN_ISA
