// Snake without aliasing, forward and backward: see audiogen/ops/anti_aliased_snake.py for what it computes.
//
// Layout: tiles of 160 steps of up to 64 channels, a channel a lane, so that filters are sums of whole rows. x comes once
// and y goes once; u and v, twice as long, stay in the second cache. Per number: 12 + 12 multiply-adds of the two
// filters of 12 taps and two sines of 12 operations each, against 8 bytes: the arithmetic bounds it.
// Backward: both filters again with their strides exchanged, sine and cosine, and u once more: about twice a forward.
#include "anti_aliased_snake.h"

#include "tile.h"

namespace audiogen::AUDIOGEN_ISA {

// Sine and cosine, up to a common sign: both uses, s² and s c, do not see it.
template <class Vector>
struct Wave {
  Vector sine, cosine;
};

// z less a multiple of pi, then Taylor's series to z^12 on [-pi / 2, pi / 2]: errors below 2e-7.
INLINE Wave<Simd<float>::Vector> wave(Simd<float>::Vector z) {
  typedef Simd<float>::Vector Vector;
  const auto far = (z > 20000.0f) | (z < -20000.0f);  // the multiple of pi would not be exact
  uint64_t words[vector_bytes / 8], any = 0;
  memcpy(words, &far, sizeof words);
  for (uint64_t word : words) any |= word;
  if (__builtin_expect(any != 0, 0)) {
    Wave<Vector> w;
    for (int i = 0; i < Simd<float>::width; ++i) w.sine[i] = __builtin_sinf(z[i]), w.cosine[i] = __builtin_cosf(z[i]);
    return w;
  }
  const float magic = 12582912.0f;
  typedef Simd<float> S;
  const Vector turns = S::fma(z, 0.318309886f, magic) - magic;
  z = S::fma(turns, -3.140625f, z);  // pi in three parts, short enough for exact products
  z = S::fma(turns, -9.675025939941406e-4f, z);
  z = S::fma(turns, -1.5099580252808664e-7f, z);
  const Vector q = z * z;
  Vector s = S::fma(q, -2.50521084e-8f, 2.75573192e-6f);
  s = S::fma(s, q, -1.98412698e-4f);
  s = S::fma(s, q, 8.33333333e-3f);
  s = S::fma(s, q, -1.66666667e-1f);
  s = S::fma(s * q, z, z);
  Vector c = S::fma(q, 2.08767570e-9f, -2.75573192e-7f);
  c = S::fma(c, q, 2.48015873e-5f);
  c = S::fma(c, q, -1.38888889e-3f);
  c = S::fma(c, q, 4.16666667e-2f);
  c = S::fma(c, q, -0.5f);
  c = S::fma(c, q, 1.0f);
  return {s, c};
}

INLINE Wave<Simd<double>::Vector> wave(Simd<double>::Vector z) {
  Wave<Simd<double>::Vector> w;
  for (int i = 0; i < Simd<double>::width; ++i) w.sine[i] = __builtin_sin(z[i]), w.cosine[i] = __builtin_cos(z[i]);
  return w;
}

static INLINE long half_down(long number) { return number >= 0 ? number / 2 : -((1 - number) / 2); }

// to[n] = sum over m of taps[n + K/2 - 1 - 2m] * from[m] for n = 2m' - K/2 + 1 and the n after it, m' = first .. last.
// `to` is the row of the first n; `from` is the row of m = first - K/2 + 1.
template <class Real>
static void expand(Real* to, const Real* from, const Real* taps, long K, long first, long last, long pitch) {
  typedef Simd<Real> S;
  constexpr int many = 4;
  const long half = K / 2, rows = last - first + 1;
  for (long c = 0; c < pitch; c += S::width) {
    const auto some = [&](auto count, long row) {
      constexpr int N = decltype(count)::value;
      typename S::Vector even[N] = {}, odd[N] = {};
      for (long i = 0; i < half; ++i) {
        const Real a = taps[2 * i], b = taps[2 * i + 1];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const auto read = S::load(from + (row + n + half - 1 - i) * pitch + c);
          even[n] = S::fma(a, read, even[n]), odd[n] = S::fma(b, read, odd[n]);
        }
      }
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        S::store(to + 2 * (row + n) * pitch + c, even[n]);
        S::store(to + (2 * (row + n) + 1) * pitch + c, odd[n]);
      }
    };
    long row = 0;
    for (; row + many <= rows; row += many) some(Count<many>(), row);
    for (; row < rows; ++row) some(Count<1>(), row);
  }
}

// to[t] = sum over j of taps[j] * from[2t + j] for `rows` rows.
template <class Real>
static void contract(Real* to, const Real* from, const Real* taps, long K, long rows, long pitch) {
  typedef Simd<Real> S;
  constexpr int many = 4;
  for (long c = 0; c < pitch; c += S::width) {
    const auto some = [&](auto count, long row) {
      constexpr int N = decltype(count)::value;
      typename S::Vector sums[N] = {};
      for (long j = 0; j < K; ++j) {
        const Real tap = taps[j];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sums[n] = S::fma(tap, S::load(from + (2 * (row + n) + j) * pitch + c), sums[n]);
      }
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) S::store(to + (row + n) * pitch + c, sums[n]);
    };
    long row = 0;
    for (; row + many <= rows; row += many) some(Count<many>(), row);
    for (; row < rows; ++row) some(Count<1>(), row);
  }
}

// The same view from another channel on.
static View from_channel(View view, long channel) {
  const long bytes = view.type == Type::f64 ? 8 : view.type == Type::f32 ? 4 : 2;
  view.data = (char*)view.data + channel * view.channel * bytes;
  return view;
}

// Rows first .. last of `view`, beyond its ends the end rows (or zeros).
template <class Real>
static void read_rows(Real* to, const View& view, long item, long first, long last, long time, long channels, long pitch,
                      bool zeros) {
  const long low = first < 0 ? (last < 0 ? last + 1 : 0) : first < time ? first : time;
  const long high = last < time ? last : time - 1;
  memset(to, 0, (last - first + 1) * pitch * sizeof(Real));
  if (high >= low) read_tile(to + (low - first) * pitch, pitch, view, item, low, high - low + 1, channels);
  if (zeros) return;
  for (long m = first; m <= last; ++m)
    if (m < 0 || m >= time)  // such rows are few
      read_tile(to + (m - first) * pitch, pitch, view, item, m < 0 ? 0 : time - 1, 1, channels);
}

template <class Real>
static long scratch_of(const Snake<Real>& p, bool backward) {
  const long pitch = padded<Real>(p.channels < snake_block ? p.channels : snake_block);
  const long reach = p.up_taps + p.down_taps + 8, rows = p.steps + 2 * reach;
  return pitch * rows * (backward ? 7 : 4);
}

template <class Real>
static void forward(const Snake<Real>& p, long begin, long end, Real* scratch) {
  typedef Simd<Real> S;
  const long up = p.up_taps / 2, down = p.down_taps / 2, last_n = 2 * p.time - 1;
  for (long tile = begin; tile < end; ++tile) {
    const long start = tile % p.tiles * p.steps, stop = start + p.steps < p.time ? start + p.steps : p.time;
    const long block = tile / p.tiles % p.blocks, item = tile / (p.tiles * p.blocks), channel = block * snake_block;
    const long channels = p.channels - channel < snake_block ? p.channels - channel : snake_block;
    const long pitch = padded<Real>(channels);
    const long want = 2 * start - down + 1, until = 2 * (stop - 1) + down;  // of v, before clamping
    const long low = want > 0 ? want : 0, high = until < last_n ? until : last_n;
    const long first = half_down(low + up - 1), last = half_down(high + up - 1);
    const long begin_n = 2 * first - up + 1;  // low, or one before it
    Real* window = scratch;
    Real* v = window + (last - first + 2 * up) * pitch;
    const long base = want < begin_n ? want : begin_n;
    read_rows(window, from_channel(p.x, channel), item, first - up + 1, last, p.time, channels, pitch, false);
    expand(v + (begin_n - base) * pitch, window, p.up, p.up_taps, first, last, pitch);
    for (long c = 0; c < pitch; c += S::width) {
      const auto alpha = S::load(p.alpha + channel + c), inverse = S::load(p.inverse_beta + channel + c);
      for (long n = low; n <= high; ++n) {
        Real* at = v + (n - base) * pitch + c;
        const auto u = S::load(at), sine = wave(alpha * u).sine;
        S::store(at, S::fma(inverse, sine * sine, u));
      }
    }
    for (long n = want; n < low; ++n) memcpy(v + (n - base) * pitch, v + (low - base) * pitch, pitch * sizeof(Real));
    for (long n = high + 1; n <= until; ++n)
      memcpy(v + (n - base) * pitch, v + (high - base) * pitch, pitch * sizeof(Real));
    Real* y = v + (2 * p.steps + 2 * down + 4) * pitch;
    contract(y, v + (want - base) * pitch, p.down, p.down_taps, stop - start, pitch);
    write_tile(y, pitch, from_channel(p.y, channel), item, start, stop - start, channels);
  }
}

// Adds the rows before `first` to it, and those after `last` to that: what reached the continuation belongs to the ends.
template <class Real>
static void fold(Real* rows, long base, long from, long first, long last, long to, long pitch) {
  for (long n = from; n < first; ++n)
    for (long c = 0; c < pitch; ++c) rows[(first - base) * pitch + c] += rows[(n - base) * pitch + c];
  for (long n = last + 1; n <= to; ++n)
    for (long c = 0; c < pitch; ++c) rows[(last - base) * pitch + c] += rows[(n - base) * pitch + c];
}

template <class Real>
static void backward(const Snake<Real>& p, long begin, long end, Real* scratch, Real* of_alpha, Real* of_inverse) {
  typedef Simd<Real> S;
  const long up = p.up_taps / 2, down = p.down_taps / 2, last_n = 2 * p.time - 1;
  for (long tile = begin; tile < end; ++tile) {
    const long start = tile % p.tiles * p.steps, stop = start + p.steps < p.time ? start + p.steps : p.time;
    const long block = tile / p.tiles % p.blocks, item = tile / (p.tiles * p.blocks), channel = block * snake_block;
    const long channels = p.channels - channel < snake_block ? p.channels - channel : snake_block;
    const long pitch = padded<Real>(channels);
    // Steps of x, with those beyond its ends that a filter reads; then of u what they are read by.
    const long first_m = start == 0 ? 1 - up : start, last_m = stop == p.time ? p.time + up - 2 : stop - 1;
    const long want = 2 * first_m - up + 1, until = 2 * last_m + up;
    const long low = want > 0 ? want : 0, high = until < last_n ? until : last_n;
    // u again.
    const long u_first = half_down(low + up - 1), u_last = half_down(high + up - 1), u_base = 2 * u_first - up + 1;
    Real* window = scratch;
    Real* u = window + (p.steps + 2 * (p.up_taps + p.down_taps) + 8) * pitch;
    Real* of_v = u + 2 * (p.steps + 2 * p.up_taps + 4) * pitch;
    read_rows(window, from_channel(p.x, channel), item, u_first - up + 1, u_last, p.time, channels, pitch, false);
    expand(u, window, p.up, p.up_taps, u_first, u_last, pitch);
    // The gradient of v, at the ends with what was read beyond them.
    const long from = low == 0 ? 1 - down : low, to = high == last_n ? last_n + down : high;
    const long v_first = half_down(from + down - 1), v_last = half_down(to + down - 1);
    const long v_begin = 2 * v_first - down + 1, base = want < v_begin ? want : v_begin;
    read_rows(window, from_channel(p.grad, channel), item, v_first - down + 1, v_last, p.time, channels, pitch, true);
    expand(of_v + (v_begin - base) * pitch, window, p.down, p.down_taps, v_first, v_last, pitch);
    fold(of_v, base, from, low, high, to, pitch);
    for (long c = 0; c < pitch; c += S::width) {
      const auto alpha = S::load(p.alpha + channel + c), inverse = S::load(p.inverse_beta + channel + c);
      auto sum_a = S::load(of_alpha + channel + c), sum_b = S::load(of_inverse + channel + c);
      for (long n = low; n <= high; ++n) {
        Real* at = of_v + (n - base) * pitch + c;
        const auto value = S::load(u + (n - u_base) * pitch + c), grad = S::load(at);
        const auto w = wave(alpha * value);
        const auto slope = inverse * (w.sine * w.cosine) * Real(2);
        if (n >= 2 * start && n < 2 * stop) {
          sum_a = S::fma(grad * value, slope, sum_a);
          sum_b = S::fma(grad, w.sine * w.sine, sum_b);
        }
        S::store(at, grad * S::fma(alpha, slope, Real(1)));
      }
      S::store(of_alpha + channel + c, sum_a);
      S::store(of_inverse + channel + c, sum_b);
    }
    for (long n = want; n < low; ++n) memset(of_v + (n - base) * pitch, 0, pitch * sizeof(Real));
    for (long n = high + 1; n <= until; ++n) memset(of_v + (n - base) * pitch, 0, pitch * sizeof(Real));
    Real* of_x = window;
    contract(of_x, of_v + (want - base) * pitch, p.up, p.up_taps, last_m - first_m + 1, pitch);
    fold(of_x, first_m, first_m, start, stop - 1, last_m, pitch);
    write_tile(of_x + (start - first_m) * pitch, pitch, from_channel(p.grad_x, channel), item, start, stop - start,
               channels);
  }
}

#define AUDIOGEN_DEFINE(Real)                                                                                        \
  long snake_scratch(const Snake<Real>& p, bool backward) { return scratch_of(p, backward); }                        \
  void snake_forward(const Snake<Real>& p, long begin, long end, Real* scratch) { forward(p, begin, end, scratch); } \
  void snake_backward(const Snake<Real>& p, long begin, long end, Real* scratch, Real* of_alpha, Real* of_inverse) { \
    backward(p, begin, end, scratch, of_alpha, of_inverse);                                                          \
  }

AUDIOGEN_DEFINE(float)
#if !defined(__AVX2__)
AUDIOGEN_DEFINE(double)
#endif

}  // namespace audiogen::AUDIOGEN_ISA
