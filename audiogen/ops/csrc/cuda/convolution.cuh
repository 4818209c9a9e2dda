// Dilated convolution along time on tensor cores: forward, gradient of the input, gradient of the weights.
//
//   forward           y[t][n]    = bias[n] + sum over taps j, channels k: taps[j][n][k] a[t + offset_j][k]
//   input's gradient  the same kernel with `taps` transposed and the offsets negated
//   weights' gradient w[j][m][n] = sum over items, t: a[t][m] b[t + offset_j][n]
//
// Layout: channels-last, rows of time; `taps` packed as (tap, out, in), so that K is contiguous for both operands.
//
// Bound. Forward, 16-bit, C channels in and out, 3 taps: 6 C^2 FLOP per step against 4 C bytes: 1.5 C FLOP per byte, so
// above C = 128 the tensor units, below it memory (H200: 4.8 TB/s against about 600 TFLOP/s by mma.sync). Weights'
// gradient: a 64 x 64 tile of w reads 256 bytes per step for 8192 FLOP (16-bit); the tiles of one item run side by side
// and share the reads in L2.
//
// The weights' gradient is deterministic: the steps are cut into splits by the shape alone, every split writes its own
// partial sum, and a second kernel adds them in order. No atomics.
#pragma once

#include "launch.cuh"
#include "warpgroup_tile.cuh"

namespace audiogen {

constexpr int kMostTaps = 16;

/// Where tap j reads, relative to the step: causal: ..., -dilation, 0; centred: -dilation, 0, dilation.
__host__ __device__ inline int tap_offset(int tap, int kernel, int dilation, bool causal) {
    return (causal ? tap - (kernel - 1) : tap - (kernel - 1) / 2) * dilation;
}

template <class T>
struct Convolution {
    const T* a;  // (batch, time, inputs), by strides
    int64_t a_batch, a_row;
    const T* taps;   // (kernel, outputs, inputs)
    const T* bias;   // (outputs,) or null
    const T* added;  // (batch, time, outputs), by strides, times added_scale; or null
    int64_t added_batch, added_row;
    float added_scale;
    T* y;  // (batch, time, outputs), by strides
    int64_t y_batch, y_row;
    int batch, time, inputs, outputs, kernel;
    int offsets[kMostTaps];
};

template <class Gemm>
__device__ __forceinline__ void convolve_tile(const Convolution<typename Gemm::Element>& p) {
    using T = typename Gemm::Element;
    const int first_row = blockIdx.x * Gemm::kRows, first_column = blockIdx.y * Gemm::kColumns, item = blockIdx.z;
    Segment<T> segments[kMostTaps];
    for (int j = 0; j < p.kernel; ++j)
        segments[j] = {p.a + item * p.a_batch, p.a_row, p.offsets[j], p.inputs,
                       p.taps + static_cast<int64_t>(j) * p.outputs * p.inputs};
    typename Gemm::Sums sums;
    clear(sums);
    Gemm::run(sums, dynamic_shared(), segments, p.kernel, first_row, p.time, [&](const Segment<T>& segment, int n) {
        n += first_column;
        return n < p.outputs ? segment.b + static_cast<int64_t>(n) * segment.depth : nullptr;
    });
    Gemm::each_pack(sums, [&](int row, int column, float (&values)[Gemm::V]) {
        const int64_t t = first_row + row;
        const int n = first_column + column;
        if (t >= p.time || n >= p.outputs) return;
        if (p.bias) {
            const Pack<T> bias = load_pack(p.bias + n);
            for (int i = 0; i < Gemm::V; ++i) values[i] += to_float(bias.values[i]);
        }
        if (p.added) {
            const Pack<T> added = load_pack(p.added + item * p.added_batch + t * p.added_row + n);
            for (int i = 0; i < Gemm::V; ++i) values[i] += to_float(added.values[i]) * p.added_scale;
        }
        Pack<T> result;
        for (int i = 0; i < Gemm::V; ++i) result.values[i] = from_float<T>(values[i]);
        store_pack(p.y + item * p.y_batch + t * p.y_row + n, result);
    });
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kBound, Gemm::kMinBlocks)
    convolution_kernel(Convolution<typename Gemm::Element> p) {
    if constexpr (Gemm::kCompiled) convolve_tile<Gemm>(p);
}

template <class Gemm>
void convolve_by(const Convolution<typename Gemm::Element>& p, cudaStream_t stream) {
    const dim3 grid(divide_up(p.time, Gemm::kRows), divide_up(p.outputs, Gemm::kColumns), p.batch);
    launch(convolution_kernel<Gemm>, grid, dim3(kThreads), Gemm::kSharedBytes, stream, p);
}

/// wgmma where `limits` have it, as wide as there are outputs; else mma.
template <class T>
void convolve(const Convolution<T>& p, const Limits& limits, cudaStream_t stream) {
    if constexpr (sizeof(T) == 2) {
        if (limits.warpgroups(convolution_kernel<WarpgroupTile<T, 2, 8>>)) {
            if (p.outputs > 128 && WarpgroupTile<T, 4, 8>::kSharedBytes <= limits.shared_bytes)
                return convolve_by<WarpgroupTile<T, 4, 8>>(p, stream);
            if (WarpgroupTile<T, 2, 8>::kSharedBytes <= limits.shared_bytes)
                return p.outputs > 64 ? convolve_by<WarpgroupTile<T, 2, 8>>(p, stream)
                                      : convolve_by<WarpgroupTile<T, 2, 4>>(p, stream);
        }
    }
    convolve_by<TileGemm<T, 128, 8>>(p, stream);
}

// ---------------------------------------------------------------------- gradient of the weights

constexpr int kTile = 64, kSteps = 32;  // a tile of w, and the time steps of a chunk

template <class T>
struct WeightGradient {
    const T* a;  // (batch, time, rows), by strides
    int64_t a_batch, a_row;
    const T* b;  // (batch, time, columns), by strides
    int64_t b_batch, b_row;
    float* partial;  // (splits, kernel, rows, columns)
    int batch, time, rows, columns, kernel, splits;
    int offsets[kMostTaps];
};

/// The splits of the steps: enough blocks for any chip, and a function of the shape alone, so that sums do not depend
/// on the chip.
inline int splits_of(int batch, int time, int rows, int columns, int kernel) {
    const int64_t chunks = static_cast<int64_t>(batch) * divide_up(time, kSteps);
    const int64_t tiles = static_cast<int64_t>(divide_up(rows, kTile)) * divide_up(columns, kTile) * kernel;
    const int64_t wanted = tiles >= 512 ? 1 : 512 / tiles, most = chunks / 8 > 1 ? chunks / 8 : 1;
    return static_cast<int>(wanted < most ? wanted : most);
}

template <class T>
__global__ void __launch_bounds__(kThreads) weight_gradient_kernel(WeightGradient<T> p) {
    constexpr int V = 16 / sizeof(T),
                  kStride = kTile + (sizeof(T) == 2 ? 8 : 8);  // 144 or 288 bytes: no bank conflicts
    constexpr int kMatrix = kSteps * kStride, kDepth = 32 / sizeof(T);
    T* shared = reinterpret_cast<T*>(dynamic_shared());  // stage, matrix (a or b), step, column
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, wm = warp % 4, wn = warp / 4;
    const int column_tiles = divide_up(p.columns, kTile);
    const int m0 = static_cast<int>(blockIdx.x) / column_tiles * kTile,
              n0 = static_cast<int>(blockIdx.x) % column_tiles * kTile;
    const int tap = blockIdx.y, split = blockIdx.z, offset = p.offsets[tap];
    const int per_item = divide_up(p.time, kSteps);
    const int64_t chunks = static_cast<int64_t>(p.batch) * per_item;
    const int64_t begin = chunks * split / p.splits, end = chunks * (split + 1) / p.splits;

    auto load = [&](int64_t chunk, int stage) {
        const int64_t item = chunk / per_item;
        const int t0 = static_cast<int>(chunk % per_item) * kSteps;
        for (int at = thread; at < 2 * kSteps * (kTile / V); at += kThreads) {
            const int piece = at % (kTile / V), step = at / (kTile / V) % kSteps, which = at / (kTile / V) / kSteps;
            const int t = t0 + step, source = which ? t + offset : t;
            const int column = (which ? n0 : m0) + piece * V;
            const bool valid = t < p.time && source >= 0 && source < p.time && column < (which ? p.columns : p.rows);
            const T* from = which ? p.b + item * p.b_batch + source * p.b_row + column
                                  : p.a + item * p.a_batch + source * p.a_row + column;
            copy_async_16(shared + (2 * stage + which) * kMatrix + step * kStride + piece * V, valid ? from : p.a,
                          valid);
        }
    };
    float sums[1][4][4];
    clear(sums);
    if (begin < end) load(begin, 0);
    copy_async_commit();
    int stage = 0;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        copy_async_wait<0>();
        __syncthreads();
        if (chunk + 1 < end) load(chunk + 1, stage ^ 1);
        copy_async_commit();
        const T* left = shared + 2 * stage * kMatrix;
        const T* right = left + kMatrix;
#pragma unroll
        for (int step = 0; step < kSteps; step += kDepth) {
            uint32_t a[1][4], b[2][4];
            if constexpr (sizeof(T) == 2) {
                load_matrices_transposed(
                    a[0], left + (step + lane / 16 * 8 + lane % 8) * kStride + wm * 16 + lane / 8 % 2 * 8);
#pragma unroll
                for (int pair = 0; pair < 2; ++pair)
                    load_matrices_transposed(b[pair], right + (step + lane / 8 % 2 * 8 + lane % 8) * kStride + wn * 32 +
                                                          (2 * pair + lane / 16) * 8);
            } else {
                const int g = lane / 4, k = step + lane % 4;
                auto bits = [](const T* at) { return *reinterpret_cast<const uint32_t*>(at); };
#pragma unroll
                for (int i = 0; i < 4; ++i) a[0][i] = bits(left + (k + i / 2 * 4) * kStride + wm * 16 + i % 2 * 8 + g);
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    b[i / 4][i % 4] = bits(right + (k + i % 2 * 4) * kStride + wn * 32 + i / 2 * 8 + g);
            }
            multiply_step<T, 1, 4>(sums, a, b);
        }
        stage ^= 1;
    }
    copy_async_wait<0>();
    float* out = p.partial + (static_cast<int64_t>(split) * p.kernel + tap) * p.rows * p.columns;
    for (int ni = 0; ni < 4; ++ni)
        for (int i = 0; i < 4; ++i) {
            const int m = m0 + wm * 16 + i / 2 * 8 + lane / 4, n = n0 + wn * 32 + ni * 8 + lane % 4 * 2 + i % 2;
            if (m < p.rows && n < p.columns) out[static_cast<int64_t>(m) * p.columns + n] = sums[0][ni][i];
        }
}

/// weight (rows, columns, kernel) = scale * the sum of the splits, in order, + of every item's sums[item][tap][row] *
/// shift[item][column].
template <class T>
__global__ void weight_gradient_sum_kernel(const float* partial, T* weight, int rows, int columns, int kernel,
                                           int splits, float scale, const float* sums, const T* shift, int batch) {
    const int64_t size = static_cast<int64_t>(kernel) * rows * columns;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= size) return;
    const int column = at % columns, row = at / columns % rows, tap = static_cast<int>(at / columns / rows);
    float total = 0.0f;
    for (int split = 0; split < splits; ++split) total += partial[split * size + at];
    total *= scale;
    if (shift)
        for (int item = 0; item < batch; ++item)
            total += sums[(static_cast<int64_t>(item) * kernel + tap) * rows + row] *
                     to_float(shift[static_cast<int64_t>(item) * columns + column]);
    weight[(static_cast<int64_t>(row) * columns + column) * kernel + tap] = from_float<T>(total);
}

/// p.partial needs splits * kernel * rows * columns floats.
template <class T>
void weight_gradient(const WeightGradient<T>& p, T* weight, float scale, const float* sums, const T* shift,
                     cudaStream_t stream) {
    constexpr int kStride = kTile + 8;
    const dim3 grid(divide_up(p.rows, kTile) * divide_up(p.columns, kTile), p.kernel, p.splits);
    launch(weight_gradient_kernel<T>, grid, dim3(kThreads), 4 * kSteps * kStride * sizeof(T), stream, p);
    launch(weight_gradient_sum_kernel<T>, dim3(divide_up(static_cast<int64_t>(p.kernel) * p.rows * p.columns, 256)),
           dim3(256), 0, stream, p.partial, weight, p.rows, p.columns, p.kernel, p.splits, scale, sums, shift, p.batch);
}

// ---------------------------------------------------------------------- sums over time

constexpr int kSumRows = 512;  // steps of a partial sum

/// partial[item][segment][column] = sum of a[item][t][column] over a segment of the steps begin <= t < end.
template <class T>
__global__ void column_sums_kernel(const T* a, int64_t a_batch, int64_t a_row, int columns, int begin, int end,
                                   float* partial) {
    float* shared = reinterpret_cast<float*>(dynamic_shared());  // (8, 32)
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    const int first = begin + blockIdx.y * kSumRows, last = first + kSumRows < end ? first + kSumRows : end;
    float sum = 0.0f;
    if (column < columns)
        for (int t = first + group; t < last; t += 8) sum += to_float(a[blockIdx.z * a_batch + t * a_row + column]);
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (group == 0 && column < columns) {
        for (int other = 1; other < 8; ++other) sum += shared[other * 32 + lane];
        partial[(static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * columns + column] = sum;
    }
}

/// out[outer * out_stride + inner] = scale * sum over k of in[outer][k][inner], in order.
template <class T>
__global__ void ordered_sum_kernel(const float* in, T* out, int outer, int count, int inner, int64_t out_stride,
                                   float scale) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outer * inner) return;
    const int64_t row = at / inner, column = at % inner;
    float sum = 0.0f;
    for (int k = 0; k < count; ++k) sum += in[(row * count + k) * inner + column];
    out[row * out_stride + column] = from_float<T>(sum * scale);
}

inline int sum_segments(int time) { return divide_up(time, kSumRows); }

/// sums[item][column] (rows `sums_stride` apart) over steps begin <= t < end; `partial` needs batch *
/// sum_segments(time) * columns floats.
template <class T>
void column_sums(const T* a, int64_t a_batch, int64_t a_row, int batch, int columns, int begin, int end, float* partial,
                 float* sums, int64_t sums_stride, cudaStream_t stream) {
    const int segments = end > begin ? divide_up(end - begin, kSumRows) : 0;
    if (segments)
        launch(column_sums_kernel<T>, dim3(divide_up(columns, 32), segments, batch), dim3(256), 256 * sizeof(float),
               stream, a, a_batch, a_row, columns, begin, end, partial);
    launch(ordered_sum_kernel<float>, dim3(divide_up(static_cast<int64_t>(batch) * columns, 256)), dim3(256), 0, stream,
           partial, sums, batch, segments, columns, sums_stride, 1.0f);
}

/// The sum over items and time, in type T: partial sums first of every item, then of all. `sums`: batch * columns
/// floats.
template <class T>
void total_sums(const float* sums, T* total, int batch, int columns, float scale, cudaStream_t stream) {
    launch(ordered_sum_kernel<T>, dim3(divide_up(columns, 256)), dim3(256), 0, stream, sums, total, 1, batch, columns,
           static_cast<int64_t>(columns), scale);
}

/// to[i][j][k] = from[i * si + j * sj + k * sk], contiguous: weights into the order that a kernel reads.
template <class T>
__global__ void reorder_kernel(const T* from, T* to, int n0, int n1, int n2, int64_t s0, int64_t s1, int64_t s2) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= static_cast<int64_t>(n0) * n1 * n2) return;
    to[at] = from[at / n2 / n1 * s0 + at / n2 % n1 * s1 + at % n2 * s2];
}
template <class T>
void reorder(const T* from, T* to, int n0, int n1, int n2, int64_t s0, int64_t s1, int64_t s2, cudaStream_t stream) {
    launch(reorder_kernel<T>, dim3(divide_up(static_cast<int64_t>(n0) * n1 * n2, 256)), dim3(256), 0, stream, from, to,
           n0, n1, n2, s0, s1, s2);
}

}  // namespace audiogen
