// One WaveNet layer, forward and backward: see audiogen/ops/gated_dilated_layer.py for what it computes.
//
// Layout: the steps in pairs, some 96 to a tile (pairs.h), channels side by side ("rows"). A tile's rows lie in the second
// cache, one panel block of weights (tile.h) at a time in the first. z never leaves the registers: a block holds the same
// channels of both halves, so that tanh * sigmoid is taken of sums where they are; what comes out of the two 1x1s is
// added to x and to skip on its way to memory.
// Bound: 2 * (kernel * channels * 2 * gate + gate * (channels + skips)) FLOP a step, 65.5 k at 64 channels and kernel 3,
// of which pairs take 49.2 k, against 1 KB that comes and goes: the multipliers bound it, memory does not.
// Backward: z again, then four products: h, x and two weight gradients; 2.67 convolutions of which a forward is 1 (as
// pairs, with the 1x1s). What z was made of serves its weights' gradient too.
#include "gated_dilated_layer.h"

#include <stdlib.h>

#include "pairs.h"

namespace audiogen::AUDIOGEN_ISA {

template <class Real>
static long x_columns(const Layer<Real>& l) {  // of the two 1x1s side by side, those that make x
  return padded<Real>(l.channels);
}

template <class Real>
static long out_columns(const Layer<Real>& l) {
  return x_columns(l) + padded<Real>(l.skips);
}

// Hands out memory; without any, only counts it.
template <class Real>
struct Purse {
  Real* at;
  long used = 0;
  Real* take(long count) {
    Real* here = at ? at + used : nullptr;
    used += up(count, 16);
    return here;
  }
};

template <class Real>
struct ForwardMemory {
  Real *sums, *window, *frames, *h, *old_x, *old_skip, *new_x, *new_skip, *zeros, *waste;
  long used;

  ForwardMemory(const Layer<Real>& l, Real* memory) {
    Purse<Real> purse{memory};
    const Pairing& p = l.pairing;
    const long rows = 2 * p.rows, gate = padded<Real>(l.gate), x = x_columns(l), skip = padded<Real>(l.skips);
    sums = purse.take((l.kernel + 1) * p.rows * l.channels);
    window = purse.take(pair_window(p, l.kernel) * l.channels);
    frames = purse.take(2 * l.spread * 2 * gate);
    h = purse.take(rows * gate);
    old_x = purse.take(rows * x), old_skip = purse.take(rows * skip);
    new_x = purse.take(rows * x), new_skip = purse.take(rows * skip);
    zeros = purse.take(x + skip), waste = purse.take(x + skip);
    used = purse.used;
    if (memory) memset(zeros, 0, (x + skip) * sizeof(Real));
  }
};

template <class Real>
struct BackwardMemory {
  Real *sums, *window, *frames, *tanhs, *sigmoids, *h, *of_z, *mixed, *of_out, *staging, *zeros, *waste;
  long used;

  BackwardMemory(const Layer<Real>& l, Real* memory) {
    Purse<Real> purse{memory};
    const Pairing& p = l.pairing;
    const long rows = 2 * p.rows, gate = padded<Real>(l.gate), both = up(l.channels + l.skips, steps_down);
    const long most = 2 * padded<Real>(l.channels) + padded<Real>(l.skips) + 2 * gate;
    sums = purse.take((l.kernel + 1) * p.rows * (l.channels > 2 * gate ? l.channels : 2 * gate) + 16);
    window = purse.take(pair_window(p, l.kernel) * l.channels);
    frames = purse.take(2 * l.spread * 2 * gate);
    tanhs = purse.take(rows * gate), sigmoids = purse.take(rows * gate), h = purse.take(rows * gate);
    of_z = purse.take(rows * 2 * gate);
    mixed = purse.take(rows * 2 * gate);  // of the products q and r
    of_out = purse.take(rows * both + 16);
    staging = purse.take(rows * most);
    zeros = purse.take(most), waste = purse.take(most);
    used = purse.used;
    if (memory) memset(zeros, 0, most * sizeof(Real));
  }
};

template <class Real>
static LayerSizes sizes(const Layer<Real>& l) {
  LayerSizes s;
  const long both = l.channels + l.skips;
  s.gate = padded<Real>(l.gate);
  s.rows = up(l.channels, steps_down);
  s.out_rows = up(both, steps_down);
  s.gate_panel = (l.kernel + 1) * l.channels * 2 * s.gate;
  s.gate_bias = 2 * s.gate;
  s.out_panel = l.gate * out_columns(l);
  s.out_bias_row = out_columns(l);
  s.hidden_panel = both * s.gate;
  s.input_panel = (l.kernel + 1) * 2 * s.gate * padded<Real>(l.channels);
  s.forward_scratch = ForwardMemory<Real>(l, nullptr).used;
  s.backward_scratch = BackwardMemory<Real>(l, nullptr).used;
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
  const long K = (l.kernel + 1) * l.channels, both = l.channels + l.skips, x = x_columns(l);
  const auto of_z = [&](long row, long channel, long product) {
    const Real* taps = l.weight + (row * l.channels + channel) * l.kernel;
    return product_weight<Real>(l.kernel, product, [&](long tap) { return taps[tap]; });
  };
  for_gates<Real>(s.gate, [&](auto count, long first) {
    constexpr long width = decltype(count)::value * Simd<Real>::width;
    Real* block = l.gate_panel + 2 * first * K;
    for (long k = 0; k < K; ++k)
      for (long j = 0; j < 2 * width; ++j) {
        const long column = first + j % width, row = column + j / width * l.gate;
        block[k * 2 * width + j] = column < l.gate ? of_z(row, k % l.channels, k / l.channels) : Real(0);
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
    const auto row_of = [&](long column) {  // -1: padding
      if (column < x) return column < l.channels ? column : -1;
      return column - x < l.skips ? l.channels + column - x : -1;
    };
    pack<Real>(l.out_panel, l.gate, out_columns(l), [&](long k, long column) {
      const Real* row = row_of(column) < 0 ? nullptr : out_row(row_of(column));
      return row ? row[k] : Real(0);
    });
    for (long j = 0; j < out_columns(l); ++j) {
      const long row = row_of(j);
      const Real* bias = row < l.channels ? l.out_bias : l.skip_bias;
      l.out_bias_row[j] = bias && row >= 0 ? bias[row < l.channels ? row : row - l.channels] : Real(0);
    }
    return;
  }
  pack<Real>(l.hidden_panel, both, l.gate, [&](long k, long column) {
    const Real* row = out_row(k);
    return row ? row[column] : Real(0);
  });
  pack<Real>(l.input_panel, (l.kernel + 1) * 2 * s.gate, l.channels, [&](long k, long column) {
    const long product = k / (2 * s.gate), at = k % (2 * s.gate), half = at / s.gate, j = at % s.gate;
    if (j >= l.gate) return Real(0);
    const Real* taps = l.weight + ((half * l.gate + j) * l.channels + column) * l.kernel;
    return product_weight<Real>(l.kernel, product, [&](long tap) { return taps[l.kernel - 1 - tap]; });
  });
}

template <class Real>
static INLINE long first_frame(const Layer<Real>& l, long t) {
  return l.taps ? l.first[t] : t / (l.time / l.frames);
}

template <class Real>
static FrameRange frames_of(const Layer<Real>& l, long start, long count) {
  if (count <= 0) return {0, -1};
  if (!l.taps) return {first_frame(l, start), first_frame(l, start + count - 1)};
  FrameRange range{l.first[start], 0};
  for (long t = start; t < start + count; ++t) {
    const long frame = l.first[t];
    range = {frame < range.low ? frame : range.low, frame > range.high ? frame : range.high};
  }
  return {range.low, range.high + l.taps - 1};
}

template <class Real>
static void plan(Layer<Real>& l, long threads) {
  l.pairing = pair_up(l.batch, l.time, l.dilation, threads);
  l.spread = 0;
  if (!l.condition.data) return;
  Tile tile;
  for (long number = 0; number < l.pairing.tiles; ++number) {
    find_tile(tile, l.pairing, number);
    for (int i = 0; i < tile.pieces; ++i) {
      const FrameRange range = frames_of(l, tile.piece[i].start, tile.piece[i].count);
      l.spread = range.high - range.low + 1 > l.spread ? range.high - range.low + 1 : l.spread;
    }
  }
}

template <class Real>
static FrameRange frames_read(const Layer<Real>& l, long begin, long end) {
  FrameRange all{l.batch * l.frames, -1};
  Tile tile;
  for (long number = begin; number < end; ++number) {
    find_tile(tile, l.pairing, number);
    for (int i = 0; i < tile.pieces; ++i) {
      if (tile.piece[i].count <= 0) continue;
      const FrameRange range = frames_of(l, tile.piece[i].start, tile.piece[i].count);
      const long low = range.low + tile.item * l.frames, high = range.high + tile.item * l.frames;
      all = {low < all.low ? low : all.low, high > all.high ? high : all.high};
    }
  }
  return all.high < 0 ? FrameRange{0, -1} : all;
}

// The conditioning of a tile: the frames that its steps read, (frames, 2 * padded gate) for each piece.
template <class Real>
struct Frames {
  bool given = false;
  const Real* rows[2 * most_pairs];  // where each row's first frame lies; null: the row is padding
};

template <class Real>
static void read_frames(Frames<Real>& frames, const Layer<Real>& l, const Tile& tile, Real* memory) {
  frames.given = l.condition.data;
  if (!frames.given) return;
  const long gate = padded<Real>(l.gate), hop = l.taps ? 0 : l.time / l.frames;
  FrameRange ranges[2];
  for (int i = 0; i < tile.pieces; ++i) {
    const FrameRange range = ranges[i] = frames_of(l, tile.piece[i].start, tile.piece[i].count);
    const long count = range.high - range.low + 1;
    Real* to = memory + i * l.spread * 2 * gate;
    if (gate != l.gate) memset(to, 0, count * 2 * gate * sizeof(Real));
    View half = l.condition;
    read_tile(to, 2 * gate, half, tile.item, range.low, count, l.gate);
    constexpr long bytes = sizeof(Real) == 8 ? 8 : 4;
    const bool narrow = half.type == Type::bf16 || half.type == Type::f16;
    half.data = (char*)half.data + l.gate * half.channel * (narrow ? 2 : bytes);
    read_tile(to + gate, 2 * gate, half, tile.item, range.low, count, l.gate);
  }
  for (int half = 0; half < 2; ++half) {
    const int piece = tile.pieces == 1 ? 0 : half;
    const Real* from = memory + piece * l.spread * 2 * gate;
    long frame = ranges[piece].low;  // steps of a half ascend, so a held frame is found without a division
    for (long r = half * tile.rows; r < (half + 1) * tile.rows; ++r) {
      const long t = tile.steps[r];
      if (l.taps && t >= 0) frame = l.first[t];
      while (!l.taps && t >= (frame + 1) * hop) ++frame;
      frames.rows[r] = t < 0 ? nullptr : from + (frame - ranges[piece].low) * 2 * gate;
    }
  }
}

// Sums of bias and conditioning for the steps_down rows from `row` on and one block of gate channels.
template <class Real, int N>
static INLINE void begin_gates(typename Simd<Real>::Vector (&sums)[steps_down][2 * N], const Layer<Real>& l,
                               const Frames<Real>& frames, const Tile& tile, long gate, long column, long row) {
  typedef Simd<Real> S;
#pragma GCC unroll 6
  for (int m = 0; m < steps_down; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < 2 * N; ++n)
      sums[m][n] = S::load(l.gate_bias + (n / N) * gate + column + (n % N) * S::width);
  if (!frames.given) return;
#pragma GCC unroll 6
  for (int m = 0; m < steps_down; ++m) {
    const Real* from = frames.rows[row + m];
    if (!from) continue;
    from += column;
    if (!l.taps) {
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) sums[m][n] += S::load(from + (n / N) * gate + (n % N) * S::width);
      continue;
    }
    const Real* band = l.band + tile.steps[row + m] * l.taps;
    typename S::Vector total[2 * N];
    for (int n = 0; n < 2 * N; ++n) total[n] = sums[m][n];
    for (long tap = 0; tap < l.taps; ++tap, from += 2 * gate)
#pragma GCC unroll 4
      for (int n = 0; n < 2 * N; ++n) total[n] = S::fma(band[tap], S::load(from + (n / N) * gate + (n % N) * S::width), total[n]);
    for (int n = 0; n < 2 * N; ++n) sums[m][n] = total[n];
  }
}

// Calls done(first channel, row of the tile, tanh and sigmoid) for every vector of gates. x: what `transform` made.
// Before it computes those of some rows it calls soon(first channel, row) for each.
template <class Real, class Soon, class Done>
static INLINE void gates(const Layer<Real>& l, const Tile& tile, const Real* x, const Frames<Real>& frames,
                         Soon soon, Done done) {
  typedef Simd<Real> S;
  const long gate_channels = padded<Real>(l.gate), K = (l.kernel + 1) * l.channels;
  for_gates<Real>(gate_channels, [&](auto count, long column) {
    constexpr int N = decltype(count)::value;
    typedef typename S::Vector Sums[steps_down][2 * N];
    convolve_pairs<Real, 2 * N>(
        x, tile.rows, l.channels, l.kernel, l.gate_panel + 2 * column * K,
        [&](int half, long m, Sums& sums) {
          for (int row = 0; row < steps_down; ++row) soon(column, half * tile.rows + m + row);
          begin_gates<Real, N>(sums, l, frames, tile, gate_channels, column, half * tile.rows + m);
        },
        [&](int half, long m, const Sums& sums) {
          constexpr int together = 3;  // vectors at a time
#pragma GCC unroll 4
          for (int i = 0; i < steps_down * N; i += together) {
            typename S::Vector a[together] = {}, b[together] = {};
            Gate<typename S::Vector> both[together];
#pragma GCC unroll 3
            for (int j = 0; j < together; ++j) a[j] = sums[(i + j) / N][(i + j) % N], b[j] = sums[(i + j) / N][N + (i + j) % N];
            gates_of<Real, together>(a, b, both);
#pragma GCC unroll 3
            for (int j = 0; j < together; ++j)
              done(column + (i + j) % N * S::width, half * tile.rows + m + (i + j) / N, both[j]);
          }
        });
  });
}

template <class Real>
static void forward(const Layer<Real>& l, long begin, long end, Real* scratch) {
  typedef Simd<Real> S;
  const ForwardMemory<Real> memory(l, scratch);
  const long gate = padded<Real>(l.gate), x_wide = x_columns(l);
  Tile tile;
  const Real *old_x[2 * most_pairs], *old_skip[2 * most_pairs];
  Real *new_x[2 * most_pairs], *new_skip[2 * most_pairs];
  for (long number = begin; number < end; ++number) {
    find_tile(tile, l.pairing, number);
    transform(memory.sums, l.x, l.shift ? l.shift + tile.item * l.channels : nullptr, tile, l.pairing, l.channels,
              l.kernel, l.reach, memory.window, memory.zeros);
    Frames<Real> frames;
    read_frames(frames, l, tile, memory.frames);
    fetch<Real>(old_x, l.out_weight ? l.x : View{}, tile, l.channels, memory.old_x, memory.zeros);
    fetch<Real>(old_skip, l.skip, tile, l.skips, memory.old_skip, memory.zeros);
    point<Real>(new_x, l.out_weight ? l.x_out : View{}, tile, l.channels, memory.new_x, memory.waste);
    point<Real>(new_skip, l.skip_out, tile, l.skips, memory.new_skip, memory.waste);
    const auto soon = [&](long column, long row) {  // what will be written is on its way while z is made
      __builtin_prefetch(old_skip[row] + column * l.skips / gate, 1, 2);
      __builtin_prefetch(new_x[row] + column * l.channels / gate, 1, 2);
    };
    gates<Real>(l, tile, memory.sums, frames, soon, [&](long column, long row, Gate<typename S::Vector> both) {
      S::store(memory.h + row * gate + column, both.product);
    });
    for_blocks<Real>(out_columns(l), [&](auto count, long column) {
      constexpr int N = decltype(count)::value;
      if (!l.out_weight && column + N * S::width <= x_wide) return;
      for (long m = 0; m < 2 * tile.rows; m += steps_down) {
        typename S::Vector sums[steps_down][N];
#pragma GCC unroll 6
        for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) sums[row][n] = S::load(l.out_bias_row + column + n * S::width);
        multiply<Real, steps_down, N>(sums, memory.h + m * gate, gate, 1, l.out_panel + column * l.gate, N * S::width,
                                      l.gate);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const long at = column + n * S::width;
          if (at < x_wide) {
#pragma GCC unroll 6
            for (int row = 0; row < steps_down; ++row)
              S::store(new_x[m + row] + at, (S::load(old_x[m + row] + at) + sums[row][n]) * l.scale);
          } else {
#pragma GCC unroll 6
            for (int row = 0; row < steps_down; ++row)
              S::store(new_skip[m + row] + at - x_wide, S::load(old_skip[m + row] + at - x_wide) + sums[row][n]);
          }
        }
      }
    });
    put(l.out_weight ? l.x_out : View{}, tile, l.channels, memory.new_x);
    put(l.skip_out, tile, l.skips, memory.new_skip);
  }
}

// First pass of the backward: gradients of z (kept for the second), of all weights, biases and the conditioning.
template <class Real>
static void backward_gates(const Layer<Real>& l, long begin, long end, Real* scratch, const LayerSums<Real>& to) {
  typedef Simd<Real> S;
  const LayerSizes s = sizes(l);
  const BackwardMemory<Real> memory(l, scratch);
  const long wide = 2 * s.gate, both = l.channels + l.skips, none = l.grad_x_out.data ? 0 : l.channels;
  Tile tile;
  const Real* given[2 * most_pairs];
  Real* kept[2 * most_pairs];
  for (long number = begin; number < end; ++number) {
    find_tile(tile, l.pairing, number);
    transform(memory.sums, l.x, l.shift ? l.shift + tile.item * l.channels : nullptr, tile, l.pairing, l.channels,
              l.kernel, l.reach, memory.window, memory.zeros);
    Frames<Real> frames;
    read_frames(frames, l, tile, memory.frames);
    const auto soon = [](long, long) {};
    gates<Real>(l, tile, memory.sums, frames, soon, [&](long column, long row, Gate<typename S::Vector> both_of) {
      S::store(memory.tanhs + row * s.gate + column, both_of.tanh);
      S::store(memory.sigmoids + row * s.gate + column, both_of.sigmoid);
      S::store(memory.h + row * s.gate + column, both_of.product);
    });
    const long rows = 2 * tile.rows, half = tile.rows * wide;
    fetch<Real>(given, l.grad_x_out, tile, l.channels, memory.staging, memory.zeros);
    for (long r = 0; r < rows; ++r)  // rows: gradient of x + out, then of skip
      for (long c = 0; c < l.channels; ++c) memory.of_out[r * s.out_rows + c] = given[r][c] * l.scale;
    fetch<Real>(given, l.grad_skip, tile, l.skips, memory.staging, memory.zeros);
    for (long r = 0; r < rows; ++r) {
      memcpy(memory.of_out + r * s.out_rows + l.channels, given[r], l.skips * sizeof(Real));
      for (long c = both; c < s.out_rows; ++c) memory.of_out[r * s.out_rows + c] = 0;
    }
    for_blocks<Real>(l.gate, [&](auto count, long column) {
      constexpr int N = decltype(count)::value;
      for (long m = 0; m < rows; m += steps_down) {
        typename S::Vector sums[steps_down][N] = {};
        multiply<Real, steps_down, N>(sums, memory.of_out + m * s.out_rows + none, s.out_rows, 1,
                                      l.hidden_panel + column * both + none * N * S::width, N * S::width, both - none);
#pragma GCC unroll 6
        for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) {
            const long at = column + n * S::width, from = (m + row) * s.gate + at;
            auto tanh = S::load(memory.tanhs + from), sigmoid = S::load(memory.sigmoids + from);
            S::store(memory.of_z + (m + row) * wide + at, sums[row][n] * sigmoid * S::fma(-tanh, tanh, Real(1)));
            S::store(memory.of_z + (m + row) * wide + s.gate + at, sums[row][n] * tanh * sigmoid * (1 - sigmoid));
          }
      }
    });
    Real* grad_z = l.grad_z + tile.item * l.time * wide;
    for (long r = 0; r < rows; ++r) kept[r] = tile.steps[r] < 0 ? memory.waste : grad_z + tile.steps[r] * wide;
    const Real *first = memory.of_z, *second = first + half;
    for (long m = 0; m < tile.rows; ++m) {
      const Real *a = first + m * wide, *b = second + m * wide;
      Real *plus = memory.mixed + m * wide, *minus = plus + half, *to_a = kept[m], *to_b = kept[tile.rows + m];
      for (long c = 0; c < wide; c += S::width) {
        const auto one = S::load(a + c), other = S::load(b + c);
        S::store(to_a + c, one), S::store(to_b + c, other);
        S::store(plus + c, one + other), S::store(minus + c, one - other);
      }
    }
    const Real* of_products[4] = {memory.mixed, memory.mixed + half, first, second};
    for (long product = 0; product <= l.kernel; ++product)
      add_products(to.weight + product * s.rows * wide, l.channels, wide,
                   memory.sums + product * tile.rows * l.channels, l.channels,
                   of_products[l.kernel == 2 && product ? product + 1 : product], wide, tile.rows);
    add_products(to.out + none * s.gate, both - none, s.gate, memory.of_out + none, s.out_rows, memory.h, s.gate, rows);
    add_rows(to.bias, memory.mixed, wide, wide, tile.rows);
    add_rows(to.out_bias, memory.of_out, s.out_rows, both, rows);
    if (!l.condition.data) continue;
    for (long r = 0; r < rows; ++r) {
      const long t = tile.steps[r];
      if (t < 0) continue;
      const Real* from = memory.of_z + r * wide;
      const long frame = first_frame(l, t);
      for (long tap = 0; tap < (l.taps ? l.taps : 1); ++tap) {
        Real* __restrict sum = to.condition + (tile.item * l.frames + frame + tap - to.frame) * wide;
        const Real* read = frames.rows[r] + tap * wide;
        const Real weight = l.taps ? l.band[t * l.taps + tap] : Real(1);
        typename S::Vector product = {};
        for (long c = 0; c < wide; c += S::width) {
          S::store(sum + c, S::fma(weight, S::load(from + c), S::load(sum + c)));
          product = S::fma(S::load(from + c), S::load(read + c), product);
        }
        if (!l.taps) continue;
        Real total = 0;
        for (int lane = 0; lane < S::width; ++lane) total += product[lane];
        l.grad_band[(tile.item * l.time + t) * l.taps + tap] = total;
      }
    }
  }
}

// Second pass: the gradient of x, for which the gradients of z around the tile must be there.
template <class Real>
static void backward_input(const Layer<Real>& l, long begin, long end, Real* scratch) {
  typedef Simd<Real> S;
  const BackwardMemory<Real> memory(l, scratch);
  const long wide = 2 * padded<Real>(l.gate), columns = padded<Real>(l.channels), K = (l.kernel + 1) * wide;
  View of_z;
  of_z.data = l.grad_z;
  of_z.type = sizeof(Real) == 8 ? Type::f64 : Type::f32;
  of_z.batch = l.time * wide, of_z.channel = 1, of_z.step = wide;
  const long reach = -(l.reach + (l.kernel - 1) * l.dilation);  // what tap k read is written by tap -k
  Tile tile;
  const Real* given[2 * most_pairs];
  Real* made[2 * most_pairs];
  for (long number = begin; number < end; ++number) {
    find_tile(tile, l.pairing, number);
    transform<Real>(memory.sums, of_z, nullptr, tile, l.pairing, wide, l.kernel, reach, nullptr, memory.zeros);
    fetch<Real>(given, l.grad_x_out, tile, l.channels, memory.staging, memory.zeros);
    Real* results = memory.staging + 2 * tile.rows * columns;
    point<Real>(made, l.grad_x, tile, l.channels, results, memory.waste);
    Real* shift = l.shift ? l.tile_shift + number * l.channels : nullptr;
    if (shift) memset(shift, 0, l.channels * sizeof(Real));
    for_blocks<Real>(l.channels, [&](auto count, long column) {
      constexpr int N = decltype(count)::value;
      typedef typename S::Vector Sums[steps_down][N];
      convolve_pairs<Real, N>(
          memory.sums, tile.rows, wide, l.kernel, l.input_panel + column * K,
          [](int, long, Sums& sums) {
            for (auto& row : sums)
              for (auto& sum : row) sum = typename S::Vector{};
          },
          [&](int half, long m, const Sums& sums) {
            m += half * tile.rows;
#pragma GCC unroll 6
            for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
              for (int n = 0; n < N; ++n) {
                const long at = column + n * S::width;
                S::store(made[m + row] + at, S::fma(l.scale, S::load(given[m + row] + at), sums[row][n]));
                for (int lane = 0; shift && tile.steps[m + row] >= 0 && lane < S::width; ++lane)
                  if (at + lane < l.channels) shift[at + lane] += sums[row][n][lane];
              }
          });
    });
    put(l.grad_x, tile, l.channels, results);
  }
}

#define AUDIOGEN_DEFINE(Real)                                                                                      \
  void layer_plan(Layer<Real>& l, long threads) { plan(l, threads); }                                              \
  FrameRange layer_frames(const Layer<Real>& l, long begin, long end) { return frames_read(l, begin, end); }       \
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
