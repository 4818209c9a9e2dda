// Launching kernels: errors are checked, dynamic shared memory above 48 KiB is asked for. In the emulation a launch
// runs the kernel on the CPU.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "device.cuh"

#ifdef AUDIOGEN_EMULATED
inline void check_cuda(int) {}
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments... arguments) {
    emulation::launch(kernel, grid, block, shared_bytes, 1, false, arguments...);
}
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, int cluster_size,
                     cudaStream_t, Arguments... arguments) {
    emulation::launch(kernel, grid, block, shared_bytes, cluster_size, true, arguments...);
}
template <class... Parameters>
int clusters_at_once(void (*)(Parameters...), dim3, size_t, int cluster_size) {
    return cluster_size > 16 ? 0 : 2;
}
template <class... Parameters>
int most_threads(void (*)(Parameters...)) {
    return 1024;
}
#else
inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

/// The launch of a kernel whose blocks wait for each other.
template <class... Parameters>
cudaLaunchConfig_t configure(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                             int cluster_size, cudaStream_t stream, cudaLaunchAttribute& attribute) {
    const void* function = reinterpret_cast<const void*>(kernel);
    check_cuda(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "shared memory of a kernel");
    if (cluster_size > 8)
        check_cuda(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
                   "a cluster of 16");
    if (cluster_size > 1) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = static_cast<unsigned>(cluster_size);
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    } else {
        attribute.id = cudaLaunchAttributeCooperative;
        attribute.val.cooperative = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return config;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
    if (shared_bytes > 48 * 1024)
        check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
                   "shared memory of a kernel");
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check_cuda(cudaGetLastError(), "kernel launch");
}

/// Blocks that wait for each other. cluster_size 1: a cooperative launch, all blocks on the chip at once or an error.
/// Above: the blocks of each cluster are (sm_90); clusters must not wait for other clusters.
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, int cluster_size,
                     cudaStream_t stream, Arguments... arguments) {
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = configure(kernel, grid, block, shared_bytes, cluster_size, stream, attribute);
    check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launch of blocks together");
}

/// How many clusters of this size run at the same time; 0: none.
template <class... Parameters>
int clusters_at_once(void (*kernel)(Parameters...), dim3 block, size_t shared_bytes, int cluster_size) {
    cudaFuncAttributes compiled;
    check_cuda(cudaFuncGetAttributes(&compiled, reinterpret_cast<const void*>(kernel)), "a property of a kernel");
    if (compiled.ptxVersion < 90) return 0;  // translated from PTX for an older chip, which has no clusters
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config =
        configure(kernel, dim3(cluster_size), block, shared_bytes, cluster_size, nullptr, attribute);
    int count = 0;
    if (cudaOccupancyMaxActiveClusters(&count, reinterpret_cast<const void*>(kernel), &config) != cudaSuccess) {
        cudaGetLastError();  // forget it: the answer is none
        return 0;
    }
    return count;
}

/// Threads that a block of this kernel may have.
template <class... Parameters>
int most_threads(void (*kernel)(Parameters...)) {
    cudaFuncAttributes compiled;
    check_cuda(cudaFuncGetAttributes(&compiled, reinterpret_cast<const void*>(kernel)), "a property of a kernel");
    return compiled.maxThreadsPerBlock;
}
#endif

/// What the chip has room and instructions for.
struct Limits {
    int shared_bytes;  // of a block
    int capability;    // 90: sm_90

    /// Whether 16-bit products go by wgmma: on sm_90, where this build has code for it (sm_90a; `kernel`, any that uses
    /// it, then takes more than 32 threads). AUDIOGEN_TENSOR_CORES: auto; mma, to compare; wgmma, an error where it is
    /// not to be had.
    template <class... Parameters>
    bool warpgroups(void (*kernel)(Parameters...)) const {
        const char* set = std::getenv("AUDIOGEN_TENSOR_CORES");
        const std::string wish = set ? set : "auto";
        if (wish == "mma") return false;
        if (wish != "auto" && wish != "wgmma")
            throw std::runtime_error("AUDIOGEN_TENSOR_CORES=" + wish + ": one of auto, mma, wgmma is needed");
        const bool there = capability == 90 && most_threads(kernel) > 32;
        if (wish == "wgmma" && !there)
            throw std::runtime_error("AUDIOGEN_TENSOR_CORES=wgmma: needs sm_90 and kernels built for sm_90a");
        return there;
    }
};
