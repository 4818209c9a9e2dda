// What the kernels use of the device, under names that say it: warp matrices, asynchronous copies, flags, 16-bit
// floats.
//
// Compiled by nvcc these are the PTX instructions. Compiled by a C++ compiler (AUDIOGEN_EMULATED) the header
// cuda_on_host.h of tests/ops/emulation supplies the same names, and the kernels run on the CPU, thread by thread.
#pragma once

#include <cstdint>
#include <type_traits>

#ifdef AUDIOGEN_EMULATED
#include "cuda_on_host.h"
#define AUDIOGEN_ONE_COPY
#define AUDIOGEN_IS_SHARED(pointer)
#define AUDIOGEN_IS_GLOBAL(pointer)
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

using bf16 = __nv_bfloat16;

// Functions that are called from many places and are long: one copy of the machine code. What inlining would have told
// the compiler, in which memory a pointer points, is told by hand.
#define AUDIOGEN_ONE_COPY __noinline__
#define AUDIOGEN_IS_SHARED(pointer) __builtin_assume(__isShared(pointer))
#define AUDIOGEN_IS_GLOBAL(pointer) __builtin_assume(__isGlobal(pointer))

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(half x) { return __half2float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ half from_float<half>(float x) {
    return __float2half(x);
}

/// One instruction; absolute error below 5e-4, for results that are rounded to 16 bits.
__device__ __forceinline__ float tanh_approximate(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t to_tf32(float x) {
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

/// 16 bytes from global to shared memory, past the registers; zeros where not valid (`from` is then not read).
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// ldmatrix.x4: lane 8 i + r gives the address of row r of matrix i (16 bytes); lane l receives of each matrix the
/// 4 bytes at row l / 4, byte 4 (l % 4). With TF32 elements that is element l % 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}
/// The same, transposed (16-bit elements only): rows 2 (l % 4) and + 1, column l / 4.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// d += a b, (16 x 32 bytes) (32 bytes x 8), float32 sums; with g = lane / 4, t = lane % 4:
///   a[i]: row g + 8 (i % 2); 16-bit: columns 2 t + 8 (i / 2) and + 1; TF32: column t + 4 (i / 2)
///   b[i]: column g;          16-bit: rows 2 t + 8 i and + 1;          TF32: row t + 4 i
///   d[i]: row g + 8 (i / 2), column 2 t + i % 2
template <class T>
__device__ __forceinline__ void matrix_multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define AUDIOGEN_MMA(type, shape)                                                                                 \
    template <>                                                                                                   \
    __device__ __forceinline__ void matrix_multiply<type>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,     \
                                                          uint32_t b1) {                                          \
        asm volatile("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                             \
    }
AUDIOGEN_MMA(bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
AUDIOGEN_MMA(half, "m16n8k16.row.col.f32.f16.f16.f32")
AUDIOGEN_MMA(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef AUDIOGEN_MMA

/// d += a b of bytes with sign, (16 x 32) (32 x 8), int32 sums: a[i] is row g + 8 (i % 2), columns 4 t + 16 (i / 2) to
/// + 3; b[i] column g, rows 4 t + 16 i to + 3; d as above.
__device__ __forceinline__ void matrix_multiply_int8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char audiogen_shared[];
    return audiogen_shared;
}
#endif

/// 16 bytes of elements: what one thread loads and stores at once.
template <class T>
struct alignas(16) Pack {
    static constexpr int kSize = 16 / sizeof(T);
    T values[kSize];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
    union {
        uint4 bits;
        Pack<T> pack;
    } both = {*reinterpret_cast<const uint4*>(from)};
    return both.pack;
}
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&pack);
#ifdef AUDIOGEN_EMULATED
    emulation::wrote(to);
#endif
}

/// tanh and the logistic function: exact to float32 rounding for float32, one instruction each for 16-bit types.
template <class T>
__device__ __forceinline__ float tanh_of(float x) {
    if constexpr (sizeof(T) == 4)
        return 1.0f - 2.0f / (1.0f + expf(2.0f * x));
    else
        return tanh_approximate(x);
}
template <class T>
__device__ __forceinline__ float logistic_of(float x) {
    if constexpr (sizeof(T) == 4)
        return 1.0f / (1.0f + expf(-x));
    else
        return 0.5f + 0.5f * tanh_approximate(0.5f * x);
}
