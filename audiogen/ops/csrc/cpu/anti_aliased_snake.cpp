// The op anti_aliased_snake and its backward on the CPU. The kernels: anti_aliased_snake.isa.cpp.
#include "anti_aliased_snake.h"

#include <cmath>
#include <tuple>

#include "tensors.h"

namespace audiogen {

#ifdef AUDIOGEN_X86
#define AUDIOGEN_SNAKE_CALL(function) \
  if constexpr (sizeof(Real) == 8) return portable::function; else return AUDIOGEN_CHOOSE(function);
#else
#define AUDIOGEN_SNAKE_CALL(function) return portable::function;
#endif

template <class Real> long scratch_of(const Snake<Real>& p, bool backward) {
  AUDIOGEN_SNAKE_CALL(snake_scratch(p, backward))
}
template <class Real> void forward(const Snake<Real>& p, long begin, long end, Real* scratch) {
  AUDIOGEN_SNAKE_CALL(snake_forward(p, begin, end, scratch))
}
template <class Real>
void backward(const Snake<Real>& p, long begin, long end, Real* scratch, Real* of_alpha, Real* of_inverse) {
  AUDIOGEN_SNAKE_CALL(snake_backward(p, begin, end, scratch, of_alpha, of_inverse))
}

template <class Real>
struct SnakeInputs {
  long wide;  // channels, padded to whole blocks
  Numbers<Real> alpha, inverse, up;
  Copy<Real> beta, down;
  Snake<Real> snake;

  SnakeInputs(const Tensor& x, const Tensor& alpha_, const Tensor& beta_, const Tensor& up_, const Tensor& down_,
              bool logscale)
      : wide((x.size(1) + snake_block - 1) / snake_block * snake_block), alpha(wide, true), inverse(wide, true),
        up(up_.numel()), beta(Maybe(beta_)), down(Maybe(down_)), snake{} {
    Snake<Real>& p = snake;
    p.batch = x.size(0), p.channels = x.size(1), p.time = x.size(2);
    STD_TORCH_CHECK(p.time >= 1 && alpha_.numel() == p.channels && beta_.numel() == p.channels,
                    "alpha and beta (channels,) are needed, and time >= 1");
    p.up_taps = up_.numel(), p.down_taps = down_.numel();
    STD_TORCH_CHECK(p.up_taps > 0 && p.up_taps % 2 == 0 && p.down_taps > 0 && p.down_taps % 2 == 0,
                    "filters need an even number of taps");
    const Copy<Real> given_alpha(Maybe{alpha_}), given_up(Maybe{up_});
    for (long c = 0; c < p.channels; ++c) {
      alpha.get()[c] = logscale ? std::exp(given_alpha.get()[c]) : given_alpha.get()[c];
      inverse.get()[c] = 1 / ((logscale ? std::exp(beta.get()[c]) : beta.get()[c]) + Real(1e-9));
    }
    for (long i = 0; i < p.up_taps; ++i) up.get()[i] = 2 * given_up.get()[i];
    p.alpha = alpha.get(), p.inverse_beta = inverse.get(), p.up = up.get(), p.down = down.get();
    p.x = view_of(x);
    p.blocks = wide / snake_block;
    p.steps = 160;
    p.tiles = (p.time + p.steps - 1) / p.steps;
  }
  long work() const { return snake.batch * snake.blocks * snake.tiles; }
};

template <class Real>
Tensor run_forward(const Tensor& x, const Tensor& alpha, const Tensor& beta, const Tensor& up, const Tensor& down,
                   bool logscale) {
  Tensor y = empty_in_layout_of(x, x.size(1));
  if (x.numel() == 0) return y;
  SnakeInputs<Real> inputs(x, alpha, beta, up, down, logscale);
  inputs.snake.y = view_of(y);
  share(inputs.work(), parts_for(inputs.work()), [&](long, long begin, long end) {
    Numbers<Real> scratch(scratch_of(inputs.snake, false));
    forward(inputs.snake, begin, end, scratch.get());
  });
  return y;
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> run_backward(const Tensor& grad, const Tensor& x, const Tensor& alpha,
                                                const Tensor& beta, const Tensor& up, const Tensor& down,
                                                bool logscale) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "the gradient must have x's type");
  Tensor of_x = empty_in_layout_of(x, x.size(1));
  SnakeInputs<Real> inputs(x, alpha, beta, up, down, logscale);
  inputs.snake.grad = view_of(grad), inputs.snake.grad_x = view_of(of_x);
  const long parts = parts_for(inputs.work()), wide = inputs.wide;
  std::vector<Numbers<Real>> sums(parts);
  share(inputs.work(), parts, [&](long part, long begin, long end) {
    sums[part] = Numbers<Real>(2 * wide, true);
    Numbers<Real> scratch(scratch_of(inputs.snake, true));
    backward(inputs.snake, begin, end, scratch.get(), sums[part].get(), sums[part].get() + wide);
  });
  Real* sum = sums[0].get();
  for (long part = 1; part < parts; ++part)
    for (long i = 0; i < 2 * wide; ++i) sum[i] += sums[part].get()[i];
  Tensor of_alpha = empty(alpha, {inputs.snake.channels}), of_beta = empty(beta, {inputs.snake.channels});
  fill(of_alpha, [&](int64_t c) { return logscale ? sum[c] * inputs.alpha.get()[c] : sum[c]; });
  fill(of_beta, [&](int64_t c) {
    const Real inverse = inputs.inverse.get()[c], of_b = -sum[wide + c] * inverse * inverse;
    return logscale ? of_b * std::exp(inputs.beta.get()[c]) : of_b;
  });
  return {of_x, of_alpha, of_beta};
}

Tensor snake_op(const Tensor& x, const Tensor& alpha, const Tensor& beta, const Tensor& up, const Tensor& down,
                bool logscale) {
  return (is_double(x) ? run_forward<double> : run_forward<float>)(x, alpha, beta, up, down, logscale);
}

std::tuple<Tensor, Tensor, Tensor> snake_backward_op(const Tensor& grad, const Tensor& x, const Tensor& alpha,
                                                     const Tensor& beta, const Tensor& up, const Tensor& down,
                                                     bool logscale) {
  return (is_double(x) ? run_backward<double> : run_backward<float>)(grad, x, alpha, beta, up, down, logscale);
}

}  // namespace audiogen

STABLE_TORCH_LIBRARY_IMPL(audiogen, CPU, m) {
  m.impl("anti_aliased_snake", TORCH_BOX(&audiogen::snake_op));
  m.impl("anti_aliased_snake_backward", TORCH_BOX(&audiogen::snake_backward_op));
}
