// Small matrix products for tiles of steps: weights in panels that stay in the first cache, sums in registers.
//
// A panel holds K x columns numbers as blocks of vectors_across vectors, each block K rows of that width one after the
// other (the last block may be narrower; columns are padded to whole vectors with zeros). A block of 192 x 16 float is
// 12 KB; it is read once per 6 steps from the first cache, and the steps go by once per block, from the second. Per 12
// fused multiply-adds there are 2 vector loads and 6 broadcasts: the multipliers are what bounds it.
#pragma once

#include "simd.h"

namespace audiogen::AUDIOGEN_ISA {

template <int n>
struct Count {
  static constexpr int value = n;
};

template <class Real>
constexpr long padded(long columns) {
  constexpr long width = Simd<Real>::width;
  return (columns + width - 1) / width * width;
}

// work(Count<vectors>, first column) for every block of a panel.
template <class Real, class Work>
INLINE void for_blocks(long columns, Work work) {
  constexpr long width = Simd<Real>::width, block = width * vectors_across;
  long column = 0, stop = padded<Real>(columns);
  for (; column + block <= stop; column += block) work(Count<vectors_across>(), column);
  if constexpr (vectors_across == 4) {
    if (column + 3 * width == stop) return work(Count<3>(), column);
    if (column + 2 * width == stop) return work(Count<2>(), column);
  }
  if (column < stop) work(Count<1>(), column);
}

// panel <- value(k, column). Its size is K * padded(columns).
template <class Real, class Value>
void pack(Real* panel, long K, long columns, Value value) {
  for_blocks<Real>(columns, [&](auto count, long first) {
    constexpr long across = decltype(count)::value * Simd<Real>::width;
    for (long k = 0; k < K; ++k)
      for (long j = 0; j < across; ++j)
        panel[first * K + k * across + j] = first + j < columns ? value(k, first + j) : Real(0);
  });
}

// sums[m][n] += sum over k of a[m * down + k * along] * b[k * pitch + n * width ..]
template <class Real, int M, int N>
INLINE void multiply(typename Simd<Real>::Vector (&sums)[M][N], const Real* a, long down, long along, const Real* b,
                     long pitch, long K) {
  typedef Simd<Real> S;
#pragma GCC unroll 2
  for (long k = 0; k < K; ++k) {
    typename S::Vector weights[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) weights[n] = S::load(b + k * pitch + n * S::width);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[m][n] += a[m * down + k * along] * weights[n];
  }
}

// What the taps of a dilated convolution read for a tile of steps: K matrices (steps, channels), `pitch` apart by step.
template <class Real>
struct Taps {
  const Real* base[3];
  long pitch;
};

// Where tap k reads: t + reach(k).
struct Reach {
  long first, dilation;
  INLINE long operator()(long tap) const { return first + tap * dilation; }
};

// Numbers that a window needs for a tile: the taps share one where they overlap.
inline long window_rows(long kernel, long dilation, long steps) {
  return dilation < steps ? steps + (kernel - 1) * dilation : kernel * steps;
}

// Reads view + shift, zeros outside [0, time), into `window` (window_rows x channels and 8 numbers to spare).
// `steps` is what the tile is long, of which those from `time` on are zeros too.
template <class Real>
Taps<Real> read_window(Real* window, const View& view, const Real* shift, long batch, long start, long steps, long time,
                       long channels, long kernel, Reach reach) {
  Taps<Real> taps{{}, channels};
  auto fill = [&](Real* to, long first, long count) {  // rows first .. first + count of the signal
    long before = first < 0 ? (-first < count ? -first : count) : 0;
    long stop = first + count > time ? (time - first > before ? time - first : before) : count;
    memset(to, 0, before * channels * sizeof(Real));
    read_tile(to + before * channels, channels, view, batch, first + before, stop - before, channels);
    if (shift)
      for (long t = before; t < stop; ++t)
        for (long c = 0; c < channels; ++c) to[t * channels + c] += shift[c];
    memset(to + stop * channels, 0, (count - stop) * channels * sizeof(Real));
  };
  long dilation = reach.dilation;
  if (dilation < steps) {
    fill(window, start + reach(0), steps + (kernel - 1) * dilation);
    for (long k = 0; k < kernel; ++k) taps.base[k] = window + k * dilation * channels;
  } else {
    for (long k = 0; k < kernel; ++k) {
      fill(window + k * steps * channels, start + reach(k), steps);
      taps.base[k] = window + k * steps * channels;
    }
  }
  return taps;
}

}  // namespace audiogen::AUDIOGEN_ISA
