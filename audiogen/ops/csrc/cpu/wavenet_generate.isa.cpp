// Autoregressive WaveNet, all steps of 1, 2 or 4 streams in one call: nothing is allocated, locked or looked up in here.
//
// A step is a chain of matrices times vectors, 2 * layers + 3 of them on the critical path. Every weight is read once a
// step and used once for each stream (20 layers of 64 channels, kernel 2, skip 128, output 256: 0.67 million), so for one
// stream the bound is bytes of weights over the bandwidth of the cache that they fit into: 2.7 MB in float32, 1.3 MB in
// bf16, 0.67 MB in int8. 4 streams share each load. A matrix is read in order, up to 64 rows at a time, whose sums stay in
// registers; one activation is spread over a vector and multiplied with a vector of rows.
//
//   float32  multiply-add.
//   bf16     a 32-bit load holds two columns of one row; shifted and masked they are two float32. Activations stay
//            float32, so this differs from float32 by the rounding of the weights alone.
//   int8     four columns of one row side by side. Sums are exact in int32, so all instruction sets agree in them:
//            AVX-512 VNNI adds 128 to the activations and takes it out again by the rows' sums; the others multiply |a| by
//            w with a's sign, whose pairs stay within 2 * 127 * 127 < 2^15 and so never saturate.
//
// Two threads may share some steps of a stream (crew.h): each makes half of the rows of each gate, of skip and of the two
// last layers, and all of the residual, so that they meet once a layer. Before a thread waits for the other, it does what
// depends on no newer sample: the older taps and the conditioning of the next layer, and the skip of the layer before.
#include "wavenet_generate.h"

#include "simd.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace audiogen::AUDIOGEN_ISA {
namespace {

typedef Simd<float> S;
typedef S::Vector Vector;
typedef int32_t Whole __attribute__((vector_size(vector_bytes)));
typedef int32_t LooseWhole __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
constexpr long width = S::width;
constexpr bool many_registers = vector_bytes == 64;
constexpr long group_rows = 64;

template <int n>
struct Count {
  static constexpr int value = n;
};

INLINE Vector as_float(Whole bits) {
  Vector value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE Whole load_whole(const void* from) { return *(const LooseWhole*)from; }

// What a matrix is multiplied with: the vectors of all streams, `pitch` apart. int8: as bytes.
struct Activation {
  const float* numbers;
  long pitch;
  const int8_t* bytes;      // a
  const uint8_t* unsigned_bytes;  // |a|, or with VNNI a + 128
  const float* steps;       // one per stream: a * step is the number
};

constexpr int stored_bytes(Precision precision) {
  return precision == Precision::f32 ? 4 : precision == Precision::bf16 ? 2 : 1;
}

// Weights come from the second cache or from beyond, in pieces too short for the hardware's own prefetching to get going,
// so each loop asks for what will be read `ahead` bytes later: beyond its own `end` that is the matrix which comes next.
struct Ahead {
  static constexpr long bytes = 4096;
  const unsigned char* end;
  long jump;  // from `end` to the next matrix

  template <int count>
  INLINE void fetch(const unsigned char* from) const {
    from += bytes;
    from += from >= end ? jump : 0;
    for (int line = 0; line < count; line += 64) __builtin_prefetch(from + line);
  }
};

// Sums over all columns of V vectors of rows for NS streams, added to `sum`. `rows` is the height of the group.
template <int V, int NS>
INLINE void accumulate(Count<int(Precision::f32)>, const unsigned char* from, long rows, long columns,
                       const Activation& a, const Ahead& ahead, Vector (&sum)[NS][V]) {
  const float* weights = (const float*)from;
  if constexpr (many_registers) {  // two sums each: 4 vectors of one stream alone would wait for each other
    Vector odd[NS][V] = {};
    for (long k = 0; k < columns; k += 2, weights += 2 * rows) {
      ahead.fetch<2 * V * vector_bytes>((const unsigned char*)weights);
      for (int v = 0; v < V; ++v) {
        Vector w0 = S::load(weights + v * width), w1 = S::load(weights + rows + v * width);
        for (int s = 0; s < NS; ++s) {
          sum[s][v] = S::fma(w0, a.numbers[s * a.pitch + k], sum[s][v]);
          odd[s][v] = S::fma(w1, a.numbers[s * a.pitch + k + 1], odd[s][v]);
        }
      }
    }
    for (int s = 0; s < NS; ++s)
      for (int v = 0; v < V; ++v) sum[s][v] += odd[s][v];
  } else {
    for (long k = 0; k < columns; ++k, weights += rows) {
      ahead.fetch<V * vector_bytes>((const unsigned char*)weights);
      Vector x[NS];
      for (int s = 0; s < NS; ++s) x[s] = S::all(a.numbers[s * a.pitch + k]);
      for (int v = 0; v < V; ++v) {
        Vector w = S::load(weights + v * width);
        for (int s = 0; s < NS; ++s) sum[s][v] = S::fma(w, x[s], sum[s][v]);
      }
    }
  }
}

template <int V, int NS>
INLINE void accumulate(Count<int(Precision::bf16)>, const unsigned char* from, long rows, long columns,
                       const Activation& a, const Ahead& ahead, Vector (&sum)[NS][V]) {
  Vector odd[NS][V] = {};
  const Whole high = (Whole){} + int32_t(0xffff0000);
  for (long k = 0; k < columns; k += 2, from += 4 * rows) {
    ahead.fetch<V * vector_bytes>(from);
    for (int v = 0; v < V; ++v) {
      Vector w = as_float(load_whole(from + v * vector_bytes) << 16);
      for (int s = 0; s < NS; ++s) sum[s][v] = S::fma(w, a.numbers[s * a.pitch + k], sum[s][v]);
    }
    if constexpr (NS == 4) __asm__ volatile("" ::: "memory");  // else more is loaded at once than there are registers
    for (int v = 0; v < V; ++v) {
      Vector w = as_float(load_whole(from + v * vector_bytes) & high);
      for (int s = 0; s < NS; ++s) {
        Vector& to = many_registers ? odd[s][v] : sum[s][v];
        to = S::fma(w, a.numbers[s * a.pitch + k + 1], to);
      }
    }
  }
  if constexpr (many_registers)
    for (int s = 0; s < NS; ++s)
      for (int v = 0; v < V; ++v) sum[s][v] += odd[s][v];
}

// The whole sums of int8.
template <int V, int NS, bool vnni>
INLINE void accumulate_bytes(const unsigned char* from, long rows, long columns, const Activation& a,
                             const Ahead& ahead, Whole (&sum)[NS][V]) {
#if defined(AUDIOGEN_AVX512) || defined(__AVX2__)
  for (long k = 0; k < columns; k += 4, from += 4 * rows) {
    ahead.fetch<V * vector_bytes>(from);
    int quad[NS], unsigned_quad[NS];
    for (int s = 0; s < NS; ++s) {
      memcpy(&quad[s], a.bytes + s * a.pitch + k, 4);
      memcpy(&unsigned_quad[s], a.unsigned_bytes + s * a.pitch + k, 4);
    }
#if defined(AUDIOGEN_AVX512)
    for (int v = 0; v < V; ++v) {
      __m512i w = _mm512_loadu_si512(from + v * vector_bytes);
      for (int s = 0; s < NS; ++s) {
        __m512i u = _mm512_set1_epi32(unsigned_quad[s]), total = (__m512i)sum[s][v];
        if constexpr (vnni) {
#if defined(AUDIOGEN_EMULATION)
          total = _mm512_dpbusd_epi32(total, u, w);
#else  // as text, since this file is compiled for all CPUs with AVX-512, and VNNI is found out at run time
          __asm__("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(u), "v"(w));
#endif
        } else {
          __mmask64 negative = _mm512_movepi8_mask(_mm512_set1_epi32(quad[s]));
          __m512i turned = _mm512_mask_sub_epi8(w, negative, _mm512_setzero_si512(), w);
          __m512i pairs = _mm512_maddubs_epi16(u, turned);
          total = _mm512_add_epi32(total, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
        }
        sum[s][v] = (Whole)total;
      }
    }
#else
    const __m256i ones = _mm256_set1_epi16(1);
    for (int v = 0; v < V; ++v) {
      __m256i w = _mm256_loadu_si256((const __m256i*)(from + v * vector_bytes));
      for (int s = 0; s < NS; ++s) {
        __m256i turned = _mm256_sign_epi8(w, _mm256_set1_epi32(quad[s]));
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(unsigned_quad[s]), turned);
        sum[s][v] = (Whole)_mm256_add_epi32((__m256i)sum[s][v], _mm256_madd_epi16(pairs, ones));
      }
    }
#endif
  }
#else
  for (long k = 0; k < columns; k += 4, from += 4 * rows)
    for (int s = 0; s < NS; ++s) {
      const int8_t* x = a.bytes + s * a.pitch + k;
      for (int v = 0; v < V; ++v)
        for (int r = 0; r < width; ++r) {
          const int8_t* w = (const int8_t*)from + 4 * (v * width + r);
          sum[s][v][r] += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
        }
    }
#endif
}

template <Precision precision>
INLINE const unsigned char* group_start(const Matrix& matrix, long group) {
  const long row = group * group_rows < matrix.rows ? group * group_rows : matrix.rows;
  return matrix.weights + row * matrix.columns * stored_bytes(precision);
}

// out[stream][row] = base[stream][row] + sum_k matrix[row][k] * a[stream][k], for groups begin .. end of 64 rows.
// next: the weights that the next call will read.
template <Precision precision, int NS, bool vnni>
void multiply(const Matrix& matrix, long begin, long end, const Activation& a, const float* base, float* out,
              long pitch, const unsigned char* next) {
  const Ahead ahead{group_start<precision>(matrix, end), next - group_start<precision>(matrix, end)};
  constexpr int across = many_registers ? 4 : precision == Precision::i8 && NS == 4 ? 2 : NS == 4 ? 2 : NS == 2 ? 4 : 8;
  for (long group = begin; group < end; ++group) {
    long top = group * group_rows, rows = matrix.rows - top < group_rows ? matrix.rows - top : group_rows;
    const unsigned char* from = group_start<precision>(matrix, group);
    auto piece = [&](auto count, long row) __attribute__((always_inline)) {
      constexpr int V = decltype(count)::value;
      Vector sum[NS][V];
      if constexpr (precision == Precision::i8) {
        Whole whole[NS][V];
        for (int s = 0; s < NS; ++s)
          for (int v = 0; v < V; ++v)
            whole[s][v] = vnni ? load_whole(matrix.sums + top + row + v * width) * -128 : (Whole){};
        accumulate_bytes<V, NS, vnni>(from + 4 * row, rows, matrix.columns, a, ahead, whole);
        for (int s = 0; s < NS; ++s)
          for (int v = 0; v < V; ++v)
            sum[s][v] = S::fma(__builtin_convertvector(whole[s][v], Vector),
                               S::load(matrix.scales + top + row + v * width) * a.steps[s],
                               S::load(base + s * pitch + top + row + v * width));
      } else {
        for (int s = 0; s < NS; ++s)
          for (int v = 0; v < V; ++v) sum[s][v] = S::load(base + s * pitch + top + row + v * width);
        accumulate<V, NS>(Count<int(precision)>(), from + 4 * row, rows,
                          matrix.columns, a, ahead, sum);
      }
      for (int s = 0; s < NS; ++s)
        for (int v = 0; v < V; ++v) S::store(out + s * pitch + top + row + v * width, sum[s][v]);
    };
    long row = 0;
    for (; row + across * width <= rows; row += across * width) piece(Count<across>(), row);
    if constexpr (across > 4)
      for (; row + 4 * width <= rows; row += 4 * width) piece(Count<4>(), row);
    if constexpr (across > 2)
      for (; row + 2 * width <= rows; row += 2 * width) piece(Count<2>(), row);
    for (; row < rows; row += width) piece(Count<1>(), row);
  }
}

// int8: x (columns, a multiple of 16) -> bytes and the step; 255 steps of the largest absolute value.
template <bool vnni>
INLINE float quantise(const float* x, long columns, int8_t* bytes, uint8_t* unsigned_bytes) {
  Vector most = {};
  for (long k = 0; k < columns; k += width) {
    Vector v = S::load(x + k);
    v = v < 0.0f ? -v : v;
    most = v > most ? v : most;
  }
#if defined(AUDIOGEN_AVX512)
  const float largest = _mm512_reduce_max_ps((__m512)most);
#elif defined(__AVX2__)
  __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)most), _mm256_extractf128_ps((__m256)most, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  const float largest = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#else
  float largest = 0;
  for (int i = 0; i < width; ++i) largest = most[i] > largest ? most[i] : largest;
#endif
  const float step = largest / 127.0f, inverse = step > 0 ? 1.0f / step : 0.0f, magic = 12582912.0f;  // 1.5 * 2^23
  int32_t zero;
  memcpy(&zero, &magic, 4);
  for (long k = 0; k < columns; k += width) {
    Vector shifted = S::load(x + k) * inverse + magic;  // to the nearest, ties to even
    Whole whole;
    memcpy(&whole, &shifted, sizeof whole);
    whole -= zero;
    Whole other = vnni ? whole + 128 : (whole < 0 ? -whole : whole);
#if defined(__AVX2__) && !defined(AUDIOGEN_AVX512)
    __m128i low = _mm256_castsi256_si128((__m256i)whole), high = _mm256_extracti128_si256((__m256i)whole, 1);
    __m128i packed = _mm_packs_epi32(low, high);
    low = _mm256_castsi256_si128((__m256i)other), high = _mm256_extracti128_si256((__m256i)other, 1);
    packed = _mm_packs_epi16(packed, _mm_packs_epi32(low, high));  // |a| is at most 127
    _mm_storel_epi64((__m128i*)(bytes + k), packed);
    _mm_storeh_pd((double*)(unsigned_bytes + k), (__m128d)packed);
#elif defined(AUDIOGEN_AVX512)
    _mm_storeu_si128((__m128i*)(bytes + k), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)whole));
    _mm_storeu_si128((__m128i*)(unsigned_bytes + k), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)other));
#else
    for (int i = 0; i < width; ++i) bytes[k + i] = int8_t(whole[i]), unsigned_bytes[k + i] = uint8_t(other[i]);
#endif
  }
  return step;
}

// Index of the largest; the first of several.
INLINE long largest(const float* x, long count) {
  long best = 0;
  for (long i = 1; i < count; ++i)
    if (x[i] > x[best]) best = i;
  return best;
}

// The smallest class whose cumulative probability exceeds `uniform`. x (count, and room to a multiple of 16) is used up.
long choose(float* x, long count, float uniform, float temperature) {
  long best = largest(x, count);
  if (temperature == 0) return best;
  const float most = x[best];
  const long padded = (count + 15) / 16 * 16;
  for (long i = 0; i < padded; i += width) {
    Vector v = (S::load(x + i) - most) / temperature;
    S::store(x + i, exponential(v > -87.0f ? v : S::all(-87.0f)));
  }
  for (long i = count; i < padded; ++i) x[i] = 0;
  double total = 0;
  for (long block = 0; block < padded; block += 16) {
    double part[4] = {};
    for (int i = 0; i < 16; ++i) part[i % 4] += x[block + i];
    total += (part[0] + part[1]) + (part[2] + part[3]);
  }
  const double target = double(uniform) * total;
  double below = 0;
  for (long block = 0; block < padded; block += 16) {
    double part[4] = {};
    for (int i = 0; i < 16; ++i) part[i % 4] += x[block + i];
    double after = below + ((part[0] + part[1]) + (part[2] + part[3]));
    if (after > target || block + 16 == padded) {
      for (long i = block; i < block + 16 && i < count; ++i) {
        below += x[i];
        if (below > target) return i;
      }
      if (after <= target) return count - 1;
    }
    below = after;
  }
  return count - 1;
}

// parameters (logits) and the room of as many numbers after them are used up.
float draw(const Generation& g, float* parameters, const float* random) {
  if (g.output == Output::softmax) return float(choose(parameters, g.outputs, random[0], g.temperature));
  float mean = parameters[0], log_scale = parameters[1], spread = random[0];
  if (g.output == Output::logistics) {
    const long mixtures = g.outputs / 3;
    const float* means = parameters + mixtures;
    float* logits = parameters + g.logits;
    memcpy(logits, parameters, mixtures * sizeof(float));
    const long component = choose(logits, mixtures, random[0], g.temperature);
    mean = means[component], log_scale = means[mixtures + component];
    float uniform = random[g.time];
    uniform = uniform < 1e-5f ? 1e-5f : uniform > 1 - 1e-5f ? 1 - 1e-5f : uniform;
    spread = __builtin_logf(uniform) - __builtin_log1pf(-uniform);
  }
  log_scale = log_scale < g.log_scale_min ? g.log_scale_min : log_scale;
  float value = mean + __builtin_expf(log_scale) * g.temperature * spread;
  return value < -1 ? -1 : value > 1 ? 1 : value;
}

// The columns of the samples before this one -> x (channels).
void first_layer(const Generation& g, const float* last, float* x) {
  const float* column[2] = {};
  float factor[2] = {};
  for (long tap = 0; tap < g.first_kernel; ++tap) {
    const float* table = g.first + tap * g.inputs * g.channels;
    if (g.inputs == 1) {
      column[tap] = table, factor[tap] = last[tap];
    } else if (last[tap] >= 0) {
      long number = last[tap] < float(g.inputs) ? long(last[tap]) : g.inputs - 1;
      column[tap] = table + number * g.channels, factor[tap] = 1;
    }
  }
  for (long c = 0; c < g.channels; c += width) {
    Vector v = S::load(g.first_bias + c);
    for (long tap = 0; tap < g.first_kernel; ++tap)
      if (column[tap]) v = S::fma(S::load(column[tap] + c), factor[tap], v);
    if (g.first_tanh) v = gate<float>(v, Vector{}).tanh;
    S::store(x + c, v);
  }
}

template <int NS>
struct Buffers {  // floats; those before `x` are shared by the crew
  float *h[3], *skip, *hidden, *logits;
  float *x, *z, *partial, *draft, *last, *steps;
  int8_t* bytes;
  uint8_t* unsigned_bytes;
  int32_t* cursor;
};

long widest(const Generation& g) {
  const long sizes[] = {g.channels, g.gate, g.skip, g.hidden};
  long most = 0;
  for (long size : sizes)
    if (size > most) most = size;
  return most;
}

template <Precision precision, int NS, bool vnni>
struct Runner {
  const Generation& g;
  Crew& crew;
  const int member;
  const long first_stream;
  Buffers<NS> b;
  long wide;
  int members = 1;  // who make this step

  Activation prepare(const float* x, long pitch, long columns, int place) {
    if constexpr (precision != Precision::i8) return {x, pitch, nullptr, nullptr, nullptr};
    int8_t* bytes = b.bytes + place * NS * wide;
    uint8_t* unsigned_bytes = b.unsigned_bytes + place * NS * wide;
    float* steps = b.steps + place * NS;
    for (int s = 0; s < NS; ++s)
      steps[s] = quantise<vnni>(x + s * pitch, columns, bytes + s * wide, unsigned_bytes + s * wide);
    return {nullptr, wide, bytes, unsigned_bytes, steps};
  }

  struct Share {  // this member's groups of rows
    long begin, end, rows;
    long first() const { return begin * group_rows; }
    long stop() const { return end * group_rows < rows ? end * group_rows : rows; }
  };

  Share share(const Matrix& m) const {
    const long groups = (m.rows + group_rows - 1) / group_rows;
    return {groups * member / members, groups * (member + 1) / members, m.rows};
  }

  Share of_gates, of_skip, of_hidden, of_last;

  void split_among(int number) {
    members = number;
    of_gates = share(g.layer[0].taps[0]), of_skip = share(g.layer[0].skip);
    of_hidden = share(g.hidden_matrix), of_last = share(g.last_matrix);
  }

  INLINE void arrive() {  // in one order with what a sleeper does: it counts itself, then looks at the number
    if (members == 1) return;
    __atomic_store_n(&crew.arrived[member].number, crew.arrived[member].number + 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&crew.sleepers, __ATOMIC_SEQ_CST)) crew_wake(crew);
  }

  INLINE void wait() {
    if (members == 1) return;
    const long wanted = crew.arrived[member].number;
    const long& other = crew.arrived[1 - member].number;
    for (int turns = 0; __atomic_load_n(&other, __ATOMIC_ACQUIRE) < wanted; ++turns) {
#if defined(__SSE2__)
      __builtin_ia32_pause();
#endif
      if (turns > 2000) return crew_sleep(crew, &other, wanted);  // the other has lost its core: it may have ours
    }
  }

  INLINE void meet() { arrive(), wait(); }

  const unsigned char* weights(const Share& part, const Matrix& m) const {
    return group_start<precision>(m, part.begin);
  }

  // The rows that are this member's. next: what it reads afterwards.
  void mine(const Share& part, const Matrix& m, const Activation& a, const float* base, float* out,
            const unsigned char* next) {
    multiply<precision, NS, vnni>(m, part.begin, part.end, a, base, out, part.rows, next);
  }

  float* slot(long layer, int s, long number) const {
    return g.rings + ((first_stream + s) * g.slots + g.layer[layer].first_slot + number) * g.channels;
  }

  // partial <- bias + conditioning + the older taps of `layer`, for this member's rows.
  void look_back(long layer, long t, long frame, const unsigned char* next) {
    const GeneratorLayer& l = g.layer[layer];
    const long rows = of_gates.rows, pitch = rows, begin = of_gates.first(), end = of_gates.stop();
    if (!g.condition) {
      for (int s = 0; s < NS; ++s)
        for (long r = begin; r < end; r += width) S::store(b.partial + s * pitch + r, S::load(l.bias + r));
    } else {
      const long frame_size = g.layers * rows;
      for (int s = 0; s < NS; ++s) {
        const float* from = g.condition + ((first_stream + s) * g.frames + frame) * frame_size + layer * rows;
        for (long r = begin; r < end; r += width) {
          Vector sum = S::load(l.bias + r);
          if (!g.taps) sum += S::load(from + r);
          for (long tap = 0; tap < g.taps; ++tap)
            sum = S::fma(S::load(from + tap * frame_size + r), g.band[t * g.taps + tap], sum);
          S::store(b.partial + s * pitch + r, sum);
        }
      }
    }
    for (long tap = 0; tap + 1 < g.kernel; ++tap) {
      long number = b.cursor[layer] - (g.kernel - 1 - tap) * l.dilation;
      if (number < 0) number += l.slots;
      Activation past = prepare(slot(layer, 0, number), g.slots * g.channels, g.channels, 3);
      mine(of_gates, l.taps[tap], past, b.partial, b.partial,
           tap + 2 < g.kernel ? weights(of_gates, l.taps[tap + 1]) : next);
    }
    if (layer + 2 < g.layers) {  // its oldest slot has been out of the nearest caches for a long time
      for (int s = 0; s < NS; ++s) {
        const char* ahead = (const char*)slot(layer + 2, s, b.cursor[layer + 2]);
        for (long byte = 0; byte < g.channels * 4; byte += 64) __builtin_prefetch(ahead + byte);
      }
    }
  }

  void gates(float* h) {
    for (int s = 0; s < NS; ++s)
      for (long r = of_gates.first(); r < of_gates.stop(); r += 32)
        for (long i = 0; i < 16; i += width) {
          const float* z = b.z + s * 2 * g.gate + r + i;
          S::store(h + s * g.gate + r / 2 + i, gate<float>(S::load(z), S::load(z + 16)).product);
        }
  }

  void relu_mine(const Share& part, float* x) {
    for (int s = 0; s < NS; ++s)
      for (long r = part.first(); r < part.stop(); r += width) {
        Vector v = S::load(x + s * part.rows + r);
        S::store(x + s * part.rows + r, v < 0.0f ? Vector{} : v);  // NaN stays
      }
  }

  void fill_mine(const Share& part, const float* from, float* to) {
    for (int s = 0; s < NS; ++s)
      for (long r = part.first(); r < part.stop(); r += width) S::store(to + s * part.rows + r, S::load(from + r));
  }

  void step(long t) {
    for (int s = 0; s < NS; ++s) first_layer(g, b.last + s * 2, b.x + s * g.channels);
    fill_mine(of_skip, g.skip_bias, b.skip);
    const long frame = !g.condition ? 0 : g.taps ? g.first_frame[t] : t * g.frames / g.time;
    look_back(0, t, frame, weights(of_gates, g.layer[0].taps[g.kernel - 1]));
    Activation before{}, now{};
    for (long layer = 0; layer < g.layers; ++layer) {
      const GeneratorLayer& l = g.layer[layer];
      const bool final = layer + 1 == g.layers;
      const unsigned char* newest = final ? weights(of_hidden, g.hidden_matrix)
                                          : weights(of_gates, g.layer[layer + 1].taps[g.kernel - 1]);
      const unsigned char* inner = final ? weights(of_skip, l.skip) : l.out.weights;
      const unsigned char* skips = layer ? weights(of_skip, g.layer[layer - 1].skip) : inner;
      float* h = b.h[layer % 3];
      mine(of_gates, l.taps[g.kernel - 1], prepare(b.x, g.channels, g.channels, 2), b.partial, b.z,
           final ? skips : weights(of_gates, g.layer[layer + 1].taps[0]));
      gates(h);
      arrive();
      if (!final) look_back(layer + 1, t, frame, skips);
      if (layer) mine(of_skip, g.layer[layer - 1].skip, before, b.skip, b.skip, inner);
      wait();
      if (member == 0)  // not earlier: the others have now read the slot's old content
        for (int s = 0; s < NS; ++s)
          memcpy(slot(layer, s, b.cursor[layer]), b.x + s * g.channels, g.channels * sizeof(float));
      if (++b.cursor[layer] == l.slots) b.cursor[layer] = 0;
      now = prepare(h, g.gate, g.gate, layer % 2);
      if (!final) {
        for (int s = 0; s < NS; ++s)
          for (long c = 0; c < g.channels; c += width) {
            float* x = b.x + s * g.channels + c;
            S::store(x, S::fma(S::load(x), g.residual_scale, S::load(l.out_bias + c)));
          }
        multiply<precision, NS, vnni>(l.out, 0, (l.out.rows + group_rows - 1) / group_rows, now, b.x, b.x, g.channels,
                                      newest);
      } else {
        mine(of_skip, l.skip, now, b.skip, b.skip, newest);
      }
      before = now;
    }
    relu_mine(of_skip, b.skip);
    meet();
    fill_mine(of_hidden, g.hidden_bias, b.hidden);
    mine(of_hidden, g.hidden_matrix, prepare(b.skip, g.skip, g.skip, 2), b.hidden, b.hidden,
         weights(of_last, g.last_matrix));
    relu_mine(of_hidden, b.hidden);
    meet();
    fill_mine(of_last, g.last_bias, b.logits);
    mine(of_last, g.last_matrix, prepare(b.hidden, g.hidden, g.hidden, 2), b.logits, b.logits,
         weights(of_gates, g.layer[0].taps[0]));
    meet();
    for (int s = 0; s < NS; ++s) {  // every member for itself: all come to the same
      const long stream = first_stream + s;
      float* parameters = b.logits + s * g.logits;
      float sample;
      if (g.given) {
        sample = g.given[stream * g.time + t];
        if (member == 0)
          memcpy(g.parameters + (stream * g.time + t) * g.outputs, parameters, g.outputs * sizeof(float));
      } else {
        memcpy(b.draft, parameters, g.logits * sizeof(float));
        sample = draw(g, b.draft, g.random + stream * g.numbers * g.time + t);
        if (member == 0) g.samples[stream * g.time + t] = sample;
      }
      float* last = b.last + s * 2;
      last[0] = g.first_kernel == 2 ? last[1] : sample;
      last[1] = sample;
    }
  }

  // Where step t begins: what the network hears, and where the rings stand.
  void enter(long t) {
    for (int s = 0; s < NS; ++s)
      for (long tap = 0; tap < g.first_kernel; ++tap)
        b.last[s * 2 + tap] = g.last[(first_stream + s) * g.first_kernel + tap];
    for (long layer = 0; layer < g.layers; ++layer)
      b.cursor[layer] = int32_t((g.position + t) % g.layer[layer].slots);
  }

  void leave() {
    for (int s = 0; s < NS; ++s)
      for (long tap = 0; tap < g.first_kernel; ++tap)
        g.last[(first_stream + s) * g.first_kernel + tap] = b.last[s * 2 + tap];
  }

  void steps(long begin, long end, int number) {
    split_among(number);
    for (long t = begin; t < end; ++t) step(t);
    meet();  // the next steps may be the leader's alone, who waits for nobody
  }

  void run() {
    enter(0);
    if (!crew.room) {
      steps(0, g.time, 1);
      leave();
    } else if (member == 0) {
      for (long t = 0; t < g.time;) {
        const Order order = crew_lead(crew, t, g.time);
        steps(t, order.end, order.together ? 2 : 1);
        t = order.end;
        leave();
      }
      crew_lead(crew, g.time, g.time);
    } else {
      for (Order order; (order = crew_follow(crew)).begin < order.end;) {
        enter(order.begin);
        steps(order.begin, order.end, 2);
      }
    }
  }
};

template <Precision precision, int NS, bool vnni>
void run(const Generation& g, long begin, float* shared, float* own, Crew& crew, int member) {
  Buffers<NS> b;
  auto take = [](float*& from, long count) {
    float* here = from;
    from += (count + 15) / 16 * 16;
    return here;
  };
  const long wide = widest(g);
  for (auto& h : b.h) h = take(shared, NS * g.gate);
  b.skip = take(shared, NS * g.skip);
  b.hidden = take(shared, NS * g.hidden);
  b.logits = take(shared, NS * g.logits);
  b.x = take(own, NS * g.channels);
  b.z = take(own, NS * 2 * g.gate);
  b.partial = take(own, NS * 2 * g.gate);
  b.draft = take(own, 2 * g.logits);
  b.last = take(own, NS * 2);
  b.steps = take(own, NS * 4);
  b.cursor = (int32_t*)take(own, g.layers);
  b.bytes = (int8_t*)take(own, NS * wide);  // 4 places of NS * wide bytes
  b.unsigned_bytes = (uint8_t*)take(own, NS * wide);
  Runner<precision, NS, vnni>{g, crew, member, begin, b, wide, 1, {}, {}, {}, {}}.run();
}

template <int NS>
void run_precision(const Generation& g, long begin, float* shared, float* own, Crew& crew, int member) {
  switch (g.precision) {
    case Precision::f32: return run<Precision::f32, NS, false>(g, begin, shared, own, crew, member);
    case Precision::bf16: return run<Precision::bf16, NS, false>(g, begin, shared, own, crew, member);
    case Precision::i8:
#if defined(AUDIOGEN_AVX512)
      if (g.vnni) return run<Precision::i8, NS, true>(g, begin, shared, own, crew, member);
#endif
      return run<Precision::i8, NS, false>(g, begin, shared, own, crew, member);
  }
}

}  // namespace

long generate_shared_size(const Generation& g, long streams) {
  return streams * (3 * g.gate + g.skip + g.hidden + g.logits) + 16 * 8;
}

long generate_private_size(const Generation& g, long streams) {
  return streams * (g.channels + 4 * g.gate + 2 + 4 + 2 * widest(g)) + 2 * g.logits + g.layers + 16 * 16;
}

void generate_run(const Generation& g, long begin, long streams, float* shared, float* own, Crew& crew, int member) {
  switch (streams) {
    case 1: return run_precision<1>(g, begin, shared, own, crew, member);
    case 2: return run_precision<2>(g, begin, shared, own, crew, member);
    case 4: return run_precision<4>(g, begin, shared, own, crew, member);
  }
}

}  // namespace audiogen::AUDIOGEN_ISA
