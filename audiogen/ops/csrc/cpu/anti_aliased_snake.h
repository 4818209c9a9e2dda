// What the caller (anti_aliased_snake.cpp) and the kernels (anti_aliased_snake.isa.cpp) agree on.
#pragma once

#include "isa.h"
#include "views.h"

namespace audiogen {

constexpr long snake_block = 64;  // channels that are worked on together

template <class Real>
struct Snake {
  long batch, channels, time, up_taps, down_taps;
  const Real *alpha, *inverse_beta;  // (channels, padded to whole blocks)
  const Real *up, *down;             // up: times 2
  View x, y, grad, grad_x;
  long blocks, steps, tiles;  // of channels; of a tile; tiles of one block of one item
};

// Work is counted in tiles: (batch, blocks, tiles). Backward adds to of_alpha and of_inverse_beta (channels, padded).
#define AUDIOGEN_SNAKE(Real)                                                                       \
  long snake_scratch(const Snake<Real>&, bool backward);                                           \
  void snake_forward(const Snake<Real>&, long begin, long end, Real* scratch);                     \
  void snake_backward(const Snake<Real>&, long begin, long end, Real* scratch, Real* of_alpha, Real* of_inverse_beta);

AUDIOGEN_EACH_LEVEL(AUDIOGEN_SNAKE(float))
namespace portable {
AUDIOGEN_SNAKE(double)
}

}  // namespace audiogen
