// Dilated convolution along time, its gradients, and one step of it: see audiogen/ops/dilated_conv1d.py.
//
// Layout and bound: as in gated_dilated_layer.isa.cpp, whose first product this is. A single step multiplies a matrix by a
// vector: every weight is read once for two operations, so it is bound by the bandwidth of the cache that the weights
// are in; they are read in the order in which they lie, for packing them would take longer than using them once.
#include "dilated_conv1d.h"

#include "tile.h"

namespace audiogen::AUDIOGEN_ISA {

template <class Real>
static ConvolutionSizes sizes(const Convolution<Real>& c) {
  ConvolutionSizes s;
  s.rows = up(c.channels, steps_down), s.columns = padded<Real>(c.outputs);
  s.panel = c.kernel * c.channels * s.columns, s.bias_row = s.columns;
  s.input_panel = c.kernel * c.outputs * padded<Real>(c.channels);
  const long rows = window_rows(c.kernel, c.dilation, c.steps);
  s.forward_scratch = rows * c.channels + 16 + c.steps * s.columns;
  s.backward_scratch = rows * (c.channels + c.outputs) + 32 + c.steps * (s.columns + padded<Real>(c.channels));
  return s;
}

template <class Real>
static void pack_convolution(const Convolution<Real>& c, bool backward) {
  const ConvolutionSizes s = sizes(c);
  if (backward) {
    pack<Real>(c.input_panel, c.kernel * c.outputs, c.channels, [&](long k, long column) {
      return c.weight[(k % c.outputs * c.channels + column) * c.kernel + c.kernel - 1 - k / c.outputs];
    });
    return;
  }
  pack<Real>(c.panel, c.kernel * c.channels, c.outputs, [&](long k, long column) {
    return c.weight[(column * c.channels + k % c.channels) * c.kernel + k / c.channels];
  });
  for (long j = 0; j < s.columns; ++j) c.bias_row[j] = c.bias && j < c.outputs ? c.bias[j] : Real(0);
}

// The window of `view` for a tile, in place where it can be.
template <class Real>
static Taps<Real> taps_of(const View& view, long item, long start, long rows, long time, long channels, long kernel,
                          Reach reach, Real* window) {
  if (!in_place<Real>(view, nullptr, start + reach(0), start + reach(kernel - 1) + rows, time))
    return read_window<Real>(window, view, nullptr, item, start, rows, time, channels, kernel, reach);
  Taps<Real> taps{{}, view.step};
  for (long k = 0; k < kernel; ++k)
    taps.base[k] = (const Real*)view.data + item * view.batch + (start + reach(k)) * view.step;
  return taps;
}

template <class Real>
static void forward(const Convolution<Real>& c, long begin, long end, Real* scratch) {
  const ConvolutionSizes s = sizes(c);
  Real* result = scratch + window_rows(c.kernel, c.dilation, c.steps) * c.channels + 16;
  for (long tile = begin; tile < end; ++tile) {
    const long item = tile / c.tiles, start = tile % c.tiles * c.steps;
    const long valid = c.time - start < c.steps ? c.time - start : c.steps, rows = up(valid, steps_down);
    const Reach reach{c.reach, c.dilation};
    const auto taps = taps_of(c.x, item, start, rows, c.time, c.channels, c.kernel, reach, scratch);
    convolve<Real>(result, s.columns, taps, c.kernel, c.channels, c.panel, c.outputs, 0, c.bias_row, rows);
    write_tile(result, s.columns, c.y, item, start, valid, c.outputs);
  }
}

template <class Real>
static void backward(const Convolution<Real>& c, long begin, long end, Real* scratch, Real* of_weight, Real* of_bias) {
  const ConvolutionSizes s = sizes(c);
  const long in_pitch = padded<Real>(c.channels), window = window_rows(c.kernel, c.dilation, c.steps);
  Real* of_y_window = scratch + window * c.channels + 16;
  Real* of_y = of_y_window + window * c.outputs + 16;
  Real* of_x = of_y + c.steps * s.columns;
  for (long tile = begin; tile < end; ++tile) {
    const long item = tile / c.tiles, start = tile % c.tiles * c.steps;
    const long valid = c.time - start < c.steps ? c.time - start : c.steps, rows = up(valid, steps_down);
    const Reach reach{c.reach, c.dilation}, back{-(c.reach + (c.kernel - 1) * c.dilation), c.dilation};
    const auto from = taps_of(c.grad_y, item, start, rows, c.time, c.outputs, c.kernel, back, of_y_window);
    convolve<Real>(of_x, in_pitch, from, c.kernel, c.outputs, c.input_panel, c.channels, 0, nullptr, rows);
    write_tile(of_x, in_pitch, c.grad_x, item, start, valid, c.channels);
    memset(of_y, 0, rows * s.columns * sizeof(Real));
    read_tile(of_y, s.columns, c.grad_y, item, start, valid, c.outputs);
    // Always copied: weight gradients read a few numbers beyond a row.
    const auto taps =
        read_window<Real>(scratch, c.x, nullptr, item, start, rows, c.time, c.channels, c.kernel, reach);
    for (long tap = 0; tap < c.kernel; ++tap)
      add_products(of_weight + tap * s.rows * s.columns, c.channels, s.columns, taps.base[tap], taps.pitch, of_y,
                   s.columns, rows);
    add_rows(of_bias, of_y, s.columns, s.columns, valid);
  }
}

template <class Real>
static void step(const Step<Real>& p, Real* scratch) {
  typedef Simd<Real> S;
  const long length = p.dilation * (p.kernel - 1), K = p.channels * p.kernel;
  Real* row = scratch + K;
  for (long item = 0; item < p.batch; ++item) {
    for (long tap = 0; tap < p.kernel - 1; ++tap) {  // the ring's oldest entry, t - length, is where t will go
      read_tile(row, p.channels, p.state, item, (p.position + tap * p.dilation) % length, 1, p.channels);
      for (long c = 0; c < p.channels; ++c) scratch[c * p.kernel + tap] = row[c];
    }
    const Real* now = p.x + item * p.channels;
    for (long c = 0; c < p.channels; ++c) scratch[c * p.kernel + p.kernel - 1] = now[c];
    if (length) write_tile(now, p.channels, p.state, item, p.position % length, 1, p.channels);
    for (long o = 0; o < p.outputs; ++o) {
      const Real* weight = p.weight + o * K;
      typename S::Vector sums[4] = {};
      long k = 0;
      for (; k + 4 * S::width <= K; k += 4 * S::width)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n)
          sums[n] = S::fma(S::load(weight + k + n * S::width), S::load(scratch + k + n * S::width), sums[n]);
      for (; k + S::width <= K; k += S::width) sums[0] = S::fma(S::load(weight + k), S::load(scratch + k), sums[0]);
      sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      Real sum = p.bias ? p.bias[o] : Real(0);
      for (int lane = 0; lane < S::width; ++lane) sum += sums[0][lane];
      for (; k < K; ++k) sum += weight[k] * scratch[k];
      p.y[item * p.outputs + o] = sum;
    }
  }
}

#define AUDIOGEN_DEFINE(Real)                                                                                      \
  ConvolutionSizes convolution_sizes(const Convolution<Real>& c) { return sizes(c); }                              \
  void convolution_pack(const Convolution<Real>& c, bool backward) { pack_convolution(c, backward); }              \
  void convolution_forward(const Convolution<Real>& c, long begin, long end, Real* scratch) {                      \
    forward(c, begin, end, scratch);                                                                               \
  }                                                                                                                \
  void convolution_backward(const Convolution<Real>& c, long begin, long end, Real* scratch, Real* of_weight,      \
                            Real* of_bias) {                                                                       \
    backward(c, begin, end, scratch, of_weight, of_bias);                                                          \
  }                                                                                                                \
  void convolution_step(const Step<Real>& p, Real* scratch) { step(p, scratch); }

AUDIOGEN_DEFINE(float)
#if !defined(__AVX2__)
AUDIOGEN_DEFINE(double)
#endif

}  // namespace audiogen::AUDIOGEN_ISA
