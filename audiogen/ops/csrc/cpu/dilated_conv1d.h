// What the caller (dilated_conv1d.cpp) and the kernels (dilated_conv1d.isa.cpp) agree on.
#pragma once

#include "isa.h"
#include "views.h"

namespace audiogen {

// A convolution along time whose result is as long as its input; all in Real but what the views say.
template <class Real>
struct Convolution {
  long batch, channels, outputs, time, kernel, dilation;
  long reach;  // of the first tap: step t reads t + reach + tap * dilation
  const Real *weight, *bias;
  View x, y, grad_y, grad_x;
  long steps, tiles;             // of a tile, a multiple of 6; of one item of the batch
  Real *panel, *bias_row, *input_panel;
};

struct ConvolutionSizes {  // in Reals
  long panel, bias_row, input_panel, forward_scratch, backward_scratch;
  long rows, columns;  // of a tap's weight gradient: channels and outputs, padded
};

// One step: y (batch, outputs) from x (batch, channels) and a ring of what came before.
template <class Real>
struct Step {
  long batch, channels, outputs, kernel, dilation, position;
  const Real *weight, *bias, *x;
  View state;  // (batch, channels, time) with time the ring: dilation * (kernel - 1) places
  Real* y;
};

#define AUDIOGEN_CONVOLUTION(Real)                                                                         \
  ConvolutionSizes convolution_sizes(const Convolution<Real>&);                                            \
  void convolution_pack(const Convolution<Real>&, bool backward);                                          \
  void convolution_forward(const Convolution<Real>&, long begin, long end, Real* scratch);                 \
  void convolution_backward(const Convolution<Real>&, long begin, long end, Real* scratch, Real* of_weight, \
                            Real* of_bias);                                                                \
  void convolution_step(const Step<Real>&, Real* scratch);

AUDIOGEN_EACH_LEVEL(AUDIOGEN_CONVOLUTION(float))
namespace portable {
AUDIOGEN_CONVOLUTION(double)
}

}  // namespace audiogen
