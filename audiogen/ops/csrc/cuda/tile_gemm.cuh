// The main loop that the dilated convolutions share: a tile of rows (time steps) times weights, on tensor cores.
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

template <class T, int M, int NI>
struct TileGemm {
    static constexpr int MI = M / (16 * kWarpsM), kColumns = 8 * NI * kWarpsN, kChunk = kChunkBytes / sizeof(T);
    static constexpr int kStageBytes = (M + kColumns) * kChunkBytes, kPieces = 8;
    static constexpr int V = 16 / sizeof(T), kPacks = NI * 2 / V;  // packs of 16 bytes of a thread, per row
    static_assert(NI % 4 == 0, "a warp's columns are whole groups");

    /// Copy a chunk of one segment: rows of `a` (unless it lies in shared memory already) and of `b`.
    template <class Column>
    static __device__ __forceinline__ void load(unsigned char* stage, const Segment<T>& segment, int k, int first_row,
                                                int rows, bool with_a, Column column) {
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

    /// The product of what lies in a stage; `resident`: A comes from rows of `resident_stride` bytes instead, at k.
    static __device__ __forceinline__ void compute(float (&sums)[MI][NI][4], unsigned char* stage, int depth,
                                                   unsigned char* resident, int resident_stride) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % kWarpsM, wn = warp / kWarpsM;
        const int steps = (min_of(depth, kChunk) + 2 * V - 1) / (2 * V);
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

    static __host__ __device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }

    /// The whole loop. column(segment, n) -> where column n of the tile has its K values, or nullptr (zeros).
    /// `resident`: see compute; its rows must be complete and its pieces beyond the depth zero up to a whole step. Ends
    /// with all threads done reading.
    template <class Column>
    static __device__ __forceinline__ void run(float (&sums)[MI][NI][4], unsigned char* stages,
                                               const Segment<T>* segments, int count, int first_row, int rows,
                                               Column column, unsigned char* resident = nullptr,
                                               int resident_stride = 0) {
        int next = 0, next_k = 0;  // the chunk to load
        while (next < count && segments[next].depth == 0) ++next;
        auto issue = [&](int stage) {
            if (next < count) {
                load(stages + stage * kStageBytes, segments[next], next_k, first_row, rows, resident == nullptr,
                     column);
                next_k += kChunk;
                if (next_k >= segments[next].depth) {
                    next_k = 0;
                    do ++next;
                    while (next < count && segments[next].depth == 0);
                }
            }
            copy_async_commit();
        };
        issue(0);
        int stage = 0;
        for (int segment = 0; segment < count; ++segment) {
            for (int k = 0; k < segments[segment].depth; k += kChunk) {
                copy_async_wait<0>();
                __syncthreads();  // this chunk is here for all, and all have read the one before
                issue(stage ^ 1);
                compute(sums, stages + stage * kStageBytes, segments[segment].depth - k,
                        resident ? resident + k * sizeof(T) : nullptr, resident_stride);
                stage ^= 1;
            }
        }
        copy_async_wait<0>();
        __syncthreads();
    }

    /// For every row and every pack of columns that this thread holds: use(row, column, float (&values)[V]).
    template <class Use>
    static __device__ __forceinline__ void each_pack(float (&sums)[MI][NI][4], Use use) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % kWarpsM, wn = warp / kWarpsM;
#pragma unroll
        for (int mi = 0; mi < MI; ++mi)
#pragma unroll
            for (int upper = 0; upper < 2; ++upper)
#pragma unroll
                for (int pack = 0; pack < kPacks; ++pack) {
                    float values[V];
#pragma unroll
                    for (int i = 0; i < V; ++i) values[i] = sums[mi][pack * (V / 2) + i / 2][2 * upper + i % 2];
                    use((wm * MI + mi) * 16 + 8 * upper + lane / 4, wn * 8 * NI + pack * 4 * V + lane % 4 * V, values);
                }
    }
};

}  // namespace audiogen
