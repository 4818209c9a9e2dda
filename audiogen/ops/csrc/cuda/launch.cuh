// Launching kernels: errors are checked, dynamic shared memory above 48 KiB is asked for. In the emulation a launch runs
// the kernel on the CPU.
#pragma once

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
#else
inline void check_cuda(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
    if (shared_bytes > 48 * 1024)
        check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared_bytes)), "shared memory of a kernel");
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check_cuda(cudaGetLastError(), "kernel launch");
}

/// All blocks on the chip at the same time: a cooperative launch, and in clusters where cluster_size > 1 (sm_90).
template <class... Parameters, class... Arguments>
void launch_together(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, int cluster_size,
                     cudaStream_t stream, Arguments... arguments) {
    const void* function = reinterpret_cast<const void*>(kernel);
    check_cuda(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
               "shared memory of a kernel");
    if (cluster_size > 8)
        check_cuda(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "a cluster of 16");
    cudaLaunchAttribute attributes[2];
    attributes[0].id = cudaLaunchAttributeCooperative;
    attributes[0].val.cooperative = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster_size);
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = cluster_size > 1 ? 2 : 1;
    check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "cooperative launch");
}
#endif
