// What the caller (gated_dilated_layer.cpp) and the kernels (gated_dilated_layer.isa.cpp) agree on.
#pragma once

#include "isa.h"
#include "views.h"

namespace audiogen {

// All numbers are in Real, the type that is computed in: float, or double for float64 tensors. Weights as in the op.
template <class Real>
struct Layer {
  long batch, channels, gate, skips, time, kernel, dilation;
  long reach;  // of the first tap: step t reads t + reach + tap * dilation
  Real scale;
  const Real *weight, *bias, *out_weight, *out_bias, *skip_weight, *skip_bias;  // null: none
  const Real* shift;                                                            // (batch, channels) or null

  View condition;     // (batch, 2 * gate, frames), or none
  long frames, taps;  // taps of the band; 0: frames are held
  const int* first;   // (time)
  const Real* band;   // (time, taps)
  long spread;        // the most frames that one piece of a tile reads

  View x, x_out, skip, skip_out;
  View grad_x_out, grad_skip, grad_x;

  Pairing pairing;

  // Made by `pack`: panels (tile.h) and padded biases.
  Real *gate_panel, *gate_bias, *out_panel, *out_bias_row, *hidden_panel, *input_panel;

  // Backward: gradient of z, (batch, time, 2 * padded gate), and of the band, (batch, time, taps).
  Real *grad_z, *grad_band;
  Real* tile_shift;  // (batch * tiles, channels)
};

struct LayerSizes {  // in Reals
  long gate;         // padded
  long gate_panel, gate_bias, out_panel, out_bias_row, hidden_panel, input_panel;
  long forward_scratch, backward_scratch;  // per thread
  long rows, out_rows;                     // channels, channels + skips: rounded up to whole groups of steps_down
};

// Sums of one thread over its tiles.
template <class Real>
struct LayerSums {
  Real* weight;      // (kernel + 1, rows, 2 * padded gate): of the products' weights, see pairs.h
  Real* bias;        // (2 * padded gate)
  Real* out;         // (out_rows, padded gate): rows of out_weight, then of skip_weight
  Real* out_bias;    // (out_rows)
  Real* condition;   // (frames from `frame` on, 2 * padded gate), frames counted through the batch
  long frame;
};

struct FrameRange {
  long low, high;
};

#define AUDIOGEN_LAYER(Real)                                                                                       \
  void layer_plan(Layer<Real>&, long threads); /* sets pairing and spread */                                       \
  FrameRange layer_frames(const Layer<Real>&, long begin, long end); /* read by these tiles, counted through the batch */ \
  LayerSizes layer_sizes(const Layer<Real>&);                                                                      \
  void layer_pack(const Layer<Real>&, bool backward);                                                              \
  void layer_forward(const Layer<Real>&, long begin, long end, Real* scratch);                                     \
  void layer_backward_gates(const Layer<Real>&, long begin, long end, Real* scratch, const LayerSums<Real>& sums); \
  void layer_backward_input(const Layer<Real>&, long begin, long end, Real* scratch);

AUDIOGEN_EACH_LEVEL(AUDIOGEN_LAYER(float))
namespace portable {
AUDIOGEN_LAYER(double)
}

}  // namespace audiogen
