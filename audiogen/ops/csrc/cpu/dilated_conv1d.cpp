// The ops dilated_conv1d, its backward and dilated_conv1d_step on the CPU. The kernels: dilated_conv1d.isa.cpp.
#include "dilated_conv1d.h"

#include <tuple>

#include "tensors.h"

namespace audiogen {

template <class Real>
struct Convolve {
  Copy<Real> weight, bias;
  Numbers<Real> packed;
  Convolution<Real> convolution;
  ConvolutionSizes size;

  Convolve(const Tensor& x, const Tensor& weight_, const Maybe& bias_, int64_t dilation, bool causal, bool backward)
      : weight(Maybe(weight_)), bias(bias_), convolution{} {
    Convolution<Real>& c = convolution;
    c.batch = x.size(0), c.channels = x.size(1), c.time = x.size(2), c.outputs = weight_.size(0);
    c.kernel = weight_.size(2), c.dilation = dilation;
    STD_TORCH_CHECK(weight_.size(1) == c.channels && c.kernel >= 1 && c.kernel <= 16, "weight does not fit x");
    STD_TORCH_CHECK(weight_.scalar_type() == x.scalar_type(), "weight must have x's type");
    c.reach = -(c.kernel - 1) * dilation / (causal ? 1 : 2);
    c.weight = weight.get(), c.bias = bias.get();
    c.x = view_of(x);
    c.steps = tile_steps(c.batch, c.time, std::max(c.channels, c.outputs), c.kernel, 6);
    c.tiles = (c.time + c.steps - 1) / c.steps;
    size = choose([&](auto levels) { return levels.sizes(c); });
    packed = Numbers<Real>(size.panel + size.bias_row + size.input_panel + 48);
    c.panel = packed.get(), c.bias_row = c.panel + (size.panel + 15) / 16 * 16;
    c.input_panel = c.bias_row + (size.bias_row + 15) / 16 * 16;
    choose([&](auto levels) { return levels.pack(c, backward), 0; });
  }

  struct Kernels {
    ConvolutionSizes (*sizes)(const Convolution<Real>&);
    void (*pack)(const Convolution<Real>&, bool);
    void (*forward)(const Convolution<Real>&, long, long, Real*);
    void (*backward)(const Convolution<Real>&, long, long, Real*, Real*, Real*);
    void (*step)(const Step<Real>&, Real*);
  };

#define AUDIOGEN_KERNELS_OF(level)                                                                     \
  Kernels { level::convolution_sizes, level::convolution_pack, level::convolution_forward,             \
            level::convolution_backward, level::convolution_step }
  template <class Work>
  static auto choose(Work work) {
#ifdef AUDIOGEN_X86
    if constexpr (sizeof(Real) == 4) {
      if (level() == Level::avx512) return work(AUDIOGEN_KERNELS_OF(avx512));
      if (level() == Level::avx2) return work(AUDIOGEN_KERNELS_OF(avx2));
    }
#endif
    return work(AUDIOGEN_KERNELS_OF(portable));
  }
};

template <class Real>
Tensor forward(const Tensor& x, const Tensor& weight, const Maybe& bias, int64_t dilation, bool causal) {
  Tensor y = empty_in_layout_of(x, weight.size(0));
  if (x.size(0) == 0) return y;
  Convolve<Real> all(x, weight, bias, dilation, causal, false);
  Convolution<Real>& c = all.convolution;
  c.y = view_of(y);
  const long tiles = c.batch * c.tiles;
  Convolve<Real>::choose([&](auto kernels) {
    share(tiles, parts_for(tiles), [&](long, long begin, long end) {
      Numbers<Real> scratch(all.size.forward_scratch);
      kernels.forward(c, begin, end, scratch.get());
    });
    return 0;
  });
  return y;
}

template <class Real>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& weight, int64_t dilation,
                                            bool causal) {
  Convolve<Real> all(x, weight, Maybe(), dilation, causal, true);
  Convolution<Real>& c = all.convolution;
  const ConvolutionSizes& size = all.size;
  Tensor of_x = empty_in_layout_of(x, c.channels);
  c.grad_y = view_of(grad), c.grad_x = view_of(of_x);
  const long tiles = c.batch * c.tiles, parts = parts_for(tiles), taps = c.kernel * size.rows * size.columns;
  std::vector<Numbers<Real>> sums(parts);
  Convolve<Real>::choose([&](auto kernels) {
    share(tiles, parts, [&](long part, long begin, long end) {
      sums[part] = Numbers<Real>(taps + size.columns, true);
      Numbers<Real> scratch(size.backward_scratch);
      kernels.backward(c, begin, end, scratch.get(), sums[part].get(), sums[part].get() + taps);
    });
    return 0;
  });
  Real* sum = sums[0].get();
  for (long part = 1; part < parts; ++part)
    for (long i = 0; i < taps + size.columns; ++i) sum[i] += sums[part].get()[i];
  Tensor of_weight = empty(x, {c.outputs, c.channels, c.kernel}), of_bias = empty(x, {c.outputs});
  fill(of_weight, [&](int64_t i) {
    const long tap = i % c.kernel, channel = i / c.kernel % c.channels, output = i / (c.kernel * c.channels);
    return sum[(tap * size.rows + channel) * size.columns + output];
  });
  fill(of_bias, [&](int64_t i) { return sum[taps + i]; });
  return {of_x, of_weight, of_bias};
}

template <class Real>
Tensor step(const Tensor& x, const Tensor& state, int64_t position, const Tensor& weight, const Maybe& bias,
            int64_t dilation) {
  const Copy<Real> x_(Maybe{x}), weight_(Maybe{weight}), bias_{bias};
  Step<Real> p{};
  p.batch = x.size(0), p.channels = x.size(1), p.outputs = weight.size(0), p.kernel = weight.size(2);
  p.dilation = dilation, p.position = position;
  STD_TORCH_CHECK(weight.size(1) == p.channels && state.size(1) == dilation * (p.kernel - 1), "state does not fit");
  STD_TORCH_CHECK(state.scalar_type() == x.scalar_type(), "state must have x's type");
  p.weight = weight_.get(), p.bias = bias_.get(), p.x = x_.get();
  p.state = {state.data_ptr(), type_of(state), long(state.stride(0)), long(state.stride(2)), long(state.stride(1))};
  Numbers<Real> y(p.batch * p.outputs), scratch(p.channels * (p.kernel + 1));
  p.y = y.get();
  Convolve<Real>::choose([&](auto kernels) { return kernels.step(p, scratch.get()), 0; });
  Tensor result = empty(x, {p.batch, p.outputs});
  fill(result, [&](int64_t i) { return p.y[i]; });
  return result;
}

Tensor conv_op(const Tensor& x, const Tensor& weight, const Maybe& bias, int64_t dilation, bool causal) {
  return (is_double(x) ? forward<double> : forward<float>)(x, weight, bias, dilation, causal);
}

std::tuple<Tensor, Tensor, Tensor> conv_backward_op(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                    int64_t dilation, bool causal) {
  return (is_double(x) ? backward<double> : backward<float>)(grad, x, weight, dilation, causal);
}

Tensor step_op(const Tensor& x, const Tensor& state, int64_t position, const Tensor& weight, const Maybe& bias,
               int64_t dilation) {
  return (is_double(x) ? step<double> : step<float>)(x, state, position, weight, bias, dilation);
}

}  // namespace audiogen

STABLE_TORCH_LIBRARY_IMPL(audiogen, CPU, m) {
  m.impl("dilated_conv1d", TORCH_BOX(&audiogen::conv_op));
  m.impl("dilated_conv1d_backward", TORCH_BOX(&audiogen::conv_backward_op));
  m.impl("dilated_conv1d_step", TORCH_BOX(&audiogen::step_op));
}
