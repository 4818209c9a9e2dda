// CUDA kernels on the CPU: the very source that nvcc compiles, run thread by thread, so that a machine without a GPU
// can prove indices, barriers and fragment layouts.
//
// Every CUDA thread is a fiber with a stack of its own. A fiber runs until it meets the others: at a block barrier, in
// a warp-wide instruction (shuffle, ldmatrix, mma), or while it spins on memory. What makes faults visible:
//   * shared memory begins as NaN (0xFF bytes) and ends in a guard zone that is checked;
//   * cp.async lands only when it is waited for, never earlier;
//   * AUDIOGEN_EMULATION_LOG=<file> lists the launches: blocks, threads, blocks of a cluster, whether all run together;
//   * any one barrier, fence or wait can be left out: AUDIOGEN_EMULATION_SKIP=<file>:<line> of the call;
//   * the order in which fibers run is chosen by AUDIOGEN_EMULATION_ORDER, so that a missing barrier gives different
//     results in one of the orders: 0 forward, 1 backward, 2 and 3 one warp as far as it gets while all others stand
//     still (the first one, or the last), n > 3 shuffled by seed n;
//   * lanes of a warp that meet in different instructions, threads that leave while others wait at a barrier, and
//   blocks
//     that wait for each other for ever abort with a message;
//   * misaligned 16-byte accesses abort.
// What it cannot show: speed, register pressure, and the memory model (a store is seen at once by all, in program
// order).
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
using cudaStream_t = void*;

namespace emulation {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated CUDA kernel: %s\n", what);
    std::abort();
}

struct Block;
struct Copy {
    void* to;
    const void* from;
    bool valid;
};

struct Fiber {
    dim3 thread, block;
    int lane = 0, warp = 0;
    Block* home = nullptr;
    bool started = false, done = false;
    ucontext_t context;
    jmp_buf jump;
    std::vector<Copy> open;                    // cp.async issued, not committed
    std::vector<std::vector<Copy>> committed;  // groups, oldest first
    std::vector<const unsigned char*> written;  // 16 bytes each in shared memory, not yet for the async proxy to see
};

struct WarpgroupState;  // warpgroup_on_host.h

struct Warp {
    void* arguments[32];
    Fiber* fibers[32];
    int arrived = 0;
    const void* operation = nullptr;
    std::shared_ptr<WarpgroupState> warpgroup;
};

struct Barrier {
    std::vector<Fiber*> waiting;
};

struct Block {
    dim3 index;
    std::vector<Fiber*> fibers;
    std::vector<Warp> warps;
    Barrier barriers[16];
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    std::vector<unsigned char> async_view;  // shared memory as the async proxy sees it; empty: it was never asked
    int cluster = 0, rank = 0;  // of the cluster; rank in it
};

constexpr size_t kStack = 128 * 1024, kGuard = 256;

struct Machine {
    dim3 grid, block;
    int cluster_size = 1;
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<Fiber*> ready, next;
    std::vector<Fiber*> cluster_waiting;  // at the barrier of all blocks of a cluster
    std::function<void()> body;
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    Fiber* current = nullptr;
    std::vector<std::unique_ptr<char[]>> stacks;
    std::mt19937 shuffle;
    int order = 0;
    long long spins = 0;
    bool progress = false;
    std::string skip_file;  // planted fault: barriers, fences and waits in this line do nothing
    int skip_line = -1;
};

inline Machine& machine() {
    static Machine it;
    return it;
}
inline Fiber& me() { return *machine().current; }

/// Whether this call is the one that a test leaves out.
inline bool skipped(const char* file, int line) {
    const Machine& m = machine();
    if (m.skip_line != line) return false;
    const char* name = std::strrchr(file, '/');
    return m.skip_file == (name ? name + 1 : file);
}

/// A thread wrote 16 bytes to memory.
inline void wrote(const void* to) {
    Fiber& fiber = me();
    const auto* at = static_cast<const unsigned char*>(to);
    if (at >= fiber.home->shared && at < fiber.home->shared + fiber.home->shared_bytes) fiber.written.push_back(at);
}

inline void to_scheduler() {
    Machine& m = machine();
    if (!_setjmp(m.current->jump)) _longjmp(m.scheduler, 1);
}

inline void release(std::vector<Fiber*>& fibers) {
    Machine& m = machine();
    m.progress = true;
    m.next.insert(m.next.end(), fibers.begin(), fibers.end());
    fibers.clear();
}

inline void barrier(int id, int threads) {
    Fiber& fiber = me();
    Barrier& here = fiber.home->barriers[id];
    machine().progress = true;
    here.waiting.push_back(&fiber);
    if (static_cast<int>(here.waiting.size()) == threads) release(here.waiting);
    to_scheduler();
}

inline void yield_spinning() {
    Machine& m = machine();
    m.next.push_back(m.current);
    ++m.spins;
    to_scheduler();
}

/// All 32 lanes meet; the last one to come does the work for all.
template <class F>
void warp_wide(const void* operation, void* arguments, F&& work) {
    Fiber& fiber = me();
    Warp& warp = fiber.home->warps[fiber.warp];
    if (warp.arrived && warp.operation != operation) fail("lanes of one warp meet in different instructions");
    machine().progress = true;
    warp.operation = operation;
    warp.arguments[fiber.lane] = arguments;
    warp.fibers[fiber.lane] = &fiber;
    if (++warp.arrived < 32) return to_scheduler();
    work(warp.arguments);
    warp.arrived = 0;
    Machine& m = machine();
    m.progress = true;
    for (int lane = 0; lane < 32; ++lane)
        if (lane != fiber.lane) m.next.push_back(warp.fibers[lane]);
}

inline void entry() {
    Machine& m = machine();
    m.body();
    m.current->done = true;
    m.progress = true;
    _longjmp(m.scheduler, 1);
}

inline void run_fiber(Fiber* fiber) {
    Machine& m = machine();
    m.current = fiber;
    if (_setjmp(m.scheduler)) return;
    if (fiber->started) _longjmp(fiber->jump, 1);
    fiber->started = true;
    setcontext(&fiber->context);
}

inline void arrange(std::vector<Fiber*>& fibers) {
    Machine& m = machine();
    if (m.order == 1) std::reverse(fibers.begin(), fibers.end());
    if (m.order > 3) std::shuffle(fibers.begin(), fibers.end(), m.shuffle);
}

/// Leave the fibers of the first (or last) warp in `fibers`; -> the others.
inline std::vector<Fiber*> all_but_one_warp(std::vector<Fiber*>& fibers, bool last) {
    auto key = [](const Fiber* fiber) { return std::make_pair(fiber->home, fiber->warp); };
    auto less = [&](const Fiber* a, const Fiber* b) { return a->warp < b->warp; };
    const Fiber* chosen = last ? *std::max_element(fibers.begin(), fibers.end(), less)
                               : *std::min_element(fibers.begin(), fibers.end(), less);
    std::vector<Fiber*> others;
    std::copy_if(fibers.begin(), fibers.end(), std::back_inserter(others),
                 [&](Fiber* fiber) { return key(fiber) != key(chosen); });
    fibers.erase(std::remove_if(fibers.begin(), fibers.end(), [&](Fiber* fiber) { return key(fiber) != key(chosen); }),
                 fibers.end());
    return others;
}

inline std::shared_ptr<WarpgroupState> new_warpgroup_state();
inline bool warpgroup_busy(const WarpgroupState& state);

/// Run these blocks together until all their threads have ended.
inline void run_blocks(std::vector<dim3> indices, size_t shared_bytes) {
    Machine& m = machine();
    const int threads = m.block.x * m.block.y * m.block.z;
    if (threads % 32) fail("a block is no whole number of warps");
    m.blocks.clear();
    m.ready.clear();
    std::vector<std::unique_ptr<Fiber>> fibers;
    size_t used = 0;
    const size_t room = (shared_bytes + 127) / 128 * 128;
    for (size_t number = 0; number < indices.size(); ++number) {
        auto block = std::make_unique<Block>();
        block->index = indices[number];
        block->warps.resize(threads / 32);
        for (Warp& warp : block->warps) warp.warpgroup = new_warpgroup_state();
        block->cluster = static_cast<int>(number) / m.cluster_size;
        block->rank = static_cast<int>(number) % m.cluster_size;
        block->shared = static_cast<unsigned char*>(std::aligned_alloc(1024, (room + kGuard + 1023) / 1024 * 1024));
        block->shared_bytes = room;
        std::memset(block->shared, 0xFF, room + kGuard);
        for (int thread = 0; thread < threads; ++thread) {
            auto fiber = std::make_unique<Fiber>();
            fiber->thread = dim3(thread % m.block.x, thread / m.block.x % m.block.y, thread / (m.block.x * m.block.y));
            fiber->block = block->index;
            fiber->home = block.get();
            fiber->lane = thread % 32;
            fiber->warp = thread / 32;
            if (used == m.stacks.size()) m.stacks.emplace_back(new char[kStack]);
            getcontext(&fiber->context);
            fiber->context.uc_stack.ss_sp = m.stacks[used++].get();
            fiber->context.uc_stack.ss_size = kStack;
            fiber->context.uc_link = nullptr;
            makecontext(&fiber->context, entry, 0);
            block->fibers.push_back(fiber.get());
            m.ready.push_back(fiber.get());
            fibers.push_back(std::move(fiber));
        }
        m.blocks.push_back(std::move(block));
    }
    long long idle = 0;
    while (!m.ready.empty()) {
        arrange(m.ready);
        m.next.clear();
        std::vector<Fiber*> standing;
        if ((m.order == 2 || m.order == 3) && !idle) standing = all_but_one_warp(m.ready, m.order == 3);
        m.progress = false;
        for (Fiber* fiber : m.ready) run_fiber(fiber);
        m.next.insert(m.next.end(), standing.begin(), standing.end());
        idle = m.progress ? 0 : idle + 1;
        if (idle > 20000) fail("blocks wait for each other for ever");
        m.ready.swap(m.next);
    }
    for (auto& fiber : fibers) {
        if (!fiber->done) fail("a thread waits at a barrier that the others never reach");
        if (m.skip_line < 0 && (!fiber->open.empty() || !fiber->committed.empty()))
            fail("cp.async was issued and never waited for");
    }
    for (auto& block : m.blocks) {
        for (const Warp& warp : block->warps)
            if (m.skip_line < 0 && warpgroup_busy(*warp.warpgroup)) fail("wgmma was issued and never waited for");
        for (size_t at = 0; at < kGuard; ++at)
            if (block->shared[room + at] != 0xFF) fail("shared memory was written past its end");
        std::free(block->shared);
    }
    m.blocks.clear();
}

/// A launch: block after block, or (together: cooperative and cluster launches) all blocks at once.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, int cluster_size, bool together,
            Arguments&&... arguments) {
    Machine& m = machine();
    if (!grid.x || !grid.y || !grid.z) fail("a launch with an empty grid");
    const char* order = std::getenv("AUDIOGEN_EMULATION_ORDER");
    m.order = order ? std::atoi(order) : 0;
    m.shuffle.seed(m.order);
    const char* skip = std::getenv("AUDIOGEN_EMULATION_SKIP");
    const char* colon = skip ? std::strchr(skip, ':') : nullptr;
    m.skip_file = colon ? std::string(skip, colon) : std::string();
    m.skip_line = colon ? std::atoi(colon + 1) : -1;
    m.grid = grid;
    m.block = block;
    m.cluster_size = cluster_size;
    if (const char* path = std::getenv("AUDIOGEN_EMULATION_LOG")) {
        std::FILE* log = std::fopen(path, "a");
        if (!log) fail("AUDIOGEN_EMULATION_LOG cannot be written to");
        std::fprintf(log, "%u %u %d %d\n", grid.x * grid.y * grid.z, block.x * block.y * block.z, cluster_size,
                     static_cast<int>(together));
        std::fclose(log);
    }
    std::tuple<std::decay_t<Parameters>...> bound(static_cast<std::decay_t<Parameters>>(arguments)...);
    m.body = [&] { std::apply(kernel, bound); };
    std::vector<dim3> all;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) all.emplace_back(x, y, z);
    if (together) return run_blocks(all, shared_bytes);
    for (dim3 index : all) run_blocks({index}, shared_bytes);
}

}  // namespace emulation

#define threadIdx (emulation::me().thread)
#define blockIdx (emulation::me().block)
#define blockDim (emulation::machine().block)
#define gridDim (emulation::machine().grid)

inline int emulated_threads() {
    const dim3 block = emulation::machine().block;
    return static_cast<int>(block.x * block.y * block.z);
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulation::skipped(file, line)) emulation::barrier(0, emulated_threads());
}

inline void emulated_syncwarp() {
    static const char name = 0;
    emulation::warp_wide(&name, nullptr, [](void**) {});
}
#define __syncwarp() emulated_syncwarp()

template <class T>
T __shfl_xor_sync(uint32_t, T value, int mask) {
    static const char name = 0;
    T got{};
    struct Slot {
        T value;
        int mask;
        T* got;
    } slot{value, mask, &got};
    emulation::warp_wide(&name, &slot, [](void** slots) {
        for (int lane = 0; lane < 32; ++lane) {
            Slot* own = static_cast<Slot*>(slots[lane]);
            *own->got = static_cast<Slot*>(slots[lane ^ own->mask])->value;
        }
    });
    return got;
}

template <class T>
T __shfl_up_sync(uint32_t, T value, int delta) {
    static const char name = 0;
    T got{};
    struct Slot {
        T value;
        int delta;
        T* got;
    } slot{value, delta, &got};
    emulation::warp_wide(&name, &slot, [](void** slots) {
        for (int lane = 0; lane < 32; ++lane) {
            Slot* own = static_cast<Slot*>(slots[lane]);
            *own->got = static_cast<Slot*>(slots[lane >= own->delta ? lane - own->delta : lane])->value;
        }
    });
    return got;
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
    return sum;
}
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }

// 16-bit floats, by their bits.
struct bf16 {
    uint16_t bits;
};
struct half {
    _Float16 value;
};
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}
inline float to_float(half x) { return static_cast<float>(x.value); }
template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return bf16{0x7FFF};
    return bf16{static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
}
template <>
inline half from_float<half>(float x) {
    return half{static_cast<_Float16>(x)};
}

inline float tanh_approximate(float x) { return std::tanh(x); }

/// float32 -> TF32: to nearest, ties away from zero (cvt.rna.tf32.f32).
inline uint32_t to_tf32(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return (bits + 0x1000u) & 0xFFFFE000u;
}

// ---------------------------------------------------------------------- asynchronous copies

inline void copy_async_16(void* to, const void* from, bool valid) {
    if (reinterpret_cast<uintptr_t>(to) % 16 || (valid && reinterpret_cast<uintptr_t>(from) % 16))
        emulation::fail("cp.async of 16 bytes is not aligned");
    emulation::me().open.push_back({to, from, valid});
}
inline void copy_async_commit() {
    emulation::Fiber& fiber = emulation::me();
    fiber.committed.push_back(std::move(fiber.open));
    fiber.open.clear();
}
template <int kLeft>
void copy_async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (emulation::skipped(file, line)) return;
    emulation::Fiber& fiber = emulation::me();
    while (static_cast<int>(fiber.committed.size()) > kLeft) {
        for (const emulation::Copy& copy : fiber.committed.front()) {
            if (copy.valid)
                std::memcpy(copy.to, copy.from, 16);
            else
                std::memset(copy.to, 0, 16);
            emulation::wrote(copy.to);
        }
        fiber.committed.erase(fiber.committed.begin());
    }
}

// ---------------------------------------------------------------------- warp matrices (PTX ISA, "Matrix Fragments")

/// ldmatrix.x4: lane 8 i + r gives the address of row r of matrix i (16 bytes); lane l receives, of each matrix, the
/// 4 bytes at row l / 4, byte 4 (l % 4). Transposed: two 16-bit elements, of rows 2 (l % 4) and + 1, column l / 4.
inline void emulated_ldmatrix(uint32_t (&to)[4], const void* row, bool transposed) {
    static const char names[2] = {0, 0};
    struct Slot {
        uint32_t* to;
        const unsigned char* row;
    } slot{to, static_cast<const unsigned char*>(row)};
    if (reinterpret_cast<uintptr_t>(row) % 16) emulation::fail("an ldmatrix row is not aligned to 16 bytes");
    emulation::warp_wide(&names[transposed], &slot, [transposed](void** slots) {
        for (int matrix = 0; matrix < 4; ++matrix)
            for (int lane = 0; lane < 32; ++lane) {
                uint32_t* word = static_cast<Slot*>(slots[lane])->to + matrix;
                if (!transposed) {
                    std::memcpy(word, static_cast<Slot*>(slots[8 * matrix + lane / 4])->row + 4 * (lane % 4), 4);
                    continue;
                }
                uint16_t parts[2];
                for (int part = 0; part < 2; ++part)
                    std::memcpy(&parts[part],
                                static_cast<Slot*>(slots[8 * matrix + 2 * (lane % 4) + part])->row + 2 * (lane / 4), 2);
                std::memcpy(word, parts, 4);
            }
    });
}
inline void load_matrices(uint32_t (&to)[4], const void* row) { emulated_ldmatrix(to, row, false); }
inline void load_matrices_transposed(uint32_t (&to)[4], const void* row) { emulated_ldmatrix(to, row, true); }

/// mma.m16n8k16 (16-bit) and m16n8k8 (TF32), with g = lane / 4, t = lane % 4:
///   a[i]: row g + 8 (i % 2); 16-bit: columns 2 t + 8 (i / 2) and + 1; TF32: column t + 4 (i / 2)
///   b[i]: column g;          16-bit: rows 2 t + 8 i and + 1;          TF32: row t + 4 i
///   d[i]: row g + 8 (i / 2), column 2 t + i % 2
template <class T>
void matrix_multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    static const char name = 0;
    struct Slot {
        float* d;
        const uint32_t* a;
        uint32_t b[2];
    } slot{d, a, {b0, b1}};
    emulation::warp_wide(&name, &slot, [](void** slots) {
        constexpr bool wide = std::is_same_v<T, float>;
        constexpr int depth = wide ? 8 : 16;
        float left[16][depth], right[depth][8];
        auto put = [](float* first, uint32_t word) {
            if constexpr (wide) {
                word &= 0xFFFFE000u;  // the unit reads 19 bits
                std::memcpy(first, &word, 4);
            } else {
                T parts[2];
                std::memcpy(parts, &word, 4);
                first[0] = to_float(parts[0]);
                first[1] = to_float(parts[1]);
            }
        };
        for (int lane = 0; lane < 32; ++lane) {
            const Slot* own = static_cast<Slot*>(slots[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i)
                put(&left[g + 8 * (i % 2)][wide ? t + 4 * (i / 2) : 2 * t + 8 * (i / 2)], own->a[i]);
            for (int i = 0; i < 2; ++i) {
                float pair[2];
                put(pair, own->b[i]);
                if constexpr (wide)
                    right[t + 4 * i][g] = pair[0];
                else
                    right[2 * t + 8 * i][g] = pair[0], right[2 * t + 8 * i + 1][g] = pair[1];
            }
        }
        for (int lane = 0; lane < 32; ++lane) {
            float* own = static_cast<Slot*>(slots[lane])->d;
            for (int i = 0; i < 4; ++i) {
                const float* row = left[lane / 4 + 8 * (i / 2)];
                const int column = 2 * (lane % 4) + i % 2;
                float sum = 0;
                for (int k = 0; k < depth; ++k) sum += row[k] * right[k][column];
                own[i] += sum;
            }
        }
    });
}

/// mma.m16n8k32 of bytes with sign: a[i] row g + 8 (i % 2), columns 4 t + 16 (i / 2) to + 3; b[i] column g, rows 4 t +
/// 16 i to + 3; d[i] row g + 8 (i / 2), column 2 t + i % 2.
inline void matrix_multiply_int8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    static const char name = 0;
    struct Slot {
        int* d;
        const uint32_t* a;
        uint32_t b[2];
    } slot{d, a, {b0, b1}};
    emulation::warp_wide(&name, &slot, [](void** slots) {
        int8_t left[16][32], right[8][32];
        for (int lane = 0; lane < 32; ++lane) {
            const Slot* own = static_cast<Slot*>(slots[lane]);
            for (int i = 0; i < 4; ++i)
                std::memcpy(&left[lane / 4 + 8 * (i % 2)][lane % 4 * 4 + 16 * (i / 2)], &own->a[i], 4);
            for (int i = 0; i < 2; ++i) std::memcpy(&right[lane / 4][lane % 4 * 4 + 16 * i], &own->b[i], 4);
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
                for (int k = 0; k < 32; ++k) static_cast<Slot*>(slots[lane])->d[i] += left[row][k] * right[column][k];
            }
    });
}

// ---------------------------------------------------------------------- shared memory, clusters, flags

inline unsigned char* dynamic_shared() { return emulation::me().home->shared; }
inline uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(at) - emulation::me().home->shared);
}

/// The same address in the shared memory of another block of the cluster.
template <class T>
T* shared_of(T* mine, int rank) {
    emulation::Block* home = emulation::me().home;
    const int number = home->cluster * emulation::machine().cluster_size + rank;
    return reinterpret_cast<T*>(emulation::machine().blocks.at(number)->shared +
                                (reinterpret_cast<unsigned char*>(mine) - home->shared));
}
inline int cluster_rank() { return emulation::me().home->rank; }
inline void cluster_barrier() {  // launches of several clusters meet in one barrier here: stricter order, same data
    emulation::Machine& m = emulation::machine();
    m.cluster_waiting.push_back(m.current);
    size_t threads = 0;
    for (auto& block : m.blocks) threads += block->fibers.size();
    if (m.cluster_waiting.size() == threads) emulation::release(m.cluster_waiting);
    emulation::to_scheduler();
}

inline void spin() { emulation::yield_spinning(); }

#include "warpgroup_on_host.h"
