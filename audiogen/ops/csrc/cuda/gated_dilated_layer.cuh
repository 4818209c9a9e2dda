// One WaveNet layer, forward and backward (audiogen/ops/gated_dilated_layer.py has the formulas and the reference).
//
// Forward: one kernel, and nothing between the convolution and the outputs in device memory. A block owns M = 128 (or
// 64) steps of one item. (1) For 64 gates at a time, tanh and sigmoid rows side by side: z = taps x, on tensor cores
// (tile_gemm.cuh); the thread that holds z_a of a gate holds its z_b too, adds bias and conditioning, and puts h = tanh
// sigmoid into shared memory. (2) For 128 of the channels + skip_channels columns at a time: h from shared memory times
// the 1x1 weights; x and skip are read, added and written 16 bytes a thread.
//
// Backward: (1) gates_kernel makes z again, and the gradient of h from those of x_out and skip, and writes h and the
// gradient of z to scratch memory (the dilated taps of other blocks need the latter); (2) convolution_kernel: gradient
// of x; (3) weight_gradient_kernel twice or thrice; (4) sums over time for biases, band and conditioning. No atomics:
// results do not change from run to run.
//
// Layout: x, skip and gradients channels-last (batch, time, channels); condition (batch, frames, 2 gate).
//
// Bound, forward, per step, C = gate = skip_channels channels, kernel 3, 16-bit: 16 C^2 FLOP and 8 C bytes, 2 C FLOP
// per byte. C = 64: 131 kFLOP against 512 bytes, 128 FLOP per byte, which is about where an H200 turns (600 TFLOP/s of
// mma.sync against 4.8 TB/s); C = 128: the tensor units. Weights come from L2: 16 C^2 bytes per 128 steps, another C /
// 8 bytes a step. Unfused PyTorch moves some 16 C numbers a step, four times as much. Backward: 48 C^2 FLOP and, with
// the scratch, about 26 C bytes.
#pragma once

#include "convolution.cuh"

namespace audiogen {

constexpr int kTaps = 3;  // of a layer, at most

/// Conditioning at frame rate and its way to steps.
template <class T>
struct Conditioning {
    const T* values;  // (batch, frames, rows), by strides, rows contiguous; null: none
    int64_t batch, frame;
    const int* first;   // (time,): a band; null: every frame is held for `hold` steps
    const float* band;  // (time, taps)
    int taps, hold;
};

template <class T>
struct Layer {
    const T* x;  // (batch, time, channels), by strides
    int64_t x_batch, x_row;
    const T* taps;           // (kernel, 2 gate, channels)
    const T* bias;           // (2 gate,) or null
    const float* tap_shift;  // (batch, kernel, 2 gate): each tap's weights times the shift; or null
    Conditioning<T> condition;
    int batch, time, channels, gate, skip_channels, kernel;
    int offsets[kTaps];
    float scale;
};

template <class T>
struct LayerOutputs {
    const T *out_weight, *out_bias;    // (channels, gate), (channels,); null: a last layer
    const T *skip_weight, *skip_bias;  // (skip_channels, gate)
    const T* skip;                     // (batch, time, skip_channels), by strides; or null
    int64_t skip_batch, skip_row;
    T* x_out;  // by strides
    int64_t x_out_batch, x_out_row;
    T* skip_out;  // by strides
    int64_t skip_out_batch, skip_out_row;
};

/// z of a tile, for as many gates as half its columns, the `chunk`th of them: without bias and conditioning.
template <class Gemm>
__device__ __forceinline__ void convolve_gates(typename Gemm::Sums& sums, const Layer<typename Gemm::Element>& p,
                                               int item, int first_row, int chunk) {
    using T = typename Gemm::Element;
    Segment<T> segments[kTaps];
    for (int j = 0; j < p.kernel; ++j)
        segments[j] = {p.x + item * p.x_batch, p.x_row, p.offsets[j], p.channels,
                       p.taps + static_cast<int64_t>(j) * 2 * p.gate * p.channels};
    clear(sums);
    Gemm::run(sums, dynamic_shared(), segments, p.kernel, first_row, p.time, [&](const Segment<T>& segment, int n) {
        // Of a group's 64 columns the first 32 are tanh rows, the others the sigmoid rows of the same gates.
        const int gate = chunk * (Gemm::kColumns / 2) + n / 64 * 32 + n % 32, row = n % 64 / 32 * p.gate + gate;
        return gate < p.gate ? segment.b + static_cast<int64_t>(row) * segment.depth : nullptr;
    });
}

/// values[0 .. V) += bias, shift and conditioning of z's rows `row` .. `row` + V - 1 at step t.
template <class T, int V>
__device__ __forceinline__ void add_to_z(float (&values)[V], const Layer<T>& p, int item, int t, int row) {
    if (p.bias) {
        const Pack<T> bias = load_pack(p.bias + row);
#pragma unroll
        for (int i = 0; i < V; ++i) values[i] += to_float(bias.values[i]);
    }
    if (p.tap_shift)
        for (int j = 0; j < p.kernel; ++j) {
            const int source = t + p.offsets[j];
            if (source < 0 || source >= p.time) continue;  // the padding is not shifted
            const float* shift = p.tap_shift + (static_cast<int64_t>(item) * p.kernel + j) * 2 * p.gate + row;
#pragma unroll
            for (int i = 0; i < V; ++i) values[i] += shift[i];
        }
    const Conditioning<T>& c = p.condition;
    if (!c.values) return;
    const int frame = c.first ? c.first[t] : t / c.hold;
    for (int tap = 0; tap < c.taps; ++tap) {
        const float weight = c.first ? c.band[static_cast<int64_t>(t) * c.taps + tap] : 1.0f;
        const Pack<T> value = load_pack(c.values + item * c.batch + (frame + tap) * c.frame + row);
#pragma unroll
        for (int i = 0; i < V; ++i) values[i] += weight * to_float(value.values[i]);
    }
}

/// For every row and pack of gates of a thread: use(row, gate, group, upper, pack, a, b), a and b being z_a and z_b of
/// V gates, complete.
template <class Gemm, class Use>
__device__ __forceinline__ void each_gate(typename Gemm::Sums& sums, const Layer<typename Gemm::Element>& p, int item,
                                          int first_row, int chunk, Use use) {
    using T = typename Gemm::Element;
    constexpr int V = Gemm::V, kPacks = 8 / V;
#pragma unroll
    for (int group = 0; group < Gemm::kGroups; ++group)
#pragma unroll
        for (int upper = 0; upper < 2; ++upper)
#pragma unroll
            for (int pack = 0; pack < kPacks; ++pack) {
                const int row = Gemm::row_of(group) + 8 * upper, t = first_row + row;
                const int gate = chunk * (Gemm::kColumns / 2) + Gemm::column_of_group(group) / 2 + pack * 4 * V +
                                 static_cast<int>(threadIdx.x) % 4 * V;
                float a[V], b[V];
#pragma unroll
                for (int i = 0; i < V; ++i) {
                    a[i] = sums[group][pack * (V / 2) + i / 2][2 * upper + i % 2];
                    b[i] = sums[group][4 + pack * (V / 2) + i / 2][2 * upper + i % 2];
                }
                if (gate < p.gate && t < p.time) {
                    add_to_z<T, V>(a, p, item, t, gate);
                    add_to_z<T, V>(b, p, item, t, p.gate + gate);
                }
                use(row, gate, group, upper, pack, a, b);
            }
}

template <class Gemm>
__device__ __forceinline__ void layer_tile(const Layer<typename Gemm::Element>& p,
                                           const LayerOutputs<typename Gemm::Element>& o) {
    using T = typename Gemm::Element;
    constexpr int V = Gemm::V;
    const int first_row = blockIdx.x * Gemm::kRows, item = blockIdx.y;
    unsigned char* h = dynamic_shared() + Gemm::kSharedBytes;
    typename Gemm::Sums sums;

    for (int chunk = 0; chunk * (Gemm::kColumns / 2) < p.gate; ++chunk) {
        convolve_gates<Gemm>(sums, p, item, first_row, chunk);
        each_gate<Gemm>(sums, p, item, first_row, chunk,
                        [&](int row, int gate, int, int, int, float (&a)[V], float (&b)[V]) {
                            if (gate >= divide_up(p.gate, Gemm::kWhole) * Gemm::kWhole) return;
                            Pack<T> pack;  // gates from p.gate to a whole step of K are tanh(0) sigmoid(0) = 0
#pragma unroll
                            for (int i = 0; i < V; ++i)
                                pack.values[i] = from_float<T>(tanh_of<T>(a[i]) * logistic_of<T>(b[i]));
                            store_pack(Gemm::resident_pack(h, p.gate, row, gate), pack);
                        });
    }

    const int channels = o.out_weight ? p.channels : 0, columns = channels + p.skip_channels;
    const Segment<T> segment = {p.x, 0, 0, p.gate, nullptr};
    for (int first_column = 0; first_column < columns; first_column += Gemm::kColumns) {
        clear(sums);
        // Its first barrier also says that h is complete.
        Gemm::run(
            sums, dynamic_shared(), &segment, 1, 0, Gemm::kRows,
            [&](const Segment<T>&, int n) -> const T* {
                n += first_column;
                if (n < channels) return o.out_weight + static_cast<int64_t>(n) * p.gate;
                return n < columns ? o.skip_weight + static_cast<int64_t>(n - channels) * p.gate : nullptr;
            },
            h);
        Gemm::each_pack(sums, [&](int row, int column, float (&values)[V]) {
            const int64_t t = first_row + row;
            int n = first_column + column;
            if (t >= p.time || n >= columns) return;
            const bool straight = n < channels;
            if (!straight) n -= channels;
            const T* bias = straight ? o.out_bias : o.skip_bias;
            const T* before = straight ? p.x + item * p.x_batch + t * p.x_row
                              : o.skip ? o.skip + item * o.skip_batch + t * o.skip_row
                                       : nullptr;
            T* to = straight ? o.x_out + item * o.x_out_batch + t * o.x_out_row
                             : o.skip_out + item * o.skip_out_batch + t * o.skip_out_row;
            if (bias) {
                const Pack<T> pack = load_pack(bias + n);
#pragma unroll
                for (int i = 0; i < V; ++i) values[i] += to_float(pack.values[i]);
            }
            if (before) {
                const Pack<T> pack = load_pack(before + n);
#pragma unroll
                for (int i = 0; i < V; ++i) values[i] += to_float(pack.values[i]);
            }
            Pack<T> result;
#pragma unroll
            for (int i = 0; i < V; ++i) result.values[i] = from_float<T>(straight ? values[i] * p.scale : values[i]);
            store_pack(to + n, result);
        });
    }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kBound, Gemm::kMinBlocks)
    gated_layer_kernel(Layer<typename Gemm::Element> p, LayerOutputs<typename Gemm::Element> o) {
    if constexpr (Gemm::kCompiled) layer_tile<Gemm>(p, o);
}

template <class Gemm>
constexpr int forward_shared_bytes(int gate) {
    return Gemm::kSharedBytes + Gemm::resident_bytes(gate);
}

/// Gates that the forward kernel has shared memory for, of `limit` bytes a block.
template <class T>
bool fits(int gate, int limit) {
    return forward_shared_bytes<TileGemm<T, 64, 8>>(gate) <= limit;
}

/// Launch it, where its shared memory is to be had; -> whether it was.
template <class Gemm>
bool gated_layer_by(const Layer<typename Gemm::Element>& p, const LayerOutputs<typename Gemm::Element>& o,
                    const Limits& limits, cudaStream_t stream) {
    const int bytes = forward_shared_bytes<Gemm>(p.gate);
    if (bytes > limits.shared_bytes) return false;
    launch(gated_layer_kernel<Gemm>, dim3(divide_up(p.time, Gemm::kRows), p.batch), dim3(kThreads), bytes, stream, p,
           o);
    return true;
}

/// wgmma where `limits` have it, as wide as there are gates; else mma, with 64 rows where memory is scarce.
template <class T>
void gated_layer(const Layer<T>& p, const LayerOutputs<T>& o, const Limits& limits, cudaStream_t stream) {
    if constexpr (sizeof(T) == 2) {
        using Wide = WarpgroupTile<T, 4, 8>;
        using Narrow = WarpgroupTile<T, 2, 8>;
        if (limits.warpgroups(gated_layer_kernel<Wide>) &&
            ((p.gate > 64 && gated_layer_by<Wide>(p, o, limits, stream)) ||
             gated_layer_by<Narrow>(p, o, limits, stream)))
            return;
    }
    if (!gated_layer_by<TileGemm<T, 128, 8>>(p, o, limits, stream))
        gated_layer_by<TileGemm<T, 64, 8>>(p, o, limits, stream);
}

/// tap_shift[item][tap][row] = taps[tap][row] . shift[item]
template <class T>
__global__ void tap_shift_kernel(const T* taps, const T* shift, float* result, int kernel, int rows, int channels) {
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= kernel * rows) return;
    float sum = 0.0f;
    for (int c = 0; c < channels; ++c)
        sum += to_float(taps[static_cast<int64_t>(at) * channels + c]) *
               to_float(shift[static_cast<int64_t>(blockIdx.y) * channels + c]);
    result[static_cast<int64_t>(blockIdx.y) * kernel * rows + at] = sum;
}

// ---------------------------------------------------------------------- backward

template <class T>
struct LayerGradients {
    const T* grad_x_out;  // (batch, time, channels), by strides; null: a last layer
    int64_t grad_x_batch, grad_x_row;
    const T* grad_skip;  // (batch, time, skip_channels), by strides
    int64_t grad_skip_batch, grad_skip_row;
    const T *out_columns, *skip_columns;  // the 1x1 weights transposed: (gate, channels), (gate, skip_channels)
    T* h;                                 // (batch, time, gate), contiguous scratch
    T* grad_z;                            // (batch, time, 2 gate), contiguous scratch
};

template <class Gemm>
__device__ __forceinline__ void gates_tile(const Layer<typename Gemm::Element>& p,
                                           const LayerGradients<typename Gemm::Element>& g) {
    using T = typename Gemm::Element;
    using Narrow = typename Gemm::Narrow;
    constexpr int V = Gemm::V;
    const int first_row = blockIdx.x * Gemm::kRows, item = blockIdx.y;
    for (int chunk = 0; chunk * Narrow::kColumns < p.gate; ++chunk) {
        auto column = [&](const Segment<T>& segment, int n) {
            const int gate = chunk * Narrow::kColumns + n;
            return gate < p.gate ? segment.b + static_cast<int64_t>(gate) * segment.depth : nullptr;
        };
        typename Narrow::Sums of_h;
        typename Gemm::Sums sums;
        clear(of_h);
        if (g.grad_x_out) {
            const Segment<T> segment = {g.grad_x_out + item * g.grad_x_batch, g.grad_x_row, 0, p.channels,
                                        g.out_columns};
            Narrow::run(of_h, dynamic_shared(), &segment, 1, first_row, p.time, column);
#pragma unroll
            for (int group = 0; group < Gemm::kGroups; ++group)
#pragma unroll
                for (int i = 0; i < 16; ++i) of_h[group][i / 4][i % 4] *= p.scale;
        }
        const Segment<T> segment = {g.grad_skip + item * g.grad_skip_batch, g.grad_skip_row, 0, p.skip_channels,
                                    g.skip_columns};
        Narrow::run(of_h, dynamic_shared(), &segment, 1, first_row, p.time, column);
        convolve_gates<Gemm>(sums, p, item, first_row, chunk);
        each_gate<Gemm>(sums, p, item, first_row, chunk,
                        [&](int row, int gate, int group, int upper, int pack, float (&a)[V], float (&b)[V]) {
                            const int64_t t = first_row + row;
                            if (t >= p.time || gate >= p.gate) return;
                            Pack<T> h, of_a, of_b;
#pragma unroll
                            for (int i = 0; i < V; ++i) {
                                const float of = of_h[group][pack * (V / 2) + i / 2][2 * upper + i % 2];
                                const float tanh = tanh_of<T>(a[i]), logistic = logistic_of<T>(b[i]);
                                h.values[i] = from_float<T>(tanh * logistic);
                                of_a.values[i] = from_float<T>(of * logistic * (1.0f - tanh * tanh));
                                of_b.values[i] = from_float<T>(of * tanh * logistic * (1.0f - logistic));
                            }
                            const int64_t at = item * static_cast<int64_t>(p.time) + t;
                            store_pack(g.h + at * p.gate + gate, h);
                            store_pack(g.grad_z + at * 2 * p.gate + gate, of_a);
                            store_pack(g.grad_z + at * 2 * p.gate + p.gate + gate, of_b);
                        });
    }
}

template <class Gemm>
__global__ void __launch_bounds__(Gemm::kBound)
    gates_kernel(Layer<typename Gemm::Element> p, LayerGradients<typename Gemm::Element> g) {
    if constexpr (Gemm::kCompiled) gates_tile<Gemm>(p, g);
}

template <class Gemm>
void gates_by(const Layer<typename Gemm::Element>& p, const LayerGradients<typename Gemm::Element>& g,
              cudaStream_t stream) {
    launch(gates_kernel<Gemm>, dim3(divide_up(p.time, Gemm::kRows), p.batch), dim3(kThreads), Gemm::kSharedBytes,
           stream, p, g);
}

template <class T>
void gates(const Layer<T>& p, const LayerGradients<T>& g, const Limits& limits, cudaStream_t stream) {
    if constexpr (sizeof(T) == 2) {
        using Gemm = WarpgroupTile<T, 2, 8>;
        if (limits.warpgroups(gates_kernel<Gemm>) && Gemm::kSharedBytes <= limits.shared_bytes)
            return gates_by<Gemm>(p, g, stream);
    }
    gates_by<TileGemm<T, 64, 8>>(p, g, stream);
}

/// The first step that reads frame `frame` or a later one with its tap `tap`; `first` does not decrease.
__device__ __forceinline__ int first_step(const int* first, int time, int frame, int tap) {
    int low = 0, high = time;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (first[middle] + tap >= frame)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/// Gradient of the conditioning (batch, frames, rows), contiguous: of every frame the steps that read it, in order.
template <class T>
__global__ void condition_gradient_kernel(const T* grad_z, Conditioning<T> c, int time, int rows, int frames,
                                          T* result) {
    const int frame = blockIdx.x, item = blockIdx.y;
    int begin = frame * c.hold, end = begin + c.hold;
    if (c.first) {
        begin = first_step(c.first, time, frame, c.taps - 1);
        end = first_step(c.first, time, frame + 1, 0);
    }
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        float sum = 0.0f;
        for (int t = begin; t < end; ++t) {
            const float weight = c.first ? c.band[static_cast<int64_t>(t) * c.taps + frame - c.first[t]] : 1.0f;
            sum += weight * to_float(grad_z[(static_cast<int64_t>(item) * time + t) * rows + row]);
        }
        result[(static_cast<int64_t>(item) * frames + frame) * rows + row] = from_float<T>(sum);
    }
}

/// Gradient of the band (time, taps): one warp a step.
template <class T>
__global__ void band_gradient_kernel(const T* grad_z, Conditioning<T> c, int batch, int time, int rows, float* result) {
    const int lane = threadIdx.x % 32, t = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (t >= time) return;
    for (int tap = 0; tap < c.taps; ++tap) {
        float sum = 0.0f;
        for (int item = 0; item < batch; ++item)
            for (int row = lane; row < rows; row += 32)
                sum += to_float(grad_z[(static_cast<int64_t>(item) * time + t) * rows + row]) *
                       to_float(c.values[item * c.batch + (c.first[t] + tap) * c.frame + row]);
#pragma unroll
        for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
        if (lane == 0) result[static_cast<int64_t>(t) * c.taps + tap] = sum;
    }
}

/// of_shift[item][channel] = sum over taps and rows of sums[item][tap][row] * taps[tap][row][channel].
template <class T>
__global__ void shift_gradient_kernel(const float* sums, const T* taps, T* of_shift, int kernel_rows, int channels) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    float sum = 0.0f;
    for (int at = 0; at < kernel_rows; ++at)
        sum += sums[static_cast<int64_t>(blockIdx.y) * kernel_rows + at] *
               to_float(taps[static_cast<int64_t>(at) * channels + channel]);
    of_shift[static_cast<int64_t>(blockIdx.y) * channels + channel] = from_float<T>(sum);
}

}  // namespace audiogen
