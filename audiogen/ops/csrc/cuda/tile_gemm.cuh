// The main loop that the dilated convolutions share: a tile of rows (time steps) times weights, on tensor cores; here
// with mma.sync, for every chip and type. warpgroup_tile.cuh has the same with wgmma. A kernel takes either as `Gemm`:
//
//   Sums                     a thread's sums, [group][8 columns each][4]; `run` adds to them, `each_pack` hands them
//   out row_of, column_of_group  where a group of sums lies in the tile
//   resident...              how rows of A that a kernel makes itself (h) lie in shared memory
//
//   sums[row][column] += sum over segments s, over k:  a_s[first_row + row + offset_s][k] * b_s[column][k]
//
// A tap of a convolution is a segment: its rows are the same x, `offset` steps away. Rows outside [0, rows) count as
// zeros (the padding). Both operands are K-contiguous in memory: x channels-last, weights (out, in) per tap.
//
// Layout. 256 threads, 8 warps: 4 along the rows, 2 along the columns. A tile has M rows (128 or 64) and B_ROWS columns
// (128 or 64); K goes in chunks of 128 bytes, two stages deep, by cp.async of 16 bytes; a stage holds M + B_ROWS rows
// of 128 bytes whose eight 16-byte pieces are swizzled (piece ^ row % 8), so that neither cp.async nor ldmatrix meets a
// bank conflict. 16-bit types use mma.m16n8k16. float32 uses m16n8k8 with TF32 three times (big x big + big x small +
// small x big; 21 bits of mantissa), since one TF32 product keeps 10 bits only.
//
// Column order. mma leaves a thread with columns 2 t and 2 t + 1 of every 8. Rows of b are put into shared memory in
// another order (`column_of`), so that a thread ends with 16 bytes of neighbouring columns, and the epilogues load and
// store 16 bytes each.
//
// Bound: per warp and step of 32 bytes of K, 2 + 4 ldmatrix.x4 (24 clocks of shared memory) feed 16 mma (16-bit: 64
// clocks of the four tensor units at the rate of mma.sync), so the tensor units bound it, not shared memory.
#pragma once

#include "device.cuh"

namespace audiogen {

constexpr int kThreads = 256, kWarpsM = 4, kWarpsN = 2, kChunkBytes = 128, kStages = 2;

__host__ __device__ constexpr int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

template <class T>
struct Segment {
    const T* a;  // row r of this batch item at a + r * a_stride
    int64_t a_stride;
    int offset;  // added to the row
    int depth;   // k runs over [0, depth); a multiple of 8
    const T* b;  // column n at b + n * depth
};

/// Which column of a 32-column (16-bit) or 16-column (float32) group lies at place p, so that thread t of a quad holds
/// columns V t .. V t + V - 1, V = 16 / sizeof(T).
template <class T>
__host__ __device__ constexpr int column_of(int place) {
    constexpr int v = 16 / sizeof(T), group = 4 * v;
    const int within = place % group, tile = within / 8, t = within % 8 / 2;
    return place - within + v * t + 2 * tile + within % 2;
}

__device__ __forceinline__ unsigned char* swizzled(unsigned char* tile, int row, int piece) {
    return tile + row * kChunkBytes + ((piece ^ (row & 7)) << 4);
}

/// sums[mi][ni] += A (16 rows at mi) B (8 columns at ni), K of 32 bytes; float32 by three TF32 products.
template <class T, int MI, int NI>
__device__ __forceinline__ void multiply_step(float (&sums)[MI][NI][4], const uint32_t (&a)[MI][4],
                                              const uint32_t (&b)[NI / 2][4]) {
    if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int mi = 0; mi < MI; ++mi)
#pragma unroll
            for (int ni = 0; ni < NI; ++ni)
                matrix_multiply<T>(sums[mi][ni], a[mi], b[ni / 2][ni % 2 * 2], b[ni / 2][ni % 2 * 2 + 1]);
    } else {
        auto split = [](uint32_t word, uint32_t& big, uint32_t& small) {
            union {
                uint32_t bits;
                float value;
            } whole = {word}, part;
            part.bits = big = to_tf32(whole.value);
            small = to_tf32(whole.value - part.value);
        };
        uint32_t a_big[MI][4], a_small[MI][4];
#pragma unroll
        for (int mi = 0; mi < MI; ++mi)
#pragma unroll
            for (int i = 0; i < 4; ++i) split(a[mi][i], a_big[mi][i], a_small[mi][i]);
#pragma unroll
        for (int ni = 0; ni < NI; ++ni) {
            uint32_t b_big[2], b_small[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) split(b[ni / 2][ni % 2 * 2 + i], b_big[i], b_small[i]);
#pragma unroll
            for (int mi = 0; mi < MI; ++mi) {
                matrix_multiply<T>(sums[mi][ni], a_small[mi], b_big[0], b_big[1]);
                matrix_multiply<T>(sums[mi][ni], a_big[mi], b_small[0], b_small[1]);
                matrix_multiply<T>(sums[mi][ni], a_big[mi], b_big[0], b_big[1]);
            }
        }
    }
}

template <int MI, int NI>
__device__ __forceinline__ void clear(float (&sums)[MI][NI][4]) {
#pragma unroll
    for (int mi = 0; mi < MI; ++mi)
#pragma unroll
        for (int ni = 0; ni < NI; ++ni)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[mi][ni][i] = 0.0f;
}

/// Copy a chunk of one segment into a stage: M rows of `a` (unless they lie in shared memory already) and kColumns of
/// `b`.
template <class T, int M, int kColumns, class Column>
__device__ __forceinline__ void load_stage(unsigned char* stage, const Segment<T>& segment, int k, int first_row,
                                           int rows, bool with_a, Column column) {
    constexpr int kPieces = kChunkBytes / 16, V = 16 / sizeof(T);
    const int thread = threadIdx.x;
    if (with_a) {
        for (int at = thread; at < M * kPieces; at += kThreads) {
            const int row = at / kPieces, piece = at % kPieces, source = first_row + row + segment.offset;
            const bool valid = source >= 0 && source < rows && k + piece * V < segment.depth;
            copy_async_16(swizzled(stage, row, piece),
                          valid ? segment.a + source * segment.a_stride + k + piece * V : segment.a, valid);
        }
    }
    for (int at = thread; at < kColumns * kPieces; at += kThreads) {
        const int place = at / kPieces, piece = at % kPieces;
        const T* source = column(segment, column_of<T>(place));
        const bool valid = source != nullptr && k + piece * V < segment.depth;
        copy_async_16(swizzled(stage + M * kChunkBytes, place, piece), valid ? source + k + piece * V : segment.a,
                      valid);
    }
}

/// The chunks of all segments, one after the other.
template <class T>
struct Chunks {
    const Segment<T>* segments;
    int count, segment = 0, k = 0;

    __device__ __forceinline__ Chunks(const Segment<T>* segments_, int count_) : segments(segments_), count(count_) {
        skip_empty();
    }
    __device__ __forceinline__ bool any() const { return segment < count; }
    __device__ __forceinline__ int depth() const { return segments[segment].depth - k; }
    __device__ __forceinline__ void advance() {
        k += kChunkBytes / sizeof(T);
        if (k < segments[segment].depth) return;
        k = 0, ++segment;
        skip_empty();
    }

   private:
    __device__ __forceinline__ void skip_empty() {
        while (segment < count && segments[segment].depth == 0) ++segment;
    }
};

/// For every row and every pack of columns that this thread holds: use(row, column, float (&values)[V]).
template <class Gemm, class Use>
__device__ __forceinline__ void each_pack_of(typename Gemm::Sums& sums, Use use) {
    constexpr int V = Gemm::V;
#pragma unroll
    for (int group = 0; group < Gemm::kGroups; ++group)
#pragma unroll
        for (int upper = 0; upper < 2; ++upper)
#pragma unroll
            for (int pack = 0; pack < Gemm::kPacks; ++pack) {
                float values[V];
#pragma unroll
                for (int i = 0; i < V; ++i) values[i] = sums[group][pack * (V / 2) + i / 2][2 * upper + i % 2];
                use(Gemm::row_of(group) + 8 * upper,
                    Gemm::column_of_group(group) + pack * 4 * V + static_cast<int>(threadIdx.x) % 4 * V, values);
            }
}

template <class T, int M, int NI>
struct TileGemm {
    using Element = T;
    static constexpr bool kCompiled = true;  // has code on every chip
    static constexpr int kRows = M, kMinBlocks = 1, kBound = kThreads;
    static constexpr int MI = M / (16 * kWarpsM), kGroups = MI, kColumns = 8 * NI * kWarpsN,
                         kChunk = kChunkBytes / sizeof(T);
    static constexpr int kStageBytes = (M + kColumns) * kChunkBytes, kSharedBytes = kStages * kStageBytes;
    static constexpr int V = 16 / sizeof(T), kPacks = NI * 2 / V;  // packs of 16 bytes of a thread, per row
    static_assert(NI % 4 == 0, "a warp's columns are whole groups");
    using Sums = float[MI][NI][4];
    using Narrow = TileGemm<T, M, NI / 2>;

    static __device__ __forceinline__ int row_of(int group) {
        return (threadIdx.x / 32 % kWarpsM * MI + group) * 16 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int column_of_group(int) { return threadIdx.x / 32 / kWarpsM * 8 * NI; }

    // Rows of a resident A: whole steps of K, and an odd number of 16-byte pieces against bank conflicts.
    static constexpr int kWhole = 2 * V;  // its rows are complete up to a multiple of this
    static __host__ __device__ constexpr int resident_stride(int depth) {
        return (divide_up(depth, kWhole) * 2 | 1) * 16;
    }
    static __host__ __device__ constexpr int resident_bytes(int depth) { return M * resident_stride(depth); }
    static __device__ __forceinline__ T* resident_pack(unsigned char* resident, int depth, int row, int k) {
        return reinterpret_cast<T*>(resident + row * resident_stride(depth)) + k;
    }

    /// The product of what lies in a stage; `resident`: A comes from rows of `resident_stride` bytes instead, at k.
    static __device__ __forceinline__ void compute(Sums& sums, unsigned char* stage, int depth,
                                                   unsigned char* resident, int resident_stride) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % kWarpsM, wn = warp / kWarpsM;
        const int steps = divide_up(depth < kChunk ? depth : kChunk, 2 * V);
        for (int step = 0; step < steps; ++step) {
            uint32_t a[MI][4], b[NI / 2][4];
#pragma unroll
            for (int mi = 0; mi < MI; ++mi) {
                const int row = (wm * MI + mi) * 16 + lane % 16, piece = 2 * step + lane / 16;
                load_matrices(a[mi],
                              resident ? resident + row * resident_stride + piece * 16 : swizzled(stage, row, piece));
            }
#pragma unroll
            for (int pair = 0; pair < NI / 2; ++pair) {
                const int place = (wn * NI + 2 * pair + lane / 16) * 8 + lane % 8;
                load_matrices(b[pair], swizzled(stage + M * kChunkBytes, place, 2 * step + lane / 8 % 2));
            }
            multiply_step<T, MI, NI>(sums, a, b);
        }
    }

    /// The whole loop. column(segment, n) -> where column n of the tile has its K values, or nullptr (zeros).
    /// `resident`: A, `depth` wide, of the only segment. Ends with all threads done reading.
    template <class Column>
    static __device__ __forceinline__ void run(Sums& sums, unsigned char* stages, const Segment<T>* segments, int count,
                                               int first_row, int rows, Column column,
                                               unsigned char* resident = nullptr) {
        Chunks<T> next(segments, count), now(segments, count);
        auto issue = [&](int stage) {
            if (next.any()) {
                load_stage<T, M, kColumns>(stages + stage * kStageBytes, segments[next.segment], next.k, first_row,
                                           rows, resident == nullptr, column);
                next.advance();
            }
            copy_async_commit();
        };
        issue(0);
        for (int stage = 0; now.any(); now.advance(), stage ^= 1) {
            copy_async_wait<0>();
            __syncthreads();  // this chunk is here for all, and all have read the one before
            issue(stage ^ 1);
            compute(sums, stages + stage * kStageBytes, now.depth(),
                    resident ? resident + now.k * sizeof(T) : nullptr, resident_stride(segments[0].depth));
        }
        copy_async_wait<0>();
        __syncthreads();
    }

    template <class Use>
    static __device__ __forceinline__ void each_pack(Sums& sums, Use use) {
        each_pack_of<TileGemm>(sums, use);
    }
};

}  // namespace audiogen
