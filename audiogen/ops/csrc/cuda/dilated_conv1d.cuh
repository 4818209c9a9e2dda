// One step of a causal dilated convolution (audiogen/ops/dilated_conv1d.py has the formula). The convolution over time
// and its gradients are in convolution.cuh.
//
// Layout: x (batch, channels), ring (batch, dilation * (kernel - 1), channels), weight (outputs, channels, kernel), all
// contiguous. One warp makes one output of one item; lanes walk over channels and taps. A second kernel writes x into
// the ring, whose oldest slot the first one reads.
//
// Bound: two launches, some 5 us; the weights are read once (L2). For whole networks use wavenet_generate.
#pragma once

#include "launch.cuh"

namespace audiogen {

template <class T>
__global__ void convolution_step_kernel(const T* x, const T* ring, int64_t slots, int64_t position, const T* weight,
                                        const T* bias, T* y, int outputs, int channels, int kernel, int64_t dilation) {
    const int lane = threadIdx.x % 32, output = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int64_t item = blockIdx.y;
    if (output >= outputs) return;
    float sum = 0.0f;
    for (int at = lane; at < channels * kernel; at += 32) {
        const int channel = at / kernel, tap = at % kernel;
        const T value = tap == kernel - 1
                            ? x[item * channels + channel]
                            : ring[(item * slots + (position + tap * dilation) % slots) * channels + channel];
        sum += to_float(weight[static_cast<int64_t>(output) * channels * kernel + at]) * to_float(value);
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
    if (lane == 0) y[item * outputs + output] = from_float<T>(sum + (bias ? to_float(bias[output]) : 0.0f));
}

template <class T>
__global__ void ring_write_kernel(const T* x, T* ring, int64_t slots, int64_t slot, int channels) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel < channels)
        ring[(blockIdx.y * slots + slot) * channels + channel] =
            x[static_cast<int64_t>(blockIdx.y) * channels + channel];
}

}  // namespace audiogen
