// Small matrix products for tiles of steps: weights in panels that stay in the first cache, sums in registers.
//
// A panel holds K x columns numbers as blocks of vectors_across vectors, each block K rows of that width one after the
// other (the last block may be narrower; columns are padded to whole vectors with zeros). A block of 192 x 16 float is
// 12 KB; it is read once per 6 steps from the first cache, and the steps go by once per block, from the second. Per 12
// fused multiply-adds there are 2 vector loads and 6 broadcasts: the multipliers are what bounds it.
#pragma once

#include "simd.h"

namespace audiogen::AUDIOGEN_ISA {

INLINE long up(long number, long unit) { return (number + unit - 1) / unit * unit; }

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
      for (int n = 0; n < N; ++n) sums[m][n] = S::fma(a[m * down + k * along], weights[n], sums[m][n]);
  }
}

constexpr int most_taps = 16;

// What the taps of a dilated convolution read for a tile of steps: K matrices (steps, channels), `pitch` apart by step.
template <class Real>
struct Taps {
  const Real* base[most_taps];
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

// Where the whole window of a tile lies inside x and needs no change, it is read in place.
template <class Real>
INLINE bool in_place(const View& view, const Real* shift, long first, long last, long time) {
  const bool same = view.type == (sizeof(Real) == 8 ? Type::f64 : Type::f32);
  return same && view.channel == 1 && !shift && first >= 0 && last <= time;
}

// result[step * pitch + column] = bias[column] + sum over taps and k of taps[step, k] * panel[tap * inner + k, column] for
// `rows` steps, whole groups of steps_down; blocks that lie before column `from` are left out.
template <class Real>
void convolve(Real* result, long pitch, const Taps<Real>& taps, long kernel, long inner, const Real* panel, long columns,
              long from, const Real* bias, long rows) {
  typedef Simd<Real> S;
  for_blocks<Real>(columns, [&](auto count, long column) {
    constexpr int N = decltype(count)::value;
    if (column + N * S::width <= from) return;
    const Real* block = panel + column * kernel * inner;
    for (long m = 0; m < rows; m += steps_down) {
      typename S::Vector sums[steps_down][N];
#pragma GCC unroll 6
      for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[row][n] = bias ? S::load(bias + column + n * S::width) : (typename S::Vector){};
      for (long tap = 0; tap < kernel; ++tap)
        multiply<Real, steps_down, N>(sums, taps.base[tap] + m * taps.pitch, taps.pitch, 1,
                                      block + tap * inner * N * S::width, N * S::width, inner);
#pragma GCC unroll 6
      for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) S::store(result + (m + row) * pitch + column + n * S::width, sums[row][n]);
    }
  });
}

// target[m * pitch + column] += sum over steps of a[step * a_pitch + m] * b[step * b_pitch + column]: a weight gradient.
// Rows are computed in whole groups, so `target` has room for them, and a's numbers after the last row are read.
template <class Real>
void add_products(Real* target, long rows, long columns, const Real* a, long a_pitch, const Real* b, long b_pitch,
                         long steps) {
  typedef Simd<Real> S;
  for_blocks<Real>(columns, [&](auto count, long column) {
    constexpr int N = decltype(count)::value;
    for (long m = 0; m < rows; m += steps_down) {
      typename S::Vector sums[steps_down][N] = {};
      multiply<Real, steps_down, N>(sums, a + m, 1, a_pitch, b + column, b_pitch, steps);
      Real* to = target + m * padded<Real>(columns) + column;
#pragma GCC unroll 6
      for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          Real* place = to + row * padded<Real>(columns) + n * S::width;
          S::store(place, S::load(place) + sums[row][n]);
        }
    }
  });
}

template <class Real>
void add_rows(Real* __restrict target, const Real* rows, long pitch, long columns, long steps) {
  for (long t = 0; t < steps; ++t)
    for (long c = 0; c < columns; ++c) target[c] += rows[t * pitch + c];
}

}  // namespace audiogen::AUDIOGEN_ISA
