// Vectors of W numbers in the compiler's own vector extension (GCC and clang): one source for SSE, AVX2, AVX-512, NEON.
// Only for *.isa.cpp: everything is in the namespace of the level that it is compiled for.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__F16C__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) || defined(AUDIOGEN_EMULATION)
#define AUDIOGEN_AVX512
#endif
#if defined(AUDIOGEN_EMULATION)
#include "emulated.h"
#endif

#include "views.h"

#define INLINE inline __attribute__((always_inline))

namespace audiogen::AUDIOGEN_ISA {

#if defined(AUDIOGEN_AVX512)
constexpr int vector_bytes = 64;
constexpr int vectors_across = 4;  // 6 x 4 sums + 4 weights of 32 registers
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int vectors_across = 2;  // 6 x 2 sums + 2 weights + 1 number of 16 registers
#else
constexpr int vector_bytes = 16;
constexpr int vectors_across = 2;
#endif
constexpr int steps_down = 6;

// a * b + c, rounded once where the CPU has such an instruction, else twice, and the same everywhere: left to itself
// (-ffp-contract=fast) a compiler fuses some copies of a loop's body and not others, and results came to depend on the
// place of a step in its tile. So it is told to fuse nothing, and what is to be fused says so.
typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef double Doubles __attribute__((vector_size(vector_bytes)));

INLINE Floats fused(Floats a, Floats b, Floats c) {
#if defined(AUDIOGEN_EMULATION) && defined(AUDIOGEN_AVX512)
  __m256 halves[3][2];
  memcpy(halves[0], &a, 64), memcpy(halves[1], &b, 64), memcpy(halves[2], &c, 64);
  for (int half = 0; half < 2; ++half)
    halves[2][half] = _mm256_fmadd_ps(halves[0][half], halves[1][half], halves[2][half]);
  memcpy(&c, halves[2], 64);
  return c;
#elif defined(AUDIOGEN_AVX512)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
  for (int i = 0; i < vector_bytes / 4; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);  // becomes one instruction
  return c;
#else
  return a * b + c;
#endif
}

INLINE Doubles fused(Doubles a, Doubles b, Doubles c) { return a * b + c; }

INLINE Floats in_all(Floats value) { return value; }
INLINE Floats in_all(float value) { return value - (Floats){}; }
INLINE Doubles in_all(Doubles value) { return value; }
INLINE Doubles in_all(double value) { return value - (Doubles){}; }

template <class Real>
struct Simd {
  static constexpr int width = vector_bytes / sizeof(Real);
  typedef Real Vector __attribute__((vector_size(vector_bytes)));
  typedef Real Loose __attribute__((vector_size(vector_bytes), aligned(sizeof(Real)), may_alias));

  static INLINE Vector load(const Real* from) { return *(const Loose*)from; }
  static INLINE void store(Real* to, Vector value) { *(Loose*)to = value; }
  static INLINE Vector all(Real value) { return value - (Vector){}; }

  // a * b + c as `fused`; each a vector, or a number for all its places.
  template <class A, class B, class C>
  static INLINE Vector fma(A a, B b, C c) {
    return fused(in_all(a), in_all(b), in_all(c));
  }
};

// e^x. float: Cephes' polynomial after taking out powers of 2, relative error below 2e-7; x must lie in [-87, 88].
// NaN stays NaN.
INLINE Simd<float>::Vector exponential(Simd<float>::Vector x) {
  typedef Simd<float>::Vector Vector;
  typedef int32_t Whole __attribute__((vector_size(vector_bytes)));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, which then is in the low bits
  typedef Simd<float> S;
  Vector shifted = S::fma(x, 1.44269504f, magic);
  Vector whole = shifted - magic;
  x = S::fma(whole, -0.693359375f, x);
  x = S::fma(whole, 2.12194440e-4f, x);
  Vector p = S::all(1.9875691500e-4f);
  p = S::fma(p, x, 1.3981999507e-3f);
  p = S::fma(p, x, 8.3334519073e-3f);
  p = S::fma(p, x, 4.1665795894e-2f);
  p = S::fma(p, x, 1.6666665459e-1f);
  p = S::fma(p, x, 5.0000001201e-1f);
  p = S::fma(p, x * x, x) + 1.0f;
  Whole power;
  memcpy(&power, &shifted, sizeof power);
  power = (power << 23) + 0x3f800000;
  Vector scale;
  memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

INLINE Simd<double>::Vector exponential(Simd<double>::Vector x) {
  for (int i = 0; i < Simd<double>::width; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// x <- 2^x, for M vectors in [-126, 126]; NaN stays NaN. float: a polynomial of least relative error, 8e-8, on
// [-1/2, 1/2]; whole powers go into the exponent. Each operation is done for all M before the next one: one vector after
// the other would wait for its own results, and a core does not look far enough ahead to begin with the next.
template <int M>
INLINE void powers_of_2(Simd<float>::Vector (&x)[M]) {
  typedef int32_t Whole __attribute__((vector_size(vector_bytes)));
  const float magic = 12582912.0f, factors[] = {9.6755415963e-3f, 5.5507132790e-2f, 2.4022119719e-1f, 6.9314696706e-1f,
                                                1.0000000717f};
  Simd<float>::Vector shifted[M], p[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) shifted[m] = x[m] + magic;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) x[m] = x[m] - (shifted[m] - magic);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) p[m] = Simd<float>::all(1.3276470966e-3f);
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i)
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) p[m] = Simd<float>::fma(p[m], x[m], factors[i]);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    Whole power, bits;
    memcpy(&power, &shifted[m], sizeof power);
    memcpy(&bits, &p[m], sizeof bits);
    bits += power << 23;
    memcpy(&x[m], &bits, sizeof bits);
  }
}

template <int M>
INLINE void powers_of_2(Simd<double>::Vector (&x)[M]) {
  for (int m = 0; m < M; ++m)
    for (int i = 0; i < Simd<double>::width; ++i) x[m][i] = __builtin_exp2(x[m][i]);
}

template <class Vector, class Real>
INLINE Vector clamp(Vector x, Real bound) {  // to [-bound, bound]; NaN stays
#if defined(__AVX2__) && !defined(AUDIOGEN_AVX512)  // the compiler does not see that these are one instruction each
  if constexpr (sizeof(Real) == 4)
    return (Vector)_mm256_max_ps(_mm256_set1_ps(-bound), _mm256_min_ps(_mm256_set1_ps(bound), (__m256)x));
#endif
  Vector high = bound - (Vector){}, low = -high;  // both comparisons are false for NaN
  x = x > high ? high : x;
  return x < low ? low : x;
}

template <class Vector>
struct Gate {
  Vector tanh, sigmoid, product;  // what is not read is not computed
};

// Of M vectors, each with one division. Absolute errors in float below 3e-7: far out tanh is 1 and a sigmoid is 0 to within
// that.
template <class Real, int M>
INLINE void gates_of(typename Simd<Real>::Vector (&a)[M], typename Simd<Real>::Vector (&b)[M],
                     Gate<typename Simd<Real>::Vector> (&gate)[M]) {
  constexpr bool single = sizeof(Real) == 4;
  const Real log2_e = Real(1.4426950408889634);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) a[m] = clamp(a[m], Real(single ? 10 : 25)) * (-2 * log2_e);
  powers_of_2<M>(a);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) b[m] = clamp(b[m], Real(single ? 40 : 300)) * -log2_e;
  powers_of_2<M>(b);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const auto pa = a[m] + Real(1), pb = b[m] + Real(1), inverse = Real(1) / (pa * pb);
    gate[m] = {(Real(1) - a[m]) * pb * inverse, pa * inverse, (Real(1) - a[m]) * inverse};
  }
}

template <class Real>
INLINE Gate<typename Simd<Real>::Vector> gate(typename Simd<Real>::Vector a, typename Simd<Real>::Vector b) {
  typename Simd<Real>::Vector one[1] = {a}, other[1] = {b};
  Gate<typename Simd<Real>::Vector> both[1];
  gates_of<Real, 1>(one, other, both);
  return both[0];
}

INLINE float from_bf16(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

INLINE uint16_t to_bf16(float value) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__F16C__)
INLINE float from_f16(uint16_t bits) { return _cvtsh_ss(bits); }
INLINE uint16_t to_f16(float value) { return _cvtss_sh(value, 0); }
#else
INLINE float from_f16(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff, wide;
  float value;
  if (rest >= 0x7c00) {  // infinite or NaN
    wide = sign | 0x7f800000 | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    wide = sign | ((rest << 13) + (112u << 23));
  } else {  // subnormal: rest * 2^-24
    value = float(rest) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  memcpy(&value, &wide, 4);
  return value;
}
INLINE uint16_t to_f16(float value) {  // to the nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint32_t sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more
  if (rest < 0x38800000) {                                 // below 2^-14: subnormal
    float magnitude;
    memcpy(&magnitude, &rest, 4);
    magnitude += 0.5f;  // the sum's last bit is worth 2^-24
    memcpy(&rest, &magnitude, 4);
    return uint16_t(sign | (rest - 0x3f000000));
  }
  rest += 0xfff + ((rest >> 13) & 1);
  return uint16_t(sign | ((rest - (112u << 23)) >> 13));
}
#endif

template <Type type>
struct Number;  // what one number in memory is, and how it comes and goes
template <>
struct Number<Type::f32> {
  typedef float Stored;
  static INLINE float get(float x) { return x; }
  static INLINE float put(float x) { return x; }
};
template <>
struct Number<Type::f64> {
  typedef double Stored;
  static INLINE double get(double x) { return x; }
  static INLINE double put(double x) { return x; }
};
template <>
struct Number<Type::bf16> {
  typedef uint16_t Stored;
  static INLINE float get(uint16_t x) { return from_bf16(x); }
  static INLINE uint16_t put(float x) { return to_bf16(x); }
};
template <>
struct Number<Type::f16> {
  typedef uint16_t Stored;
  static INLINE float get(uint16_t x) { return from_f16(x); }
  static INLINE uint16_t put(float x) { return to_f16(x); }
};

// Does work.template operator()<type>() for the type that is only known at run time; Real double means f64.
template <class Real, class Work>
INLINE void for_type(Type type, Work work) {
  if constexpr (sizeof(Real) == 8) {
    work(Number<Type::f64>());
  } else {
    if (type == Type::f32) work(Number<Type::f32>());
    else if (type == Type::bf16) work(Number<Type::bf16>());
    else work(Number<Type::f16>());
  }
}

constexpr long strip = 16;  // steps that are transposed together, so that both sides stay in the first cache

// tile[step * pitch + channel] = view[batch, channel, start + step] for `steps` x `channels`.
template <class Real>
void read_tile(Real* tile, long pitch, const View& view, long batch, long start, long steps, long channels) {
  for_type<Real>(view.type, [&](auto number) {
    typedef typename decltype(number)::Stored Stored;
    const Stored* from = (const Stored*)view.data + batch * view.batch + start * view.step;
    if (view.channel == 1) {
      for (long t = 0; t < steps; ++t)
        for (long c = 0; c < channels; ++c) tile[t * pitch + c] = number.get(from[t * view.step + c]);
      return;
    }
    for (long first = 0; first < steps; first += strip) {
      long stop = first + strip < steps ? first + strip : steps;
      for (long c = 0; c < channels; ++c)
        for (long t = first; t < stop; ++t) tile[t * pitch + c] = number.get(from[t * view.step + c * view.channel]);
    }
  });
}

// The other way.
template <class Real>
void write_tile(const Real* tile, long pitch, const View& view, long batch, long start, long steps, long channels) {
  for_type<Real>(view.type, [&](auto number) {
    typedef typename decltype(number)::Stored Stored;
    Stored* to = (Stored*)view.data + batch * view.batch + start * view.step;
    if (view.channel == 1) {
      for (long t = 0; t < steps; ++t)
        for (long c = 0; c < channels; ++c) to[t * view.step + c] = number.put(tile[t * pitch + c]);
      return;
    }
    for (long first = 0; first < steps; first += strip) {
      long stop = first + strip < steps ? first + strip : steps;
      for (long c = 0; c < channels; ++c)
        for (long t = first; t < stop; ++t) to[t * view.step + c * view.channel] = number.put(tile[t * pitch + c]);
    }
  });
}

}  // namespace audiogen::AUDIOGEN_ISA
