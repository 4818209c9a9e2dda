// The AVX-512 instructions that kernels name, in plain C++, for CPUs without them: AUDIOGEN_EMULATE=avx512 (build.py).
// Vectors of 64 bytes need nothing of the kind: the compiler makes them of what there is. Written from the operations'
// definitions in Intel's manual, one lane after the other; only for tests, since nothing of it is fast.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace audiogen::AUDIOGEN_ISA {

template <class Lane>
struct Lanes {
  Lane lane[64 / sizeof(Lane)];
  static inline Lanes of(__m512i from) {
    Lanes lanes;
    memcpy(&lanes, &from, 64);
    return lanes;
  }
  inline __m512i whole() const {
    __m512i to;
    memcpy(&to, this, 64);
    return to;
  }
};

template <class Lane>
inline __m512i spread(Lane value) {
  Lanes<Lane> to;
  for (Lane& lane : to.lane) lane = value;
  return to.whole();
}

inline __m512i load_512(const void* from) {
  __m512i to;
  memcpy(&to, from, 64);
  return to;
}

inline uint64_t signs_8(__m512i a) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) mask |= uint64_t(Lanes<int8_t>::of(a).lane[i] < 0) << i;
  return mask;
}

inline __m512i masked_minus_8(__m512i otherwise, uint64_t mask, __m512i a, __m512i b) {
  Lanes<int8_t> to = Lanes<int8_t>::of(otherwise), x = Lanes<int8_t>::of(a), y = Lanes<int8_t>::of(b);
  for (int i = 0; i < 64; ++i)
    if (mask >> i & 1) to.lane[i] = int8_t(x.lane[i] - y.lane[i]);
  return to.whole();
}

inline __m512i pairs_u8_i8(__m512i a, __m512i b) {  // saturates
  const Lanes<uint8_t> x = Lanes<uint8_t>::of(a);
  const Lanes<int8_t> y = Lanes<int8_t>::of(b);
  Lanes<int16_t> to;
  for (int i = 0; i < 32; ++i) {
    const int sum = x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1];
    to.lane[i] = int16_t(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
  }
  return to.whole();
}

inline __m512i pairs_i16(__m512i a, __m512i b) {
  const Lanes<int16_t> x = Lanes<int16_t>::of(a), y = Lanes<int16_t>::of(b);
  Lanes<int32_t> to;
  for (int i = 0; i < 16; ++i) to.lane[i] = x.lane[2 * i] * y.lane[2 * i] + x.lane[2 * i + 1] * y.lane[2 * i + 1];
  return to.whole();
}

inline __m512i plus_32(__m512i a, __m512i b) {
  const Lanes<int32_t> x = Lanes<int32_t>::of(a), y = Lanes<int32_t>::of(b);
  Lanes<int32_t> to;
  for (int i = 0; i < 16; ++i) to.lane[i] = int32_t(uint32_t(x.lane[i]) + uint32_t(y.lane[i]));
  return to.whole();
}

inline __m512i quads_u8_i8(__m512i sum, __m512i a, __m512i b) {  // VNNI
  const Lanes<uint8_t> x = Lanes<uint8_t>::of(a);
  const Lanes<int8_t> y = Lanes<int8_t>::of(b);
  Lanes<int32_t> to = Lanes<int32_t>::of(sum);
  for (int i = 0; i < 64; ++i) to.lane[i / 4] += x.lane[i] * y.lane[i];
  return to.whole();
}

inline __m128i narrow_32_to_8(__m512i a) {  // keeps the low bits
  const Lanes<int32_t> x = Lanes<int32_t>::of(a);
  int8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = int8_t(x.lane[i]);
  __m128i to;
  memcpy(&to, bytes, 16);
  return to;
}

inline float largest_of(__m512 a) {
  float lanes[16], most;
  memcpy(lanes, &a, 64);
  most = lanes[0];
  for (float lane : lanes) most = lane > most ? lane : most;
  return most;
}

}  // namespace audiogen::AUDIOGEN_ISA

#define _mm512_loadu_si512 load_512
#define _mm512_set1_epi32(value) spread<int32_t>(value)
#define _mm512_set1_epi16(value) spread<int16_t>(value)
#define _mm512_setzero_si512() spread<int32_t>(0)
#define _mm512_movepi8_mask signs_8
#define _mm512_mask_sub_epi8 masked_minus_8
#define _mm512_maddubs_epi16 pairs_u8_i8
#define _mm512_madd_epi16 pairs_i16
#define _mm512_add_epi32 plus_32
#define _mm512_dpbusd_epi32 quads_u8_i8
#define _mm512_maskz_cvtepi32_epi8(mask, value) narrow_32_to_8(value)
#define _mm512_reduce_max_ps largest_of
