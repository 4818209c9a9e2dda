// A matrix times a vector, or times a tile of vectors, by a block: the products of generation.
//
// A product has kWidth streams. `place` says where number `element` of stream `j` lies among `size` numbers each;
// `prepare` turns such numbers into what `run` multiplies; `run` leaves sums in `parts`; `result` picks them up.
//
// Multiply, one stream. Weights as in the blob of wavenet_pack.py: 4-byte words, [columns / lanes][64 rows], so that
// lanes of a warp read neighbouring words of neighbouring rows (no bank conflict) and broadcast the vector. float32: 1
// weight a word; bfloat16: 2, float32 activations; int8: 4, by dp4a, with activations rounded as in the reference.
//
// MultiplyTile, 8 streams, on tensor cores. The weights are the left operand (16 rows), the streams the columns of the
// right one:
//   bfloat16: mma.m16n8k16, three times: a float32 activation is the sum of three bfloat16 (8 + 8 + 8 bits), so that
//     nothing is lost but the order of sums, and the samples are the reference's.
//   int8: mma.m16n8k32, once; a scale for every stream; sums of integers, the same as the reference's.
// A 4-byte word of the blob, row r and word column w, is register i of lane 4 g + t, r = g + 8 (i % 2) of its 16 rows,
// w = t + 4 (i / 2) of its 8 words. `arrange` puts the words of a fragment side by side in shared memory: one load of
// 16 bytes a lane, no bank conflict, and a matrix keeps its size. 16 odd columns of int8 make a fragment of half the
// words. Activations lie stream by stream, rows of a multiple of 8 and 4 more words, which meets no bank conflict
// either.
//
// Bound, tile: a fragment is 512 bytes, 4 clocks of shared memory, and 3 (bfloat16) or 1 (int8) mma, each some 2 clocks
// of the four tensor units. 190 KB of weights a block: 1,500 clocks of shared memory for 8 streams and, in bfloat16,
// 2,300 of mma, which is why 16 streams a tile would not help there. Multiply takes the 1,500 for one stream.
#pragma once

#include "device.cuh"

namespace audiogen {

enum Precision { kFloat32, kBfloat16, kInt8 };
constexpr int kTileStreams = 8, kPad = 4;  // kPad: words behind every stream's numbers

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }

struct Matrix {
    const uint32_t* weights;
    const float* scales;  // int8 alone
    int rows, columns;
};

/// Four numbers in steps of 1 / inverse, a byte each.
__device__ __forceinline__ uint32_t rounded_word(const float* numbers, float inverse) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
        word |= (static_cast<uint32_t>(static_cast<int>(rintf(numbers[i] * inverse))) & 0xFFu) << (8 * i);
    return word;
}

template <int kPrecision, bool kResident>
struct Multiply {
    static constexpr int kWidth = 1, kLanes = kPrecision == kFloat32 ? 1 : kPrecision == kBfloat16 ? 2 : 4;

    static __device__ __forceinline__ int place(int element, int, int) { return element; }
    static __device__ __forceinline__ void arrange(unsigned char*, const unsigned char*, int, int) {}

    /// What the columns are multiplied with: the vector itself, or for int8 its 255 steps, packed into `words`. All
    /// threads; the vector is complete.
    static __device__ __forceinline__ float prepare(const float* vector, int size, uint32_t* words) {
        if constexpr (kPrecision == kInt8) return round_vector(vector, size, words);
        return 1.0f;
    }

    static __device__ AUDIOGEN_ONE_COPY float round_vector(const float* vector, int size, uint32_t* words) {
        AUDIOGEN_IS_SHARED(vector);
        AUDIOGEN_IS_SHARED(words);
        const int lane = threadIdx.x % 32;
        float most = 0.0f;  // every warp finds it by itself, which spares a barrier
        for (int at = lane; at < size; at += 32) most = fmaxf(most, fabsf(vector[at]));
#pragma unroll
        for (int distance = 16; distance; distance /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, distance));
        const float step = most / 127.0f, inverse = step > 0.0f ? 1.0f / step : 0.0f;
        for (int at = threadIdx.x; at < size / 4; at += blockDim.x)
            words[at] = rounded_word(vector + 4 * at, inverse);
        __syncthreads();
        return step;
    }

    static __device__ __forceinline__ int splits(int rows) { return larger(static_cast<int>(blockDim.x) / rows, 1); }

    /// parts[split][row] = the products of a split of the columns (int8: integers, by their bits). A barrier must
    /// follow.
    static __device__ __forceinline__ void run(const Matrix& m, const float* vector, const uint32_t* words,
                                               float* parts) {
        run(m.weights, m.rows, m.columns, vector, words, parts);
    }

    static __device__ AUDIOGEN_ONE_COPY void run(const uint32_t* weights, int rows, int columns, const float* vector,
                                                 const uint32_t* words, float* parts) {
        AUDIOGEN_IS_SHARED(vector);
        AUDIOGEN_IS_SHARED(words);
        AUDIOGEN_IS_SHARED(parts);
        if constexpr (kResident)
            AUDIOGEN_IS_SHARED(weights);
        else
            AUDIOGEN_IS_GLOBAL(weights);
        const int count = columns / kLanes, pieces = splits(rows);
        for (int unit = threadIdx.x; unit < rows * pieces; unit += blockDim.x) {
            const int row = unit % rows, split = unit / rows, group = row / 64;
            const int stride = rows - 64 * group < 64 ? rows - 64 * group : 64;
            const int begin = count * split / pieces, end = count * (split + 1) / pieces;
            const uint32_t* w = weights + static_cast<int64_t>(group) * 64 * count + row % 64;
            float sum = 0.0f;
            int whole = 0;
#pragma unroll 8
            for (int k = begin; k < end; ++k) {
                union {
                    uint32_t bits;
                    float value;
                } low, high;
                low.bits = w[k * stride];
                if constexpr (kPrecision == kFloat32) sum = fmaf(low.value, vector[k], sum);
                if constexpr (kPrecision == kBfloat16) {
                    high.bits = low.bits & 0xFFFF0000u;  // a bfloat16 is the upper half of a float
                    low.bits <<= 16;
                    sum = fmaf(low.value, vector[2 * k], sum);
                    sum = fmaf(high.value, vector[2 * k + 1], sum);
                }
                if constexpr (kPrecision == kInt8)
                    whole = __dp4a(static_cast<int>(low.bits), static_cast<int>(words[k]), whole);
            }
            union {
                int whole;
                float value;
            } both = {whole};
            parts[unit] = kPrecision == kInt8 ? both.value : sum;
        }
    }

    static __device__ __forceinline__ float result(const Matrix& m, const float* parts, int row, int, float step) {
        float sum = 0.0f;
        int whole = 0;
#pragma unroll 1
        for (int split = 0; split < splits(m.rows); ++split) {
            union {
                float value;
                int whole;
            } both = {parts[split * m.rows + row]};
            sum += both.value;
            whole += both.whole;
        }
        return kPrecision == kInt8 ? static_cast<float>(whole) * m.scales[row] * step : sum;
    }
};

/// 8 streams at a time, on tensor cores: bfloat16 and int8.
template <int kPrecision, bool kResident>
struct MultiplyTile {
    static_assert(kPrecision != kFloat32);
    static constexpr int kWidth = kTileStreams, kLanes = kPrecision == kBfloat16 ? 2 : 4,
                         kSplit = kPrecision == kBfloat16 ? 3 : 1, kStep = 8;  // words of a row that a mma takes

    static __device__ __forceinline__ int place(int element, int stream, int size) {
        return stream * (size + kPad) + element;
    }
    static __host__ __device__ constexpr int steps(int columns) { return (columns / kLanes + kStep - 1) / kStep; }
    static __host__ __device__ constexpr int words_stride(int columns) { return steps(columns) * kStep + kPad; }
    /// Words that `prepare` needs for vectors of `size`: a step for each stream, then the activations.
    static __host__ __device__ constexpr int words_needed(int size) {
        return kWidth + kSplit * kWidth * words_stride(size);
    }

    /// Fragment by fragment into shared memory, from the blob.
    static __device__ void arrange(unsigned char* to_bytes, const unsigned char* from_bytes, int rows, int columns) {
        if (!kResident) return;
        uint32_t* to = reinterpret_cast<uint32_t*>(to_bytes);
        const uint32_t* from = reinterpret_cast<const uint32_t*>(from_bytes);
        const int count = columns / kLanes;
        for (int at = threadIdx.x; at < rows * count; at += blockDim.x) {
            const int tile = at / (16 * count), within = at % (16 * count), step = within / 128;
            const int registers = count - step * kStep < kStep ? 2 : 4;  // half a fragment at the end
            const int lane = within % 128 / registers, i = within % registers;
            to[at] = from[word(rows, count, tile, step, lane, i)];
        }
    }
    /// Where register i of a lane's fragment lies in the blob.
    static __device__ __forceinline__ int word(int rows, int count, int tile, int step, int lane, int i) {
        const int row = tile * 16 + lane / 4 + 8 * (i % 2), group = row / 64;
        return group * 64 * count + (step * kStep + lane % 4 + 4 * (i / 2)) * smaller(64, rows - 64 * group) + row % 64;
    }

    /// Numbers -> words. All threads; the numbers are complete. Ends with a barrier. -> each stream's step (int8).
    static __device__ AUDIOGEN_ONE_COPY const float* prepare(const float* vector, int size, uint32_t* words) {
        AUDIOGEN_IS_SHARED(vector);
        AUDIOGEN_IS_SHARED(words);
        const int lane = threadIdx.x % 32, stride = words_stride(size);
        float* step_of = reinterpret_cast<float*>(words);
        uint32_t* to = words + kWidth;
        if constexpr (kPrecision == kInt8) {
            for (int stream = threadIdx.x / 32; stream < kWidth; stream += blockDim.x / 32) {
                const float* own = vector + place(0, stream, size);
                float most = 0.0f;
                for (int at = lane; at < size; at += 32) most = fmaxf(most, fabsf(own[at]));
#pragma unroll
                for (int distance = 16; distance; distance /= 2)
                    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, distance));
                const float step = most / 127.0f, inverse = step > 0.0f ? 1.0f / step : 0.0f;
                if (lane == 0) step_of[stream] = step;
                for (int at = lane; at < size / 4; at += 32)
                    to[stream * stride + at] = rounded_word(own + 4 * at, inverse);
            }
        } else {
            for (int at = threadIdx.x; at < size / 2 * kWidth; at += blockDim.x) {
                const int stream = at % kWidth, pair = at / kWidth;
                const float* own = vector + place(2 * pair, stream, size);
                float left[2] = {own[0], own[1]};
#pragma unroll
                for (int part = 0; part < kSplit; ++part) {
                    union {
                        bf16 halves[2];
                        uint32_t word;
                    } both = {{from_float<bf16>(left[0]), from_float<bf16>(left[1])}};
                    to[(part * kWidth + stream) * stride + pair] = both.word;
                    left[0] -= to_float(both.halves[0]), left[1] -= to_float(both.halves[1]);
                }
            }
        }
        __syncthreads();
        return step_of;
    }

    static __device__ __forceinline__ int splits(int rows, int columns) {
        return larger(smaller(static_cast<int>(blockDim.x) / 32 / (rows / 16), steps(columns)), 1);
    }

    /// parts[split][row][stream]; a warp makes 16 rows of a split. A barrier must follow.
    static __device__ __forceinline__ void run(const Matrix& m, const float*, const uint32_t* words, float* parts) {
        run(m.weights, m.rows, m.columns, words, parts);
    }
    static __device__ AUDIOGEN_ONE_COPY void run(const uint32_t* weights, int rows, int columns, const uint32_t* words,
                                                 float* parts) {
        AUDIOGEN_IS_SHARED(words);
        AUDIOGEN_IS_SHARED(parts);
        if constexpr (kResident)
            AUDIOGEN_IS_SHARED(weights);
        else
            AUDIOGEN_IS_GLOBAL(weights);
        const int lane = threadIdx.x % 32, warps = blockDim.x / 32, tiles = rows / 16, count = columns / kLanes;
        const int pieces = splits(rows, columns), whole = steps(columns), stride = words_stride(columns);
        const uint32_t* of_lane = words + kWidth + lane / 4 * stride + lane % 4;
        for (int unit = threadIdx.x / 32; unit < tiles * pieces; unit += warps) {
            const int tile = unit % tiles, split = unit / tiles;
            Sums d = {};
#pragma unroll 4
            for (int step = whole * split / pieces; step < whole * (split + 1) / pieces; ++step) {
                uint32_t a[4] = {};
                const bool half_step = count - step * kStep < kStep;
                if constexpr (kResident) {
                    const uint32_t* from = weights + tile * 16 * count + step * 128 + lane * (half_step ? 2 : 4);
                    if (!half_step) {
                        const uint4 four = *reinterpret_cast<const uint4*>(from);
                        a[0] = four.x, a[1] = four.y, a[2] = four.z, a[3] = four.w;
                    } else {
                        a[0] = from[0], a[1] = from[1];
                    }
                } else {
                    for (int i = 0; i < (half_step ? 2 : 4); ++i)
                        a[i] = weights[word(rows, count, tile, step, lane, i)];
                }
#pragma unroll
                for (int part = 0; part < kSplit; ++part) {
                    const uint32_t* b = of_lane + part * kWidth * stride + step * kStep;
                    multiply(d, a, b[0], half_step ? 0 : b[4]);
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = tile * 16 + lane / 4 + i / 2 * 8;
                reinterpret_cast<Sum*>(parts)[(split * rows + row) * kWidth + lane % 4 * 2 + i % 2] = d[i];
            }
        }
    }

    static __device__ __forceinline__ float result(const Matrix& m, const float* parts, int row, int stream,
                                                   const float* step_of) {
        const Sum* from = reinterpret_cast<const Sum*>(parts) + row * kWidth + stream;
        Sum sum = 0;
#pragma unroll 1
        for (int split = 0; split < splits(m.rows, m.columns); ++split) sum += from[split * m.rows * kWidth];
        if constexpr (kPrecision == kInt8) return static_cast<float>(sum) * m.scales[row] * step_of[stream];
        return sum;
    }

   private:
    using Sum = std::conditional_t<kPrecision == kInt8, int, float>;
    using Sums = Sum[4];
    static __device__ __forceinline__ void multiply(Sums& d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        if constexpr (kPrecision == kInt8)
            matrix_multiply_int8(d, a, b0, b1);
        else
            matrix_multiply<bf16>(d, a, b0, b1);
    }
};

}  // namespace audiogen
