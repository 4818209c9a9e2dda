// One WaveNet layer, forward and backward: see audiogen/ops/gated_dilated_layer.py for what it computes.
//
// Layout: tiles of up to 96 steps, channels side by side ("rows"). A tile's input window, its gate h and its outputs lie in
// the second cache; one panel block of weights (tile.h) at a time in the first. z never leaves the registers: a block
// holds the same channels of both halves, so that tanh * sigmoid is taken of sums where they are.
// Bound: 2 * (kernel * channels * 2 * gate + gate * (channels + skips)) FLOP a step, 65.5 k at 64 channels and kernel 3,
// against 1 KB that comes and goes: 64 FLOP a byte, so the multipliers bound it and memory does not.
// Backward: z again (75 % of a forward), then four products: h, x and two weight gradients; 2.75 forwards in all.
#include "gated_dilated_layer.h"

#include "tile.h"

namespace audiogen::AUDIOGEN_ISA {

template <class Real>
static LayerSizes sizes(const Layer<Real>& l) {
  LayerSizes s;
  const long both = l.channels + l.skips;
  s.gate = padded<Real>(l.gate);
  s.rows = up(l.channels, steps_down);
  s.out_rows = up(both, steps_down);
  s.gate_panel = l.kernel * l.channels * 2 * s.gate;
  s.gate_bias = 2 * s.gate;
  s.out_panel = l.gate * padded<Real>(both);
  s.out_bias_row = padded<Real>(both);
  s.hidden_panel = both * s.gate;
  s.input_panel = l.kernel * 2 * s.gate * padded<Real>(l.channels);
  const long window = window_rows(l.kernel, l.dilation, l.steps) * l.channels + 16;
  const long frames = l.spread * 2 * s.gate;
  s.forward_scratch = window + frames + l.steps * (s.gate + padded<Real>(both) + l.channels + l.skips);
  const long gates = window + frames + l.steps * (5 * s.gate + s.out_rows + l.channels) + 16;
  const long input = window_rows(l.kernel, l.dilation, l.steps) * 2 * s.gate + l.steps * 2 * padded<Real>(l.channels);
  s.backward_scratch = gates > input ? gates : input;
  return s;
}

// A block of the gate's panel holds N / 2 vectors of the first half of z's rows, then the same of the second.
template <class Real, class Work>
static INLINE void for_gates(long gate, Work work) {
  constexpr long width = Simd<Real>::width, across = vectors_across / 2;
  long column = 0;
  for (; column + across * width <= gate; column += across * width) work(Count<across>(), column);
  if constexpr (across == 2)
    if (column < gate) work(Count<1>(), column);
}

template <class Real>
static void pack_layer(const Layer<Real>& l, bool backward) {
  const LayerSizes s = sizes(l);
  const long K = l.kernel * l.channels, both = l.channels + l.skips;
  for_gates<Real>(s.gate, [&](auto count, long first) {
    constexpr long width = decltype(count)::value * Simd<Real>::width;
    Real* block = l.gate_panel + 2 * first * K;
    for (long k = 0; k < K; ++k)
      for (long j = 0; j < 2 * width; ++j) {
        const long column = first + j % width, row = column + j / width * l.gate;
        const long tap = k / l.channels, channel = k % l.channels;
        block[k * 2 * width + j] = column < l.gate ? l.weight[(row * l.channels + channel) * l.kernel + tap] : Real(0);
      }
  });
  for (long half = 0; half < 2; ++half)
    for (long j = 0; j < s.gate; ++j)
      l.gate_bias[half * s.gate + j] = l.bias && j < l.gate ? l.bias[half * l.gate + j] : Real(0);
  const auto out_row = [&](long row) {  // of the two 1x1s, one below the other
    if (row >= l.channels) return l.skip_weight + (row - l.channels) * l.gate;
    return l.out_weight ? l.out_weight + row * l.gate : nullptr;
  };
  if (!backward) {
    pack<Real>(l.out_panel, l.gate, both, [&](long k, long column) {
      const Real* row = out_row(column);
      return row ? row[k] : Real(0);
    });
    for (long j = 0; j < padded<Real>(both); ++j) {
      const Real* bias = j < l.channels ? l.out_bias : l.skip_bias;
      l.out_bias_row[j] = bias && j < both ? bias[j < l.channels ? j : j - l.channels] : Real(0);
    }
    return;
  }
  pack<Real>(l.hidden_panel, both, l.gate, [&](long k, long column) {
    const Real* row = out_row(k);
    return row ? row[column] : Real(0);
  });
  pack<Real>(l.input_panel, l.kernel * 2 * s.gate, l.channels, [&](long k, long column) {
    const long tap = l.kernel - 1 - k / (2 * s.gate), at = k % (2 * s.gate), half = at / s.gate, j = at % s.gate;
    return j < l.gate ? l.weight[((half * l.gate + j) * l.channels + column) * l.kernel + tap] : Real(0);
  });
}

// The conditioning of a tile: for every step the frames that it reads.
template <class Real>
struct Frames {
  const Real* rows = nullptr;  // (frames, 2 * padded gate); null: no condition
  long lowest = 0, pitch = 0;
};

template <class Real>
static INLINE long first_frame(const Layer<Real>& l, long t) {
  return l.taps ? l.first[t] : t / (l.time / l.frames);
}

template <class Real>
static Frames<Real> read_frames(const Layer<Real>& l, long gate, long item, long start, long stop, Real* scratch) {
  if (!l.condition.data) return {};
  long lowest = first_frame(l, start), highest = lowest;
  for (long t = start; t < stop; ++t) {
    const long frame = first_frame(l, t);
    lowest = frame < lowest ? frame : lowest;
    highest = frame > highest ? frame : highest;
  }
  const long count = highest - lowest + (l.taps ? l.taps : 1);
  memset(scratch, 0, count * 2 * gate * sizeof(Real));
  View half = l.condition;
  read_tile(scratch, 2 * gate, half, item, lowest, count, l.gate);
  constexpr long bytes = sizeof(Real) == 8 ? 8 : 4;
  const bool narrow = half.type == Type::bf16 || half.type == Type::f16;
  half.data = (char*)half.data + l.gate * half.channel * (narrow ? 2 : bytes);
  read_tile(scratch + gate, 2 * gate, half, item, lowest, count, l.gate);
  return {scratch, lowest, 2 * gate};
}

// Sums of bias and conditioning for steps_down steps from t on and one block of gate channels.
template <class Real, int N>
static INLINE void begin_gates(typename Simd<Real>::Vector (&sums)[steps_down][2 * N], const Layer<Real>& l,
                               const Frames<Real>& frames, long gate, long column, long t) {
  typedef Simd<Real> S;
#pragma GCC unroll 6
  for (int m = 0; m < steps_down; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < 2 * N; ++n)
      sums[m][n] = S::load(l.gate_bias + (n / N) * gate + column + (n % N) * S::width);
  if (!frames.rows) return;
  if (!l.taps) {
#pragma GCC unroll 6
    for (int m = 0; m < steps_down; ++m) {
      const long step = t + m < l.time ? t + m : l.time - 1;
      const Real* row = frames.rows + (first_frame(l, step) - frames.lowest) * frames.pitch + column;
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) sums[m][n] += S::load(row + (n / N) * gate + (n % N) * S::width);
    }
    return;
  }
#pragma GCC unroll 6
  for (int m = 0; m < steps_down; ++m) {
    const long step = t + m < l.time ? t + m : l.time - 1;
    const Real* row = frames.rows + (l.first[step] - frames.lowest) * frames.pitch + column;
    for (long tap = 0; tap < l.taps; ++tap, row += frames.pitch) {
      const Real weight = l.band[step * l.taps + tap];
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) sums[m][n] += weight * S::load(row + (n / N) * gate + (n % N) * S::width);
    }
  }
}

// For steps_down steps at a time, calls done(vectors, first channel, step in the tile, tanh and sigmoid).
template <class Real, class Done>
static INLINE void gates(const Layer<Real>& l, const Taps<Real>& taps, const Frames<Real>& frames, long gate_channels,
                         long start, long rows, Done done) {
  typedef Simd<Real> S;
  const long K = l.kernel * l.channels;
  for_gates<Real>(gate_channels, [&](auto count, long column) {
    constexpr int N = decltype(count)::value;
    const Real* panel = l.gate_panel + 2 * column * K;
    for (long m = 0; m < rows; m += steps_down) {
      typename S::Vector sums[steps_down][2 * N];
      begin_gates<Real, N>(sums, l, frames, gate_channels, column, start + m);
      for (long tap = 0; tap < l.kernel; ++tap)
        multiply<Real, steps_down, 2 * N>(sums, taps.base[tap] + m * taps.pitch, taps.pitch, 1,
                                          panel + tap * l.channels * 2 * N * S::width, 2 * N * S::width, l.channels);
#pragma GCC unroll 6
      for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n)
          done(column + n * S::width, m + row, gate<Real>(sums[row][n], sums[row][N + n]));
    }
  });
}

template <class Real>
static Taps<Real> input_of(const Layer<Real>& l, long item, long start, long rows, Real* window) {
  const Reach reach{l.reach, l.dilation};
  if (in_place(l.x, l.shift, start + reach(0), start + reach(l.kernel - 1) + rows, l.time)) {
    Taps<Real> taps{{}, l.x.step};
    for (long k = 0; k < l.kernel; ++k)
      taps.base[k] = (const Real*)l.x.data + item * l.x.batch + (start + reach(k)) * l.x.step;
    return taps;
  }
  const Real* shift = l.shift ? l.shift + item * l.channels : nullptr;
  return read_window(window, l.x, shift, item, start, rows, l.time, l.channels, l.kernel, reach);
}

template <class Real>
static void forward(const Layer<Real>& l, long begin, long end, Real* scratch) {
  typedef Simd<Real> S;
  const LayerSizes s = sizes(l);
  const long both = l.channels + l.skips, pitch = padded<Real>(both);
  Real* window = scratch;
  Real* frame_rows = window + window_rows(l.kernel, l.dilation, l.steps) * l.channels + 16;
  Real* h = frame_rows + l.spread * 2 * s.gate;
  Real* outs = h + l.steps * s.gate;
  Real* old = outs + l.steps * pitch;
  for (long tile = begin; tile < end; ++tile) {
    const long item = tile / l.tiles, start = tile % l.tiles * l.steps;
    const long valid = l.time - start < l.steps ? l.time - start : l.steps, rows = up(valid, steps_down);
    const Taps<Real> taps = input_of(l, item, start, rows, window);
    const Frames<Real> frames = read_frames(l, s.gate, item, start, start + valid, frame_rows);
    gates<Real>(l, taps, frames, s.gate, start, rows, [&](long column, long row, Gate<typename S::Vector> both_of) {
      S::store(h + row * s.gate + column, both_of.tanh * both_of.sigmoid);
    });
    convolve<Real>(outs, pitch, {{h}, s.gate}, 1, l.gate, l.out_panel, both, l.out_weight ? 0 : l.channels,
                   l.out_bias_row, rows);
    if (l.out_weight) {
      read_tile(old, l.channels, l.x, item, start, valid, l.channels);
      for (long t = 0; t < valid; ++t)
        for (long c = 0; c < l.channels; ++c) outs[t * pitch + c] = (old[t * l.channels + c] + outs[t * pitch + c]) * l.scale;
      write_tile(outs, pitch, l.x_out, item, start, valid, l.channels);
    }
    Real* added = outs + l.channels;
    if (l.skip.data) {
      read_tile(old, l.skips, l.skip, item, start, valid, l.skips);
      for (long t = 0; t < valid; ++t)
        for (long c = 0; c < l.skips; ++c) added[t * pitch + c] += old[t * l.skips + c];
    }
    write_tile(added, pitch, l.skip_out, item, start, valid, l.skips);
  }
}

// First pass of the backward: gradients of z (kept for the second), of all weights, biases and the conditioning.
template <class Real>
static void backward_gates(const Layer<Real>& l, long begin, long end, Real* scratch, const LayerSums<Real>& to) {
  typedef Simd<Real> S;
  const LayerSizes s = sizes(l);
  const long wide = 2 * s.gate;
  Real* window = scratch;
  Real* frame_rows = window + window_rows(l.kernel, l.dilation, l.steps) * l.channels + 16;
  Real* tanhs = frame_rows + l.spread * wide;
  Real* sigmoids = tanhs + l.steps * s.gate;
  Real* h = sigmoids + l.steps * s.gate;
  Real* of_z = h + l.steps * s.gate;
  Real* of_out = of_z + l.steps * wide;  // rows: gradient of x + out, then of skip
  for (long tile = begin; tile < end; ++tile) {
    const long item = tile / l.tiles, start = tile % l.tiles * l.steps;
    const long valid = l.time - start < l.steps ? l.time - start : l.steps, rows = up(valid, steps_down);
    // Always copied: weight gradients read a few numbers beyond a row.
    const Real* shift = l.shift ? l.shift + item * l.channels : nullptr;
    const Taps<Real> taps = read_window(window, l.x, shift, item, start, rows, l.time, l.channels, l.kernel,
                                        Reach{l.reach, l.dilation});
    const Frames<Real> frames = read_frames(l, s.gate, item, start, start + valid, frame_rows);
    gates<Real>(l, taps, frames, s.gate, start, rows, [&](long column, long row, Gate<typename S::Vector> both) {
      S::store(tanhs + row * s.gate + column, both.tanh);
      S::store(sigmoids + row * s.gate + column, both.sigmoid);
      S::store(h + row * s.gate + column, both.tanh * both.sigmoid);
    });
    memset(of_out, 0, rows * s.out_rows * sizeof(Real));
    if (l.grad_x_out.data) {
      read_tile(of_out, s.out_rows, l.grad_x_out, item, start, valid, l.channels);
      for (long t = 0; t < valid; ++t)
        for (long c = 0; c < l.channels; ++c) of_out[t * s.out_rows + c] *= l.scale;
    }
    read_tile(of_out + l.channels, s.out_rows, l.grad_skip, item, start, valid, l.skips);
    const long both = l.channels + l.skips, none = l.grad_x_out.data ? 0 : l.channels;
    for_blocks<Real>(l.gate, [&](auto count, long column) {
      constexpr int N = decltype(count)::value;
      for (long m = 0; m < rows; m += steps_down) {
        typename S::Vector sums[steps_down][N] = {};
        multiply<Real, steps_down, N>(sums, of_out + m * s.out_rows + none, s.out_rows, 1,
                                      l.hidden_panel + column * both + none * N * S::width, N * S::width, both - none);
#pragma GCC unroll 6
        for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) {
            const long at = column + n * S::width;
            auto tanh = S::load(tanhs + (m + row) * s.gate + at), sigmoid = S::load(sigmoids + (m + row) * s.gate + at);
            S::store(of_z + (m + row) * wide + at, sums[row][n] * sigmoid * (1 - tanh * tanh));
            S::store(of_z + (m + row) * wide + s.gate + at, sums[row][n] * tanh * sigmoid * (1 - sigmoid));
          }
      }
    });
    memcpy(l.grad_z + (item * l.time + start) * wide, of_z, valid * wide * sizeof(Real));
    for (long tap = 0; tap < l.kernel; ++tap)
      add_products(to.weight + tap * s.rows * wide, l.channels, wide, taps.base[tap], taps.pitch, of_z, wide, rows);
    add_products(to.out + none * s.gate, both - none, s.gate, of_out + none, s.out_rows, h, s.gate, rows);
    add_rows(to.bias, of_z, wide, wide, valid);
    add_rows(to.out_bias, of_out, s.out_rows, both, valid);
    if (!frames.rows) continue;
    for (long t = start; t < start + valid; ++t) {
      const Real* from = of_z + (t - start) * wide;
      for (long tap = 0; tap < (l.taps ? l.taps : 1); ++tap) {
        const long frame = first_frame(l, t) + tap;
        Real* __restrict sum = to.condition + (item * l.frames + frame - to.frame) * wide;
        const Real* read = frames.rows + (frame - frames.lowest) * wide;
        const Real weight = l.taps ? l.band[t * l.taps + tap] : Real(1);
        typename S::Vector product = {};
        for (long c = 0; c < wide; c += S::width) {
          S::store(sum + c, S::load(sum + c) + weight * S::load(from + c));
          product += S::load(from + c) * S::load(read + c);
        }
        if (!l.taps) continue;
        Real total = 0;
        for (int lane = 0; lane < S::width; ++lane) total += product[lane];
        l.grad_band[(item * l.time + t) * l.taps + tap] = total;
      }
    }
  }
}

// Second pass: the gradient of x, for which the gradients of z around the tile must be there.
template <class Real>
static void backward_input(const Layer<Real>& l, long begin, long end, Real* scratch) {
  typedef Simd<Real> S;
  const LayerSizes s = sizes(l);
  const long wide = 2 * s.gate, pitch = padded<Real>(l.channels);
  View of_z;
  of_z.data = l.grad_z;
  of_z.type = sizeof(Real) == 8 ? Type::f64 : Type::f32;
  of_z.batch = l.time * wide, of_z.channel = 1, of_z.step = wide;
  const Reach reach{-(l.reach + (l.kernel - 1) * l.dilation), l.dilation};  // what tap k read is written by tap -k
  Real* window = scratch;
  Real* result = window + window_rows(l.kernel, l.dilation, l.steps) * wide;
  Real* straight = result + l.steps * pitch;
  for (long tile = begin; tile < end; ++tile) {
    const long item = tile / l.tiles, start = tile % l.tiles * l.steps;
    const long valid = l.time - start < l.steps ? l.time - start : l.steps, rows = up(valid, steps_down);
    Taps<Real> taps{{}, wide};
    if (in_place<Real>(of_z, nullptr, start + reach(0), start + reach(l.kernel - 1) + rows, l.time))
      for (long k = 0; k < l.kernel; ++k) taps.base[k] = l.grad_z + (item * l.time + start + reach(k)) * wide;
    else
      taps = read_window<Real>(window, of_z, nullptr, item, start, rows, l.time, wide, l.kernel, reach);
    convolve<Real>(result, pitch, taps, l.kernel, wide, l.input_panel, l.channels, 0, nullptr, rows);
    if (l.shift) {
      Real* sum = l.tile_shift + tile * l.channels;
      memset(sum, 0, l.channels * sizeof(Real));
      add_rows(sum, result, pitch, l.channels, valid);
    }
    if (l.grad_x_out.data) {
      read_tile(straight, pitch, l.grad_x_out, item, start, valid, l.channels);
      for (long t = 0; t < valid; ++t)
        for (long c = 0; c < l.channels; ++c) result[t * pitch + c] += l.scale * straight[t * pitch + c];
    }
    write_tile(result, pitch, l.grad_x, item, start, valid, l.channels);
  }
}

#define AUDIOGEN_DEFINE(Real)                                                                                      \
  LayerSizes layer_sizes(const Layer<Real>& l) { return sizes(l); }                                                \
  void layer_pack(const Layer<Real>& l, bool backward) { pack_layer(l, backward); }                                \
  void layer_forward(const Layer<Real>& l, long begin, long end, Real* scratch) { forward(l, begin, end, scratch); } \
  void layer_backward_gates(const Layer<Real>& l, long begin, long end, Real* scratch, const LayerSums<Real>& to) { \
    backward_gates(l, begin, end, scratch, to);                                                                    \
  }                                                                                                                \
  void layer_backward_input(const Layer<Real>& l, long begin, long end, Real* scratch) {                           \
    backward_input(l, begin, end, scratch);                                                                        \
  }

AUDIOGEN_DEFINE(float)
#if !defined(__AVX2__)  // float64 is for checking gradients: one level is enough
AUDIOGEN_DEFINE(double)
#endif

}  // namespace audiogen::AUDIOGEN_ISA
