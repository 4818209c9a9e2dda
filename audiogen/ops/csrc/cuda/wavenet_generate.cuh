// Autoregressive WaveNet generation in one persistent kernel (audiogen/ops/wavenet_generate.py has the formulas and the
// reference).
//
// Chains. A chain of blocks holds the network once, its weights in shared memory for the whole launch: blocks of some
// layers each, then blocks of rows of the hidden 1x1, then blocks of rows of the last 1x1. A stream's sample runs down
// the chain; the first block draws it, and feeds it to the first layer. Several streams follow each other down one
// chain like a pipeline, and several chains fill the chip. Where there are many, 8 go together, as one tile on tensor
// cores: everything below that is said of a stream then holds of a tile, and every vector is 8 times as long.
//
// Messages. Data is its own flag: a word of 64 bits holds a float and the number of the step that it belongs to; a
// reader spins until the number is right. No fences, no grid-wide barrier, nothing to reset within a launch. A word is
// written again only for the next sample, which depends on everybody having read this one. Every block has an inbox: in
// its shared memory where the chain is a thread-block cluster (sm_90: one hop through distributed shared memory), else
// in global memory, which means L2 (any chip; cooperative launch, so that all blocks run).
//
// Off the critical path: a block hands x on first, then adds its layers' share to the sum of skips, then makes ready
// for the next step what does not depend on the next sample: bias + conditioning + the past taps of z, from the rings.
// Rings live in global memory (L2): they are the state.
//
// Weights: generation_products.cuh.
//
// Bound. One stream: latency. Per layer, 64 channels: 64 x 128 words through shared memory at 128 bytes a clock = 256
// clocks (float32; 128 in bfloat16, 64 in int8), 64 x 64 for the residual: half of that; 4 barriers, tanh and logistic:
// about 150; per hop 200 (cluster) to 900 (L2) clocks. Streams: a block needs, per step, its weights once through
// shared memory: 220 KB / 128 = 1,700 clocks at most, so a chain makes 1e6 samples/s and 132 / blocks chains run side
// by side. Weights that do not fit the chip's shared memory are read from L2 (kResident = false).
//
// Tiles: the way down the chain is the same but for 8 numbers a message and the conversion to words; by count 40,000
// clocks for 30 layers, skip 256, 17 blocks in bfloat16 (a layer 700, skips and past taps off the path, a hop 900, the
// head 3,000): 23 us a step. A block is busy for 1,500 clocks a layer and tile, so that 7 chains take 13 tiles each
// before that is longer than the way down: 7 x 13 x 8 = 728 streams / 23 us = 32 million samples/s; 128 streams 5.5, 64
// streams 2.8, at which one stream after the other does as well (12 blocks, 11 chains; 3,300 clocks a stream and block:
// at most 6 million/s however many streams there are). Messages: 20 KB a tile and hop, 0.25 TB/s of L2 at 128 streams.
#pragma once

#include "generation_products.cuh"
#include "launch.cuh"

namespace audiogen {

constexpr int kMostLayers = 128, kMostBlocks = 16;  // layers of a network; blocks of a cluster
enum Output { kSoftmax, kLogistics, kGaussian };

struct Generation {
    const unsigned char* blob;
    int precision, output, inputs, first_kernel, first_tanh, kernel, layers;
    int channels, gate, skip, hidden, outputs;  // gate and outputs as they are, for conditioning and drawing
    int wide_channels, wide_gate, wide_skip, wide_hidden, wide_outputs;  // padded to multiples of 16
    int dilations[kMostLayers];
    float* rings;  // (batch, slots, wide_channels)
    int64_t slots;
    float* last;  // (batch, first_kernel)
    const int64_t* position;
    const float *random, *given;  // (batch, numbers, time), or (batch, time)
    const float* condition;       // (batch, layers, 2 gate, frames) or null
    const int* first;             // (time,) or null
    const float* band;            // (time, taps)
    int numbers, taps, frames;
    float temperature, residual_scale, log_scale_min;
    float *samples, *parameters;  // (batch, time), (batch, time, outputs)
    float* ready;                  // of tiles alone: (tiles, layers, 2 wide_gate, width)
    int batch, time;
    // How the work lies on the chip. A tile: `width` streams that go together, 1 or 8.
    int width;
    int first_tile, chains, streams;  // chain c has the tiles first_tile + c + chains * s, s < streams
    int block_layers, layer_blocks, hidden_groups, hidden_blocks, last_groups, last_blocks;  // groups: of 64 rows
    uint64_t*
        inboxes;  // (chains, blocks, streams, inbox_words); null: a chain is a cluster, inboxes lie in shared memory
    int inbox_words, weight_bytes;  // weight_bytes: of a block, in shared memory
    int threads;

    __host__ __device__ int tiles() const { return (batch + width - 1) / width; }
    /// Numbers of a tile's vector in shared memory.
    __host__ __device__ int tile_size(int size) const { return width == 1 ? size : width * (size + kPad); }
    __host__ __device__ int blocks() const { return layer_blocks + hidden_blocks + last_blocks; }
    __host__ __device__ int64_t vector_bytes(int rows) const { return 4 * static_cast<int64_t>(rows); }
    __host__ __device__ int64_t matrix_bytes(int rows, int columns) const {
        const int64_t size = static_cast<int64_t>(rows) * columns;
        return precision == kFloat32    ? 4 * size
               : precision == kBfloat16 ? 2 * size
                                        : size + 8 * rows;  // int8: scales and sums of rows
    }
    __host__ __device__ int64_t first_bytes() const {
        return vector_bytes(wide_channels) * (static_cast<int64_t>(first_kernel) * inputs + 1);
    }
    /// Offsets in a layer: taps (the present one first), bias, out, out_bias, skip.
    __host__ __device__ int64_t bias_offset() const { return kernel * matrix_bytes(2 * wide_gate, wide_channels); }
    __host__ __device__ int64_t out_offset() const { return bias_offset() + vector_bytes(2 * wide_gate); }
    __host__ __device__ int64_t out_bytes() const {
        return matrix_bytes(wide_channels, wide_gate) + vector_bytes(wide_channels);
    }
    __host__ __device__ int64_t skip_offset(bool last_layer) const {
        return out_offset() + (last_layer ? 0 : out_bytes());
    }
    __host__ __device__ int64_t layer_bytes() const { return skip_offset(false) + matrix_bytes(wide_skip, wide_gate); }
    __host__ __device__ int64_t head_offset() const {
        return first_bytes() + layers * layer_bytes() - out_bytes();
    }  // skip_bias
    __host__ __device__ int64_t hidden_offset() const { return head_offset() + vector_bytes(wide_skip); }
    __host__ __device__ int64_t hidden_bias_offset() const {
        return hidden_offset() + matrix_bytes(wide_hidden, wide_skip);
    }
    __host__ __device__ int64_t last_offset() const { return hidden_bias_offset() + vector_bytes(wide_hidden); }
    __host__ __device__ int64_t last_bias_offset() const {
        return last_offset() + matrix_bytes(wide_outputs, wide_hidden);
    }
    /// A matrix's weights alone, of `groups` groups of 64 rows.
    __host__ __device__ int64_t group_bytes(int groups, int columns) const {
        return static_cast<int64_t>(groups) * 64 * columns *
               (precision == kFloat32    ? 4
                : precision == kBfloat16 ? 2
                                         : 1);
    }
};

/// Where things lie in a block's shared memory, in bytes. Inboxes first: at one place in all blocks of a cluster.
struct SharedPlan {
    int weights, vector, words, parts, h, sum, ready, bytes;

    __host__ __device__ explicit SharedPlan(const Generation& p) {
        const int widest =
            larger(larger(p.wide_channels, p.wide_gate), larger(larger(p.wide_skip, p.wide_hidden), p.wide_outputs));
        const int inbox = p.inboxes ? 0 : p.streams * p.inbox_words * 8;
        weights = inbox;  // a multiple of 128: inbox_words are one of 16
        vector = weights + p.weight_bytes;
        words = vector + 4 * p.tile_size(widest);
        const int words_of_tile = p.precision == kBfloat16 ? MultiplyTile<kBfloat16, true>::words_needed(widest)
                                                           : MultiplyTile<kInt8, true>::words_needed(widest);
        parts = words + 4 * (p.width == 1 ? widest : words_of_tile);
        // Splits of one stream's product have the block's threads in all; of a tile's, 16 rows for every warp.
        const int rows_of_parts = p.width == 1 ? p.threads : p.threads / 2;
        h = parts + 4 * p.width * larger(rows_of_parts, larger(2 * p.wide_gate, widest));
        sum = h + 4 * p.block_layers * p.tile_size(p.wide_gate);
        ready = sum + 4 * p.tile_size(widest);
        bytes = ready + (p.width == 1 ? 4 * p.streams * p.block_layers * 2 * p.wide_gate : 0);
    }
};

// ---------------------------------------------------------------------- messages

#ifdef AUDIOGEN_EMULATED
inline void put_word(uint64_t* at, uint64_t word) { *at = word; }
inline uint64_t get_word(const uint64_t* at) { return *at; }
inline uint64_t* of_block(uint64_t* mine, int rank) { return shared_of(mine, rank); }
#else
// One relaxed access of 64 bits is seen whole or not at all, in either memory.
__device__ __forceinline__ void put_word(uint64_t* at, uint64_t word) {
    asm volatile("st.relaxed.gpu.u64 [%0], %1;" ::"l"(at), "l"(word) : "memory");
}
__device__ __forceinline__ uint64_t get_word(const uint64_t* at) {
    uint64_t word;
    asm volatile("ld.relaxed.gpu.u64 %0, [%1];" : "=l"(word) : "l"(at) : "memory");
    return word;
}
__device__ __forceinline__ void spin() {}
#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint64_t* of_block(uint64_t* mine, int rank) {
    uint64_t* theirs;
    asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
    return theirs;
}
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
#else  // never launched there: the host asks for clusters on sm_90 and later only
__device__ __forceinline__ uint64_t* of_block(uint64_t* mine, int) { return mine; }
__device__ __forceinline__ void cluster_barrier() {}
#endif
#endif

__device__ __forceinline__ uint64_t word_of(float value, uint32_t step) {
    union {
        float value;
        uint32_t bits;
    } both = {value};
    return static_cast<uint64_t>(step) << 32 | both.bits;
}

__device__ __forceinline__ float wait_for(const uint64_t* at, uint32_t step) {
    uint64_t word = get_word(at);
    while (static_cast<uint32_t>(word >> 32) != step) {
        spin();
        word = get_word(at);
    }
    union {
        uint32_t bits;
        float value;
    } both = {static_cast<uint32_t>(word)};
    return both.value;
}

// ---------------------------------------------------------------------- drawing a sample, by one warp

/// Smallest class whose cumulative probability exceeds `uniform`; at temperature 0 the likeliest. The same result in
/// all lanes.
__device__ AUDIOGEN_ONE_COPY inline int choose(const float* logits, int count, float uniform, float temperature) {
    const int lane = threadIdx.x % 32, each = (count + 31) / 32;
    const int begin = lane * each < count ? lane * each : count, end = begin + each < count ? begin + each : count;
    float most = -3.4e38f;
    int best = count;
    for (int k = begin; k < end; ++k)
        if (logits[k] > most) most = logits[k], best = k;
#pragma unroll
    for (int distance = 16; distance; distance /= 2) {
        const float other = __shfl_xor_sync(0xFFFFFFFFu, most, distance);
        const int where = __shfl_xor_sync(0xFFFFFFFFu, best, distance);
        if (other > most || (other == most && where < best)) most = other, best = where;
    }
    if (temperature == 0.0f) return best < count ? best : 0;
    double own = 0.0;
    for (int k = begin; k < end; ++k) own += static_cast<double>(expf((logits[k] - most) / temperature));
    double below = own;  // up to and with this lane
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const double other = __shfl_up_sync(0xFFFFFFFFu, below, distance);
        if (lane >= distance) below += other;
    }
    double total = lane == 31 ? below : 0.0;
#pragma unroll
    for (int distance = 16; distance; distance /= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, distance);
    const double target = static_cast<double>(uniform) * total;
    double sum = below - own;
    int passed = 0;
    for (int k = begin; k < end; ++k) {
        sum += static_cast<double>(expf((logits[k] - most) / temperature));
        passed += sum <= target;
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2) passed += __shfl_xor_sync(0xFFFFFFFFu, passed, distance);
    return passed < count ? passed : count - 1;
}

__device__ __forceinline__ float draw(const Generation& p, const float* parameters, const float* random,
                                      int64_t stride) {
    if (p.output == kSoftmax) return static_cast<float>(choose(parameters, p.outputs, random[0], p.temperature));
    float mean, log_scale, spread;
    if (p.output == kGaussian) {
        mean = parameters[0], log_scale = parameters[1], spread = random[0];
    } else {
        const int count = p.outputs / 3, component = choose(parameters, count, random[0], p.temperature);
        mean = parameters[count + component], log_scale = parameters[2 * count + component];
        const float uniform = fminf(fmaxf(random[stride], 1e-5f), 1.0f - 1e-5f);
        spread = logf(uniform) - log1pf(-uniform);
    }
    const float scale = expf(fmaxf(log_scale, p.log_scale_min)) * p.temperature;
    return fminf(fmaxf(mean + scale * spread, -1.0f), 1.0f);
}

// ---------------------------------------------------------------------- the kernel

template <class Product, bool kResident, bool kCluster>
struct Generator {
    static constexpr int W = Product::kWidth;
    static constexpr bool kRearranged = kResident && W > 1;  // weights in shared memory lie fragment by fragment
    const Generation& p;
    const SharedPlan plan;
    unsigned char* shared;
    int chain, rank;
    float *vector, *parts, *h, *sum, *ready;
    uint32_t* words;

    __device__ explicit Generator(const Generation& p_)
        : p(p_),
          plan(p_),
          shared(dynamic_shared()),
          chain(blockIdx.x / p_.blocks()),
          rank(blockIdx.x % p_.blocks()),
          vector(reinterpret_cast<float*>(shared + plan.vector)),
          parts(reinterpret_cast<float*>(shared + plan.parts)),
          h(reinterpret_cast<float*>(shared + plan.h)),
          sum(reinterpret_cast<float*>(shared + plan.sum)),
          ready(reinterpret_cast<float*>(shared + plan.ready)),
          words(reinterpret_cast<uint32_t*>(shared + plan.words)) {}

    __device__ uint64_t* inbox(int block, int stream) const {
        if (kCluster)
            return of_block(reinterpret_cast<uint64_t*>(shared), block) + static_cast<int64_t>(stream) * p.inbox_words;
        return p.inboxes + ((static_cast<int64_t>(chain) * p.blocks() + block) * p.streams + stream) * p.inbox_words;
    }
    __device__ void send(int block, int tile, int at, int j, float value, uint32_t step) const {
        if (is_stream(tile, j)) put_word(inbox(block, tile) + at * W + j, word_of(value, step));
    }
    __device__ float receive(int tile, int at, int j, uint32_t step) const {
        return is_stream(tile, j) ? wait_for(inbox(rank, tile) + at * W + j, step) : 0.0f;
    }
    __device__ int tile_number(int tile) const { return p.first_tile + chain + p.chains * tile; }
    /// Stream j of a tile of this chain; the last tile may have less than W.
    __device__ int64_t stream_number(int tile, int j) const { return static_cast<int64_t>(tile_number(tile)) * W + j; }
    __device__ bool is_stream(int tile, int j) const { return W == 1 || stream_number(tile, j) < p.batch; }
    /// use(number, stream) for `size` numbers of every stream of a tile, by all threads.
    template <class Use>
    static __device__ __forceinline__ void each(int size, Use use) {
        for (int at = threadIdx.x; at < size * W; at += blockDim.x) use(at / W, at % W);
    }
    __device__ float* ready_of(int tile, int begin, int layer) const {
        const int rows = 2 * p.wide_gate * W;
        return W == 1 ? ready + (tile * p.block_layers + layer - begin) * rows
                      : p.ready + (static_cast<int64_t>(tile_number(tile)) * p.layers + layer) * rows;
    }
    __device__ const float* vector_at(int64_t offset) const { return reinterpret_cast<const float*>(p.blob + offset); }

    /// Copy this block's weights; -> where byte `from` of the blob now lies.
    __device__ const unsigned char* hold(int64_t from, int64_t bytes) const {
        if (!kResident) return p.blob + from;
        const uint4* source = reinterpret_cast<const uint4*>(p.blob + from);
        uint4* to = reinterpret_cast<uint4*>(shared + plan.weights);
        for (int64_t at = threadIdx.x; at < bytes / 16; at += blockDim.x) to[at] = source[at];
        return shared + plan.weights;
    }
    static __device__ Matrix matrix(const unsigned char* at, int rows, int columns) {
        return {reinterpret_cast<const uint32_t*>(at),
                reinterpret_cast<const float*>(at + static_cast<int64_t>(rows) * columns), rows, columns};
    }
    /// The matrix at byte `at` of what begins at byte `from` of the blob and is held at `held`: in the product's order.
    __device__ void arrange(const unsigned char* held, int64_t from, int64_t at, int rows, int columns) const {
        Product::arrange(const_cast<unsigned char*>(held) + at, p.blob + from + at, rows, columns);
    }

    // -------------------------------------------------- blocks of layers

    __device__ void run_layers() {
        const int begin = rank * p.block_layers,
                  end = begin + p.block_layers < p.layers ? begin + p.block_layers : p.layers;
        const int64_t bytes = (end - begin) * p.layer_bytes() - (end == p.layers ? p.out_bytes() : 0);
        const unsigned char* weights = hold(p.first_bytes() + begin * p.layer_bytes(), bytes);
        const int64_t now = *p.position;
        int64_t ring_start = 0;
        for (int layer = 0; layer < begin; ++layer)
            ring_start += static_cast<int64_t>(p.dilations[layer]) * (p.kernel - 1);
        if (kRearranged) {
            __syncthreads();
            const int64_t from = p.first_bytes() + begin * p.layer_bytes();
            for (int layer = begin; layer < end; ++layer) {
                const int64_t at = (layer - begin) * p.layer_bytes();
                const bool is_last = layer + 1 == p.layers;
                for (int age = 0; age < p.kernel; ++age)
                    arrange(weights, from, at + age * p.matrix_bytes(2 * p.wide_gate, p.wide_channels),
                            2 * p.wide_gate, p.wide_channels);
                if (!is_last) arrange(weights, from, at + p.out_offset(), p.wide_channels, p.wide_gate);
                arrange(weights, from, at + p.skip_offset(is_last), p.wide_skip, p.wide_gate);
            }
        }
        __syncthreads();
        if (p.time)
            for (int s = 0; s < p.streams && tile_number(s) < p.tiles(); ++s)
                make_ready(weights, begin, end, ring_start, now, 0, s);
        for (int t = 0; t <= p.time; ++t)
            for (int s = 0; s < p.streams && tile_number(s) < p.tiles(); ++s) {
                if (rank == 0 && t > 0) finish(t - 1, s);
                if (t == p.time) continue;
                if (rank == 0)
                    enter(s);
                else
                    each(p.wide_channels, [&](int c, int j) {
                        vector[Product::place(c, j, p.wide_channels)] = receive(s, c, j, t + 1);
                    });
                __syncthreads();
                for (int layer = begin; layer < end; ++layer) one_layer(weights, begin, layer, ring_start, now + t, s);
                if (end < p.layers)
                    each(p.wide_channels, [&](int c, int j) {
                        send(rank + 1, s, c, j, vector[Product::place(c, j, p.wide_channels)], t + 1);
                    });
                add_skips(weights, begin, end, t, s);
                if (t + 1 < p.time) make_ready(weights, begin, end, ring_start, now, t + 1, s);
            }
    }

    /// The slot of a layer's ring for step `now`, of the first stream of a tile.
    __device__ float* slot(int64_t ring_start, int begin, int layer, int64_t now, int s) const {
#pragma unroll 1
        for (int before = begin; before < layer; ++before)
            ring_start += static_cast<int64_t>(p.dilations[before]) * (p.kernel - 1);
        const int64_t length = static_cast<int64_t>(p.dilations[layer]) * (p.kernel - 1);
        return p.rings +
               (stream_number(s, 0) * p.slots + ring_start + ((now % length) + length) % length) * p.wide_channels;
    }

    /// ready = bias + conditioning + past taps, for step t of this call. Ends with a barrier.
    __device__ void make_ready(const unsigned char* weights, int begin, int end, int64_t ring_start, int64_t now, int t,
                               int s) {
        const int rows = 2 * p.wide_gate;
        for (int layer = begin; layer < end; ++layer) {
            const unsigned char* at = weights + (layer - begin) * p.layer_bytes();
            const float* bias = reinterpret_cast<const float*>(at + p.bias_offset());
            float* to = ready_of(s, begin, layer);
            each(rows, [&](int row, int j) {
                const int gate = row / 32 * 16 + row % 16, source = row % 32 / 16 * p.gate + gate;
                float value = bias[row];
                if (p.condition && gate < p.gate && is_stream(s, j)) {
                    const float* c =
                        p.condition + ((stream_number(s, j) * p.layers + layer) * 2 * p.gate + source) * p.frames;
                    if (!p.first)
                        value += c[static_cast<int64_t>(t) * p.frames / p.time];
                    else
                        for (int tap = 0; tap < p.taps; ++tap)
                            value += p.band[static_cast<int64_t>(t) * p.taps + tap] * c[p.first[t] + tap];
                }
                to[row * W + j] = value;
            });
            for (int age = 1; age < p.kernel; ++age) {  // the tap `age` dilations ago
                const int64_t then = now + t - static_cast<int64_t>(age) * p.dilations[layer];
                each_of_ring(slot(ring_start, begin, layer, then, s), s,
                             [](float& x, const float* ring) { x = ring ? *ring : 0.0f; });
                __syncthreads();
                const Matrix m = matrix(at + age * p.matrix_bytes(rows, p.wide_channels), rows, p.wide_channels);
                const auto step = Product::prepare(vector, p.wide_channels, words);
                Product::run(m, vector, words, parts);
                __syncthreads();
                each(rows, [&](int row, int j) { to[row * W + j] += Product::result(m, parts, row, j, step); });
            }
        }
        __syncthreads();
    }

    /// use(x, ring) for the numbers of `vector` and of a slot of a layer's ring, neighbouring lanes at neighbouring
    /// channels; null: there is no such stream.
    template <class Use>
    __device__ __forceinline__ void each_of_ring(float* ring, int s, Use use) const {
        for (int at = threadIdx.x; at < p.wide_channels * W; at += blockDim.x) {
            const int c = W == 1 ? at : at % p.wide_channels, j = W == 1 ? 0 : at / p.wide_channels;
            use(vector[Product::place(c, j, p.wide_channels)],
                is_stream(s, j) ? ring + j * p.slots * p.wide_channels + c : nullptr);
        }
    }

    /// x in `vector` -> h of this layer, the next x in `vector`. Ends with a barrier.
    __device__ void one_layer(const unsigned char* weights, int begin, int layer, int64_t ring_start, int64_t now,
                              int s) {
        const int rows = 2 * p.wide_gate;
        const unsigned char* at = weights + (layer - begin) * p.layer_bytes();
        const float* made = ready_of(s, begin, layer);
        float* own = h + (layer - begin) * p.tile_size(p.wide_gate);
        const Matrix present = matrix(at, rows, p.wide_channels);
        auto step = Product::prepare(vector, p.wide_channels, words);
        Product::run(present, vector, words, parts);
        each_of_ring(slot(ring_start, begin, layer, now, s), s, [](const float& x, float* ring) {
            if (ring) *ring = x;
        });
        __syncthreads();
        each(p.wide_gate, [&](int gate, int j) {
            const int row = gate / 16 * 32 + gate % 16;  // rows lie 16 tanh, 16 sigmoid, in turn
            const float a = Product::result(present, parts, row, j, step) + made[row * W + j];
            const float b = Product::result(present, parts, row + 16, j, step) + made[(row + 16) * W + j];
            own[Product::place(gate, j, p.wide_gate)] = tanh_of<float>(a) * logistic_of<float>(b);
        });
        __syncthreads();
        if (layer + 1 == p.layers) return;
        const Matrix out = matrix(at + p.out_offset(), p.wide_channels, p.wide_gate);
        const float* bias =
            reinterpret_cast<const float*>(at + p.out_offset() + p.matrix_bytes(p.wide_channels, p.wide_gate));
        step = Product::prepare(own, p.wide_gate, words);
        Product::run(out, own, words, parts);
        __syncthreads();
        each(p.wide_channels, [&](int c, int j) {
            float& x = vector[Product::place(c, j, p.wide_channels)];
            x = x * p.residual_scale + Product::result(out, parts, c, j, step) + bias[c];
        });
        __syncthreads();
    }

    /// The sum of skips up to here, to the next block of layers or to all of the hidden 1x1. Ends with a barrier.
    __device__ void add_skips(const unsigned char* weights, int begin, int end, int t, int s) {
        for (int layer = begin; layer < end; ++layer) {
            const float* own = h + (layer - begin) * p.tile_size(p.wide_gate);
            const Matrix m = matrix(weights + (layer - begin) * p.layer_bytes() + p.skip_offset(layer + 1 == p.layers),
                                    p.wide_skip, p.wide_gate);
            const auto step = Product::prepare(own, p.wide_gate, words);
            Product::run(m, own, words, parts);
            __syncthreads();
            each(p.wide_skip, [&](int row, int j) {
                float& total = sum[row * W + j];
                total = (layer == begin ? 0.0f : total) + Product::result(m, parts, row, j, step);
            });
            __syncthreads();
        }
        const bool to_head = end == p.layers;
        each(p.wide_skip, [&](int row, int j) {
            const float before =
                rank == 0 ? vector_at(p.head_offset())[row] : receive(s, p.wide_channels + row, j, t + 1);
            if (!to_head)
                send(rank + 1, s, p.wide_channels + row, j, before + sum[row * W + j], t + 1);
            else
                for (int block = 0; block < p.hidden_blocks; ++block)
                    send(p.layer_blocks + block, s, row, j, before + sum[row * W + j], t + 1);
        });
        __syncthreads();
    }

    // -------------------------------------------------- the first block: samples

    /// The first layer, on the samples before this one -> `vector`.
    __device__ void enter(int s) {
        const float* table = vector_at(0);
        each(p.wide_channels, [&](int c, int j) {
            float& to = vector[Product::place(c, j, p.wide_channels)];
            if (!is_stream(s, j)) {
                to = 0.0f;
                return;
            }
            const float* before = p.last + stream_number(s, j) * p.first_kernel;
            float x = table[static_cast<int64_t>(p.first_kernel) * p.inputs * p.wide_channels + c];
            for (int tap = 0; tap < p.first_kernel; ++tap) {
                const float value = before[tap];
                if (p.inputs == 1)
                    x += value * table[static_cast<int64_t>(tap) * p.wide_channels + c];
                else if (value >= 0.0f)
                    x += table[(static_cast<int64_t>(tap) * p.inputs + static_cast<int>(value)) * p.wide_channels + c];
            }
            to = p.first_tanh ? tanhf(x) : x;
        });
    }

    /// What the last 1x1 says of step t -> the sample, which becomes the last one. Ends with a barrier.
    __device__ void finish(int t, int s) {
        each(p.outputs, [&](int row, int j) {
            const float value = receive(s, row, j, t + 1);
            sum[Product::place(row, j, p.wide_outputs)] = value;
            if (p.given && is_stream(s, j)) p.parameters[(stream_number(s, j) * p.time + t) * p.outputs + row] = value;
        });
        __syncthreads();
        for (int j = threadIdx.x / 32; j < W && is_stream(s, j); j += blockDim.x / 32) {  // a warp a stream
            const int64_t stream = stream_number(s, j);
            const float sample = p.given ? p.given[stream * p.time + t]
                                         : draw(p, sum + Product::place(0, j, p.wide_outputs),
                                                p.random + stream * p.numbers * p.time + t, p.time);
            if (threadIdx.x % 32 == 0) {
                float* before = p.last + stream * p.first_kernel;
                if (p.first_kernel == 2) before[0] = before[1];
                before[p.first_kernel - 1] = sample;
                if (!p.given) p.samples[stream * p.time + t] = sample;
            }
        }
        __syncthreads();
    }

    // -------------------------------------------------- blocks of the head

    /// Some rows of a 1x1 behind a relu: the inbox's vector -> all of `receivers`.
    __device__ void run_rows(int64_t offset, int64_t bias_offset, int rows, int columns, int groups, int number,
                             bool relu_in, bool relu_out, int first_receiver, int receivers, int most) {
        const int first_row = number * groups * 64,
                  own = rows - first_row < groups * 64 ? rows - first_row : groups * 64;
        const int64_t from = offset + p.group_bytes(number * groups, columns),
                      bytes = p.group_bytes(1, columns) / 64 * own;
        Matrix m = matrix(hold(from, bytes), own, columns);
        m.scales = vector_at(offset + p.group_bytes(1, columns) / 64 * rows) + first_row;
        if (kRearranged) {
            __syncthreads();
            arrange(reinterpret_cast<const unsigned char*>(m.weights), from, 0, own, columns);
        }
        __syncthreads();
        for (int t = 0; t < p.time; ++t)
            for (int s = 0; s < p.streams && tile_number(s) < p.tiles(); ++s) {
                each(columns, [&](int c, int j) {
                    const float value = receive(s, c, j, t + 1);
                    vector[Product::place(c, j, columns)] = relu_in ? fmaxf(value, 0.0f) : value;
                });
                __syncthreads();
                const auto step = Product::prepare(vector, columns, words);
                Product::run(m, vector, words, parts);
                __syncthreads();
                each(smaller(own, most - first_row), [&](int row, int j) {
                    const float value =
                        Product::result(m, parts, row, j, step) + vector_at(bias_offset)[first_row + row];
                    for (int block = 0; block < receivers; ++block)
                        send(first_receiver + block, s, first_row + row, j, relu_out ? fmaxf(value, 0.0f) : value,
                             t + 1);
                });
                __syncthreads();
            }
    }

    __device__ void run() {
        if (kCluster) {  // no step is number 0
            uint64_t* mine = reinterpret_cast<uint64_t*>(shared);
            for (int at = threadIdx.x; at < p.streams * p.inbox_words; at += blockDim.x) mine[at] = 0;
            __syncthreads();
            cluster_barrier();
        }
        if (rank < p.layer_blocks)
            run_layers();
        else if (rank < p.layer_blocks + p.hidden_blocks)
            run_rows(p.hidden_offset(), p.hidden_bias_offset(), p.wide_hidden, p.wide_skip, p.hidden_groups,
                     rank - p.layer_blocks, true, true, p.layer_blocks + p.hidden_blocks, p.last_blocks, p.wide_hidden);
        else
            run_rows(p.last_offset(), p.last_bias_offset(), p.wide_outputs, p.wide_hidden, p.last_groups,
                     rank - p.layer_blocks - p.hidden_blocks, false, false, 0, 1, p.outputs);
        if (kCluster) {
            __syncthreads();
            cluster_barrier();  // nobody leaves while others may write to its shared memory
        }
    }
};

template <class Product, bool kResident, bool kCluster>
__global__ void __launch_bounds__(512, 1) generate_kernel(Generation p) {
    Generator<Product, kResident, kCluster>(p).run();
}

__global__ void advance_kernel(int64_t* position, int time) {
    if (threadIdx.x == 0) *position += time;
}

// ---------------------------------------------------------------------- how the work lies on the chip

/// Fill in the division of the network into blocks, for `limit` bytes of shared memory a block and `streams` tiles a
/// chain. kResident: whether the weights fit. Returns false where even one stream without weights does not fit.
inline bool divide(Generation& p, bool cluster, bool resident, int streams, int limit, int multiprocessors) {
    uint64_t none = 0;
    p.inboxes = cluster ? nullptr : &none;  // SharedPlan asks only whether there are any
    p.streams = streams;
    p.inbox_words =  // a multiple of 16
        p.width * larger(larger(p.wide_channels + p.wide_skip, p.wide_hidden), p.wide_outputs);
    const int hidden_groups = (p.wide_hidden + 63) / 64, last_groups = (p.wide_outputs + 63) / 64;
    auto blocks_of = [](int count, int each) { return (count + each - 1) / each; };
    auto fits = [&](int64_t bytes) {
        p.weight_bytes = resident ? static_cast<int>(bytes < (1 << 29) ? bytes : 1 << 29) : 0;
        return p.weight_bytes <= limit && SharedPlan(p).bytes <= limit;
    };
    int64_t most = 0;
    auto most_of = [&](int count, auto bytes_of) {  // the largest share of `count` pieces that fits; 0: none does
        int share = 0;
        while (share < count && fits(bytes_of(share + 1))) ++share;
        if (share) share = blocks_of(count, blocks_of(count, share));  // evenly
        if (resident && share && bytes_of(share) > most) most = bytes_of(share);
        return share;
    };
    p.block_layers = 1;
    int layers = 0;
    while (layers < p.layers) {
        p.block_layers = layers + 1;
        if (!fits(p.layer_bytes() * (layers + 1))) break;
        ++layers;
    }
    if (!layers) return false;
    if (!resident && layers > blocks_of(p.layers, multiprocessors - 8))
        layers = larger(blocks_of(p.layers, larger(multiprocessors - 8, 1)), 1);
    p.block_layers = blocks_of(p.layers, blocks_of(p.layers, layers));
    if (resident) most = p.layer_bytes() * p.block_layers;
    p.layer_blocks = blocks_of(p.layers, p.block_layers);
    p.hidden_groups = most_of(hidden_groups, [&](int share) { return p.group_bytes(share, p.wide_skip); });
    p.last_groups = most_of(last_groups, [&](int share) { return p.group_bytes(share, p.wide_hidden); });
    if (!p.hidden_groups || !p.last_groups) return false;
    p.hidden_blocks = blocks_of(hidden_groups, p.hidden_groups);
    p.last_blocks = blocks_of(last_groups, p.last_groups);
    p.weight_bytes = static_cast<int>(most);
    p.chains = multiprocessors / p.blocks();
    return p.chains > 0 && SharedPlan(p).bytes <= limit;
}

}  // namespace audiogen
