// Snake without aliasing (audiogen/ops/anti_aliased_snake.py has the formulas): up-sample, snake, down-sample in one
// kernel, and its gradient in another. Filters of 12 taps, as published.
//
// Layout: any strides; a block loads a tile of 128 steps (and 5 on either side) of 32 channels into shared memory along
// whichever of time and channels is contiguous, so reads and writes are coalesced in both layouts. A thread then owns
// 16 steps of one channel in registers: 26 values of x, 42 of the doubled rate. Rows of shared memory are 33 floats
// long against bank conflicts.
//
// Edges are exact: beyond its ends x is continued by its end values, and so is the activation, not the sum before it.
// The gradient gives what reached a continuation to the end itself.
//
// float32 arithmetic whatever the type, and no zero of the doubled signal is multiplied. sin goes through a reduction
// by pi and the hardware's sine: error 1e-6 absolute.
//
// Bound, forward, per output: 2.6 x (6 multiply-adds + snake, about 12 instructions) + 12 = about 60 instructions; 8
// bytes (float32) or 4. H200: 132 x 128 lanes x 1.8 GHz / 60 = 5e11 outputs/s against 6e11 (float32) or 1.2e12 (16-bit)
// by memory: balanced in float32, bound by instructions in 16 bits. Backward: x, gradient in, gradient out: 12 bytes
// and about 130 instructions. Sums for alpha and beta: one partial a block, added in a fixed order by a second kernel.
// No atomics.
#pragma once

#include "launch.cuh"

namespace audiogen {

constexpr int kSnakeTaps = 12, kSnakeHalo = 5, kSnakeSteps = 16, kSnakeGroups = 8, kSnakeChannels = 32;
constexpr int kSnakeTile = kSnakeSteps * kSnakeGroups, kSnakeRows = kSnakeTile + 2 * kSnakeHalo;
constexpr int kSnakeWindow = kSnakeSteps + 2 * kSnakeHalo, kSnakeDoubled = 2 * kSnakeSteps + 10, kSnakeStride = 33;
constexpr int kSnakeThreads = kSnakeChannels * kSnakeGroups;

template <class T>
struct SnakeTensor {
    T* data;  // (batch, channels, time), by strides
    int64_t batch, channel, step;
};

template <class T>
struct Snake {
    SnakeTensor<const T> x;
    const float *alpha, *inverse_beta;  // (channels,)
    const float *up, *down;             // (12,)
    int batch, channels, time;
};

/// Steps first - 5 .. of a tile into shared memory, float32. Beyond the ends: the end values (`hold`) or zeros.
template <class T>
__device__ __forceinline__ void load_tile(float* tile, SnakeTensor<const T> from, int item, int first_channel,
                                          int first, int channels, int time, bool hold) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T* data = from.data + item * from.batch;
    auto value = [&](int row, int channel) {
        const int step = first - kSnakeHalo + row, inside = step < 0 ? 0 : step < time ? step : time - 1;
        if (first_channel + channel >= channels || (!hold && inside != step)) return 0.0f;
        return to_float(data[(first_channel + channel) * from.channel + inside * from.step]);
    };
    if (from.channel == 1)
        for (int row = warp; row < kSnakeRows; row += kSnakeGroups) tile[row * kSnakeStride + lane] = value(row, lane);
    else
        for (int channel = warp; channel < kSnakeChannels; channel += kSnakeGroups)
            for (int row = lane; row < kSnakeRows; row += 32) tile[row * kSnakeStride + channel] = value(row, channel);
}

/// Rows 0 .. 127 of a tile to memory.
template <class T>
__device__ __forceinline__ void store_tile(const float* tile, SnakeTensor<T> to, int item, int first_channel, int first,
                                           int channels, int time) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T* data = to.data + item * to.batch;
    auto put = [&](int row, int channel) {
        if (first + row < time && first_channel + channel < channels)
            data[(first_channel + channel) * to.channel + (first + row) * to.step] =
                from_float<T>(tile[row * kSnakeStride + channel]);
    };
    if (to.channel == 1)
        for (int row = warp; row < kSnakeTile; row += kSnakeGroups) put(row, lane);
    else
        for (int channel = warp; channel < kSnakeChannels; channel += kSnakeGroups)
            for (int row = lane; row < kSnakeTile; row += 32) put(row, channel);
}

/// sin of an angle, up to its sign, and cos, with the same sign: enough for sin^2 and for sin cos.
__device__ __forceinline__ void sine(float angle, float& sin, float& cos) {
    const float turns = rintf(angle * 0.318309886f);
    angle = fmaf(turns, -3.140625f, angle);  // pi in three parts, the first ones short enough that products are exact
    angle = fmaf(turns, -9.67502593994140625e-4f, angle);
    angle = fmaf(turns, -1.509957990978376432e-7f, angle);
    sin = __sinf(angle);
    cos = __cosf(angle);
}

/// u[n] = 2 sum_m taps[n + 5 - 2 m] x[m] at n = 2 first - 5 + i, with x[first - 5 + q] = window[q].
__device__ __forceinline__ float doubled(const float (&window)[kSnakeWindow], const float (&taps)[kSnakeTaps], int i) {
    float sum = 0.0f;
#pragma unroll
    for (int q = i / 2; q <= (i + 10) / 2; ++q)  // from ceil((i - 1) / 2)
        if (i + 10 - 2 * q >= 0 && i + 10 - 2 * q < kSnakeTaps) sum = fmaf(taps[i + 10 - 2 * q], window[q], sum);
    return sum;
}

template <class T>
__global__ void __launch_bounds__(kSnakeThreads) snake_kernel(Snake<T> p, SnakeTensor<T> y) {
    float* tile = reinterpret_cast<float*>(dynamic_shared());
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32, item = blockIdx.z;
    const int first_channel = blockIdx.y * kSnakeChannels, tile_first = blockIdx.x * kSnakeTile,
              first = tile_first + group * kSnakeSteps;
    const int channel = first_channel + lane < p.channels ? first_channel + lane : p.channels - 1;
    load_tile(tile, p.x, item, first_channel, tile_first, p.channels, p.time, true);
    const float alpha = p.alpha[channel], inverse_beta = p.inverse_beta[channel];
    float up[kSnakeTaps], down[kSnakeTaps], window[kSnakeWindow], v[kSnakeDoubled];
#pragma unroll
    for (int j = 0; j < kSnakeTaps; ++j) up[j] = 2.0f * p.up[j], down[j] = p.down[j];
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kSnakeWindow; ++q) window[q] = tile[(group * kSnakeSteps + q) * kSnakeStride + lane];
    __syncthreads();  // all have their windows: the tile takes the results
#pragma unroll
    for (int i = 0; i < kSnakeDoubled; ++i) {
        const float u = doubled(window, up, i);
        float sin, cos;
        sine(alpha * u, sin, cos);
        v[i] = fmaf(inverse_beta, sin * sin, u);
        if (i && 2 * first - 5 + i > 2 * p.time - 1) v[i] = v[i - 1];  // the activation goes on with its last value
    }
    if (first == 0)
#pragma unroll
        for (int i = 0; i < 5; ++i) v[i] = v[5];
#pragma unroll
    for (int step = 0; step < kSnakeSteps; ++step) {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < kSnakeTaps; ++j) sum = fmaf(down[j], v[2 * step + j], sum);
        tile[(group * kSnakeSteps + step) * kSnakeStride + lane] = sum;
    }
    __syncthreads();
    store_tile(tile, y, item, first_channel, tile_first, p.channels, p.time);
}

/// Gradient of x, and of every block the sums over its steps of grad_v u sin(2 alpha u) / beta and grad_v sin^2(alpha
/// u): partial (batch * tiles, 2, channels).
template <class T>
__global__ void __launch_bounds__(kSnakeThreads)
    snake_gradient_kernel(Snake<T> p, SnakeTensor<const T> grad, SnakeTensor<T> grad_x, float* partial) {
    float* tile = reinterpret_cast<float*>(dynamic_shared());
    float* grad_tile = tile + kSnakeRows * kSnakeStride;
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32, item = blockIdx.z;
    const int first_channel = blockIdx.y * kSnakeChannels, tile_first = blockIdx.x * kSnakeTile,
              first = tile_first + group * kSnakeSteps;
    const int channel = first_channel + lane < p.channels ? first_channel + lane : p.channels - 1,
              last = 2 * p.time - 1;
    load_tile(tile, p.x, item, first_channel, tile_first, p.channels, p.time, true);
    load_tile(grad_tile, grad, item, first_channel, tile_first, p.channels, p.time, false);
    const float alpha = p.alpha[channel], inverse_beta = p.inverse_beta[channel];
    float up[kSnakeTaps], down[kSnakeTaps], window[kSnakeWindow], of_u[kSnakeDoubled];
#pragma unroll
    for (int j = 0; j < kSnakeTaps; ++j) up[j] = 2.0f * p.up[j], down[j] = p.down[j];
    __syncthreads();

    // What the continuation of the activation received, for its ends: y[t] near an end reads beyond it.
    auto grad_at = [&](int t) {
        return t < 0 || t >= p.time ? 0.0f
                                    : to_float(grad.data[item * grad.batch + channel * grad.channel + t * grad.step]);
    };
    float of_begin = 0.0f, of_end = 0.0f;
    if (first == 0)
        of_begin = grad_at(0) * (down[0] + down[1] + down[2] + down[3] + down[4]) +
                   grad_at(1) * (down[0] + down[1] + down[2]) + grad_at(2) * down[0];
    if (first < p.time && 2 * first - 5 + kSnakeDoubled > last)
        of_end = grad_at(p.time - 1) * (down[7] + down[8] + down[9] + down[10] + down[11]) +
                 grad_at(p.time - 2) * (down[9] + down[10] + down[11]) + grad_at(p.time - 3) * down[11];

#pragma unroll
    for (int q = 0; q < kSnakeWindow; ++q) window[q] = grad_tile[(group * kSnakeSteps + q) * kSnakeStride + lane];
#pragma unroll
    for (int i = 0; i < kSnakeDoubled;
         ++i) {  // gradient of v: the adjoint of halving the rate has the form of doubling it
        const int n = 2 * first - 5 + i;
        const float of_v = doubled(window, down, i) + (n == 0 ? of_begin : 0.0f) + (n == last ? of_end : 0.0f);
        of_u[i] = n < 0 || n > last ? 0.0f : of_v;
    }
#pragma unroll
    for (int q = 0; q < kSnakeWindow; ++q) window[q] = tile[(group * kSnakeSteps + q) * kSnakeStride + lane];
    float of_alpha = 0.0f, of_inverse_beta = 0.0f;
#pragma unroll
    for (int i = 0; i < kSnakeDoubled; ++i) {
        const float u = doubled(window, up, i);
        float sin, cos;
        sine(alpha * u, sin, cos);
        const float slope = 2.0f * sin * cos * inverse_beta;  // sin(2 alpha u) / beta
        if (i >= 5 && i < 5 + 2 * kSnakeSteps) {              // every n counts in the block that owns it
            of_alpha = fmaf(of_u[i], u * slope, of_alpha);
            of_inverse_beta = fmaf(of_u[i], sin * sin, of_inverse_beta);
        }
        of_u[i] = fmaf(of_u[i], alpha * slope, of_u[i]);
    }
    float of_first_x = 0.0f, of_last_x = 0.0f;  // what the continuation of x received
    if (first == 0) {
#pragma unroll
        for (int n = 0; n < 5; ++n) of_first_x = fmaf(up[n + 7], of_u[n + 5], of_first_x);
#pragma unroll
        for (int n = 0; n < 3; ++n) of_first_x = fmaf(up[n + 9], of_u[n + 5], of_first_x);
        of_first_x = fmaf(up[11], of_u[5], of_first_x);
    }
    if (first < p.time && p.time <= first + kSnakeSteps) {
        const float weights[5] = {up[4] + up[2] + up[0], up[3] + up[1], up[2] + up[0], up[1],
                                  up[0]};  // at 2 time - 1, - 2, ...
#pragma unroll
        for (int i = 0; i < kSnakeDoubled; ++i)
#pragma unroll
            for (int back = 0; back < 5; ++back)
                if (2 * first - 5 + i == last - back) of_last_x = fmaf(weights[back], of_u[i], of_last_x);
    }
    __syncthreads();  // windows are read: the tiles take results
#pragma unroll
    for (int step = 0; step < kSnakeSteps; ++step) {
        float sum = (first + step == 0 ? of_first_x : 0.0f) + (first + step == p.time - 1 ? of_last_x : 0.0f);
#pragma unroll
        for (int j = 0; j < kSnakeTaps; ++j) sum = fmaf(up[j], of_u[2 * step + j], sum);
        tile[(group * kSnakeSteps + step) * kSnakeStride + lane] = sum;
    }
    grad_tile[(2 * group) * kSnakeStride + lane] = of_alpha;
    grad_tile[(2 * group + 1) * kSnakeStride + lane] = of_inverse_beta;
    __syncthreads();
    store_tile(tile, grad_x, item, first_channel, tile_first, p.channels, p.time);
    if (group < 2 && first_channel + lane < p.channels) {
        float sum = 0.0f;
        for (int other = 0; other < kSnakeGroups; ++other) sum += grad_tile[(2 * other + group) * kSnakeStride + lane];
        partial[((static_cast<int64_t>(item) * gridDim.x + blockIdx.x) * 2 + group) * p.channels + first_channel +
                lane] = sum;
    }
}

/// One warp a channel: the sums of all blocks in a fixed order, and the way through 1 / (beta + eps) and the
/// logarithms.
__global__ void snake_sums_kernel(const float* partial, int count, int channels, const float* alpha,
                                  const float* inverse_beta, float eps, bool logscale, float* of_alpha,
                                  float* of_beta) {
    const int channel = blockIdx.x, lane = threadIdx.x;
    float sums[2] = {0.0f, 0.0f};
    for (int at = lane; at < count; at += 32)
        for (int which = 0; which < 2; ++which)
            sums[which] += partial[(static_cast<int64_t>(at) * 2 + which) * channels + channel];
#pragma unroll
    for (int distance = 16; distance; distance /= 2)
        for (int which = 0; which < 2; ++which) sums[which] += __shfl_xor_sync(0xFFFFFFFFu, sums[which], distance);
    if (lane) return;
    const float inverse = inverse_beta[channel], beta = 1.0f / inverse - eps;
    of_alpha[channel] = sums[0] * (logscale ? alpha[channel] : 1.0f);
    of_beta[channel] = -sums[1] * inverse * inverse * (logscale ? beta : 1.0f);
}

/// alpha, 1 / (beta + eps) from the parameters.
template <class T>
__global__ void snake_scales_kernel(const T* alpha, const T* beta, int channels, float eps, bool logscale, float* scale,
                                    float* inverse) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    const float a = to_float(alpha[channel]), b = to_float(beta[channel]);
    scale[channel] = logscale ? expf(a) : a;
    inverse[channel] = 1.0f / ((logscale ? expf(b) : b) + eps);
}

template <class T>
dim3 snake_grid(const Snake<T>& p) {
    return dim3((p.time + kSnakeTile - 1) / kSnakeTile, (p.channels + kSnakeChannels - 1) / kSnakeChannels, p.batch);
}
template <class T>
void snake(const Snake<T>& p, SnakeTensor<T> y, cudaStream_t stream) {
    launch(snake_kernel<T>, snake_grid(p), dim3(kSnakeThreads), kSnakeRows * kSnakeStride * sizeof(float), stream, p,
           y);
}
/// partial: snake_grid(p).x * batch * 2 * channels floats.
template <class T>
void snake_gradient(const Snake<T>& p, SnakeTensor<const T> grad, SnakeTensor<T> grad_x, float* partial, float eps,
                    bool logscale, float* of_alpha, float* of_beta, cudaStream_t stream) {
    const dim3 grid = snake_grid(p);
    launch(snake_gradient_kernel<T>, grid, dim3(kSnakeThreads), 2 * kSnakeRows * kSnakeStride * sizeof(float), stream,
           p, grad, grad_x, partial);
    launch(snake_sums_kernel, dim3(p.channels), dim3(32), 0, stream, static_cast<const float*>(partial),
           static_cast<int>(grid.x) * p.batch, p.channels, p.alpha, p.inverse_beta, eps, logscale, of_alpha, of_beta);
}

}  // namespace audiogen
