// The main loop of tile_gemm.cuh by wgmma (sm_90a, 16-bit types): 128 rows, GROUPS * 8 * NI columns.
//
// Layout. 256 threads are two warpgroups, each of 64 rows and all columns, so that every tile of weights is read by
// both. The same chunks of 128 bytes of K as with mma, the same swizzle (it is wgmma's own); three stages: while the
// tensor cores are at chunk i, chunk i + 1 comes by cp.async, and the last readers of chunk i - 1 end. One barrier a
// chunk: it says that chunk i is here for both warpgroups, and that both are done with chunk i - 2, whose stage chunk i
// + 1 takes.
//
// Bound (H200: 4096 16-bit FLOP, 128 bytes of shared memory and about 38 bytes of L2 a clock and multiprocessor). A
// step of K of m64n256k16 is 128 clocks of the tensor cores and reads 10 KB of shared memory (80 clocks); of m64n128k16
// 64 and 6 KB (48). Both leave room for cp.async. L2 is the tighter one: a chunk of 128 rows and 256 columns is 48 KB
// for 1024 clocks (48 bytes a clock: the tensor cores wait a fifth of the time), of 128 columns 32 KB for 512 (64: they
// wait two fifths). Hence 256 columns where there are that many. What would take L2 out: two blocks of a cluster that
// hand each other their half of the weights (multicast), which halves the larger part.
//   The layer, 128 channels, skips and gates: 33.5 MFLOP per 128 steps = 8,192 clocks; 352 KB from L2 = 9,300; tanh and
// logistic 32,768 results at 16 a clock = 2,048, alone in the block (one block a multiprocessor). mma.sync: the tensor
// cores reach 62 % of their rate = 13,200 clocks, 448 KB = 11,800, behind which the gates of another block hide.
//   Where it does not pay: the weights' gradient (64 x 64 tiles are bound by L2 at 28 % of the peak, by mma.sync too),
// float32 (three products by TF32 want their operands split in registers).
#pragma once

#include "tile_gemm.cuh"
#include "warpgroup.cuh"

namespace audiogen {

template <class T, int GROUPS, int NI>
struct WarpgroupTile {
    using Element = T;
    static constexpr bool kCompiled = AUDIOGEN_HAS_WGMMA;
    static constexpr int kRows = 128, kGroups = GROUPS, kColumns = GROUPS * 8 * NI, kChunk = kChunkBytes / sizeof(T);
    // A kernel without code says so by the threads that it takes: the host asks before it launches.
    static constexpr int kBound = kCompiled ? kThreads : 32, kMinBlocks = kColumns > 128 || !kCompiled ? 1 : 2;
    static constexpr int kDepth = 3, kStageBytes = (kRows + kColumns) * kChunkBytes,
                         kSharedBytes = kDepth * kStageBytes;
    static constexpr int V = 16 / sizeof(T), kPacks = NI * 2 / V;
    static_assert(sizeof(T) == 2 && NI % 4 == 0 && kThreads == 256);
    using Sums = float[GROUPS][NI][4];
    using Narrow = WarpgroupTile<T, GROUPS, NI / 2>;

    static __device__ __forceinline__ int row_of(int) { return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4; }
    static __device__ __forceinline__ int column_of_group(int group) { return group * 8 * NI; }

    // A resident A: tiles of 128 bytes of K, swizzled as the stages are.
    static constexpr int kWhole = kChunk;
    static __host__ __device__ constexpr int resident_bytes(int depth) {
        return divide_up(depth, kChunk) * kRows * kChunkBytes;
    }
    static __device__ __forceinline__ T* resident_pack(unsigned char* resident, int, int row, int k) {
        return reinterpret_cast<T*>(swizzled(resident + k / kChunk * kRows * kChunkBytes, row, k % kChunk / V));
    }

    template <class Column>
    static __device__ __forceinline__ void run(Sums& sums, unsigned char* stages, const Segment<T>* segments, int count,
                                               int first_row, int rows, Column column,
                                               unsigned char* resident = nullptr) {
        Chunks<T> next(segments, count), now(segments, count);
        auto issue = [&](int stage) {
            if (!next.any()) return;
            load_stage<T, kRows, kColumns>(stages + stage * kStageBytes, segments[next.segment], next.k, first_row,
                                           rows, resident == nullptr, column);
            copy_async_commit();
            next.advance();
        };
        const int own_rows = threadIdx.x / 128 * 64 * kChunkBytes;
        float* d = &sums[0][0][0];
        pin_all(sums);  // not in the loop: to the assembler that would be a use of sums that wgmma is busy with
        issue(0);
        for (int stage = 0; now.any(); now.advance()) {
            copy_async_wait<0>();
            fence_async_proxy();  // also of rows of a resident A
            __syncthreads();      // chunk i is here for all, and all are done with chunk i - 2
            const int following = stage == kDepth - 1 ? 0 : stage + 1;
            issue(following);
            unsigned char* a =
                resident ? resident + now.k / kChunk * kRows * kChunkBytes : stages + stage * kStageBytes;
            const uint64_t of_a = swizzled_descriptor(a + own_rows),
                           of_b = swizzled_descriptor(stages + stage * kStageBytes + kRows * kChunkBytes);
            warpgroup_fence();
#pragma unroll
            for (int step = 0; step < kChunkBytes / 32; ++step)  // 32 bytes are 2 units of an address
                warpgroup_multiply<T, kColumns>(d, of_a + 2 * step, of_b + 2 * step);
            warpgroup_commit();
            warpgroup_wait<1>();  // chunk i - 1
            stage = following;
        }
        warpgroup_wait<0>();
        pin_all(sums);
        __syncthreads();
    }

    static __device__ __forceinline__ void pin_all(Sums& sums) {
#pragma unroll
        for (int at = 0; at < GROUPS * NI * 4; ++at) pin((&sums[0][0][0])[at]);
    }

    template <class Use>
    static __device__ __forceinline__ void each_pack(Sums& sums, Use use) {
        each_pack_of<WarpgroupTile>(sums, use);
    }
};

}  // namespace audiogen
