// wgmma, the matrix instructions of Hopper (sm_90a): four warps multiply tiles that both lie in shared memory, and go
// on while they are at it.
//
// What orders what (PTX ISA, "Asynchronous warpgroup-level matrix instructions"):
//   * wgmma reads shared memory through the async proxy. Who writes a tile by st.shared or cp.async says
//     `fence_async_proxy` after that, and then meets the readers at a barrier.
//   * `warpgroup_fence` comes after the last ordinary access to the sums and before the first wgmma that adds to them.
//   * `warpgroup_commit` closes a group of wgmma; `warpgroup_wait<n>` waits until at most n groups run. Until then the
//     sums must not be touched and the tiles not be written.
//
// Tiles. K-major (rows of a, columns of b; 16-bit elements along K), 128-byte swizzle: 64 elements of K of a row are
// 128 bytes, 8 rows are 1024 bytes and begin at a multiple of 1024. Within those, the 16-byte piece p of row r lies at
// place p ^ r % 8: the hardware flips bits 4-6 of an address by its bits 7-9. A step of 16 elements of K further is 32
// bytes further in the address that the descriptor names; the flip is taken of the whole address.
//
// A descriptor (64 bits): 0-13 address / 16, 16-29 leading offset / 16 (of no meaning here: 1), 32-45 stride offset /
// 16 (from 8 rows to the next 8: 1024 / 16), 49-51 base offset (0, for the 8 rows begin at a multiple of 1024), 62-63
// the swizzle (1: 128 bytes).
#pragma once

#include "device.cuh"

#ifndef AUDIOGEN_EMULATED
// Code is made where the chip's own features are on: sm_90a, not sm_90.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define AUDIOGEN_HAS_WGMMA true
#else
#define AUDIOGEN_HAS_WGMMA false
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define AUDIOGEN_ON_HOPPER(...) asm volatile(__VA_ARGS__)
#else
#define AUDIOGEN_ON_HOPPER(...) __trap()
#endif

__device__ __forceinline__ void fence_async_proxy() {
    AUDIOGEN_ON_HOPPER("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void warpgroup_fence() { AUDIOGEN_ON_HOPPER("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() {
    AUDIOGEN_ON_HOPPER("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void warpgroup_wait() {
    AUDIOGEN_ON_HOPPER("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

/// The compiler must not move accesses of this number past here.
__device__ __forceinline__ void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }

/// d += a b of the four warps: 64 rows of a, N columns of b, 16 of K, named by descriptors. Warp w of the four has rows
/// 16 w .. 16 w + 15; with g = lane / 4, t = lane % 4: d[4 j + i] is row g + 8 (i / 2), column 8 j + 2 t + i % 2.
template <class T, int N>
__device__ __forceinline__ void warpgroup_multiply(float* d, uint64_t a, uint64_t b);

#define AUDIOGEN_D8(i)                                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define AUDIOGEN_D32(i) AUDIOGEN_D8(i), AUDIOGEN_D8(i + 8), AUDIOGEN_D8(i + 16), AUDIOGEN_D8(i + 24)
#define AUDIOGEN_R0                                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define AUDIOGEN_R32                                                                                              \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
    "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AUDIOGEN_R64                                                                                              \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, " \
    "%85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define AUDIOGEN_R96                                                                                                   \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, " \
    "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// The operands after the sums: the descriptors; then d is added to (p), nothing is negated, both tiles are K-major.
#define AUDIOGEN_WGMMA(type, name, n, registers, a_operand, b_operand, ...)                                       \
    template <>                                                                                                   \
    __device__ __forceinline__ void warpgroup_multiply<type, n>(float* d, uint64_t a, uint64_t b) {               \
        AUDIOGEN_ON_HOPPER("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                             \
                           "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." name "." name " {" registers        \
                           "}, " a_operand ", " b_operand ", p, 1, 1, 0, 0;\n}"                           \
                           : __VA_ARGS__                                                                          \
                           : "l"(a), "l"(b));                                                                     \
    }
#define AUDIOGEN_WGMMAS(type, name)                                                                                   \
    AUDIOGEN_WGMMA(type, name, 64, AUDIOGEN_R0, "%32", "%33", AUDIOGEN_D32(0))                                        \
    AUDIOGEN_WGMMA(type, name, 128, AUDIOGEN_R0 AUDIOGEN_R32, "%64", "%65", AUDIOGEN_D32(0), AUDIOGEN_D32(32))        \
    AUDIOGEN_WGMMA(type, name, 256, AUDIOGEN_R0 AUDIOGEN_R32 AUDIOGEN_R64 AUDIOGEN_R96, "%128", "%129",               \
                   AUDIOGEN_D32(0), AUDIOGEN_D32(32), AUDIOGEN_D32(64), AUDIOGEN_D32(96))
AUDIOGEN_WGMMAS(bf16, "bf16")
AUDIOGEN_WGMMAS(half, "f16")
#undef AUDIOGEN_WGMMAS
#undef AUDIOGEN_WGMMA
#undef AUDIOGEN_R96
#undef AUDIOGEN_R64
#undef AUDIOGEN_R32
#undef AUDIOGEN_R0
#undef AUDIOGEN_D32
#undef AUDIOGEN_D8
#endif

/// The descriptor of a tile as described above.
__device__ __forceinline__ uint64_t swizzled_descriptor(const void* tile) {
    constexpr uint64_t kLeading = 1, kStride = 1024 / 16, kSwizzle128 = 1;
    return (shared_address(tile) & 0x3FFFFu) >> 4 | kLeading << 16 | kStride << 32 | kSwizzle128 << 62;
}
