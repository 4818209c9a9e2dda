// The op gated_dilated_layer on the CPU: tensors to plain structures, work to threads. The kernels: *.isa.cpp.
#include "gated_dilated_layer.h"

#include <tuple>

#include "tensors.h"

namespace audiogen {

#ifdef AUDIOGEN_X86
#define AUDIOGEN_LAYER_CALL(function) \
  if constexpr (sizeof(Real) == 8) return portable::function; else return AUDIOGEN_CHOOSE(function);
#else
#define AUDIOGEN_LAYER_CALL(function) return portable::function;
#endif

template <class Real> void plan(Layer<Real>& l, long threads) { AUDIOGEN_LAYER_CALL(layer_plan(l, threads)) }
template <class Real> FrameRange frames(const Layer<Real>& l, long begin, long end) {
  AUDIOGEN_LAYER_CALL(layer_frames(l, begin, end))
}
template <class Real> LayerSizes sizes(const Layer<Real>& l) { AUDIOGEN_LAYER_CALL(layer_sizes(l)) }
template <class Real> void pack(const Layer<Real>& l, bool backward) { AUDIOGEN_LAYER_CALL(layer_pack(l, backward)) }
template <class Real> void forward(const Layer<Real>& l, long begin, long end, Real* scratch) {
  AUDIOGEN_LAYER_CALL(layer_forward(l, begin, end, scratch))
}
template <class Real>
void backward_gates(const Layer<Real>& l, long begin, long end, Real* scratch, const LayerSums<Real>& sums) {
  AUDIOGEN_LAYER_CALL(layer_backward_gates(l, begin, end, scratch, sums))
}
template <class Real> void backward_input(const Layer<Real>& l, long begin, long end, Real* scratch) {
  AUDIOGEN_LAYER_CALL(layer_backward_input(l, begin, end, scratch))
}

// What forward and backward are given alike, with copies in the type that is computed in.
template <class Real>
struct Inputs {
  Copy<Real> weight, bias, out_weight, out_bias, skip_weight, skip_bias, shift, band;
  Numbers<Real> packed;
  Layer<Real> layer;
  LayerSizes size;

  Inputs(const Tensor& x, const Tensor& weight_, const Maybe& bias_, const Maybe& out_weight_, const Maybe& out_bias_,
         const Tensor& skip_weight_, const Maybe& skip_bias_, const Maybe& condition, const Maybe& first,
         const Maybe& band_, const Maybe& shift_, int64_t dilation, bool causal, double scale, bool backward)
      : weight(Maybe(weight_)), bias(bias_), out_weight(out_weight_), out_bias(out_bias_),
        skip_weight(Maybe(skip_weight_)), skip_bias(skip_bias_), shift(shift_), band(band_), layer{} {
    Layer<Real>& l = layer;
    l.batch = x.size(0), l.channels = x.size(1), l.time = x.size(2);
    l.gate = weight_.size(0) / 2, l.kernel = weight_.size(2), l.skips = skip_weight_.size(0), l.dilation = dilation;
    for (const Maybe& tensor : {Maybe(weight_), out_weight_, Maybe(skip_weight_), condition, shift_})
      STD_TORCH_CHECK(!tensor || tensor->scalar_type() == x.scalar_type(), "all tensors must have x's type");
    STD_TORCH_CHECK(l.kernel == 2 || l.kernel == 3, "kernel 2 or 3");
    STD_TORCH_CHECK(weight_.size(1) == l.channels && skip_weight_.size(1) == l.gate, "weights do not fit x");
    l.reach = causal ? -(l.kernel - 1) * dilation : -dilation;
    l.scale = Real(scale);
    l.weight = weight.get(), l.bias = bias.get(), l.out_weight = out_weight.get(), l.out_bias = out_bias.get();
    l.skip_weight = skip_weight.get(), l.skip_bias = skip_bias.get(), l.shift = shift.get();
    l.x = view_of(x);
    if (condition) {
      l.condition = view_of(*condition);
      l.frames = condition->size(2), l.taps = band_ ? band_->size(1) : 0;
      l.band = band.get();
      if (first) {
        STD_TORCH_CHECK(first->is_contiguous() && first->size(0) == l.time, "first (time,) must be contiguous");
        l.first = static_cast<const int*>(first->data_ptr());
      }
      for (long t = 0; l.taps && t < l.time; ++t)
        STD_TORCH_CHECK(l.first[t] >= 0 && l.first[t] + l.taps <= l.frames,
                        "the upsampling reads frames that are not there");
    }
    plan(l, long(torch::stable::get_num_threads()));
    size = sizes(l);
    const long parts[] = {size.gate_panel, size.gate_bias, backward ? 0 : size.out_panel, size.out_bias_row,
                          backward ? size.hidden_panel : 0, backward ? size.input_panel : 0};
    Real** places[] = {&l.gate_panel, &l.gate_bias, &l.out_panel, &l.out_bias_row, &l.hidden_panel, &l.input_panel};
    long total = 0;
    for (long part : parts) total += (part + 15) / 16 * 16;
    packed = Numbers<Real>(total);
    total = 0;
    for (int i = 0; i < 6; ++i) {
      *places[i] = packed.get() + total;
      total += (parts[i] + 15) / 16 * 16;
    }
    pack(l, backward);
  }
};

template <class Real>
void run_forward(const Inputs<Real>& inputs) {
  const Layer<Real>& l = inputs.layer;
  const long tiles = l.batch * l.pairing.tiles;
  share(tiles, parts_for(tiles), [&](long, long begin, long end) {
    Numbers<Real> scratch(inputs.size.forward_scratch);
    forward(l, begin, end, scratch.get());
  });
}

#define AUDIOGEN_LAYER_INPUTS                                                                                          \
  const Tensor &x, const Tensor &weight, const Maybe &bias, const Maybe &out_weight, const Maybe &out_bias,            \
      const Tensor &skip_weight, const Maybe &skip_bias, const Maybe &condition, const Maybe &first, const Maybe &band, \
      const Maybe &shift

template <class Real>
Tensor forward_into(AUDIOGEN_LAYER_INPUTS, const Maybe& skip, const Tensor& skip_out, int64_t dilation, bool causal,
                    double scale) {
  Tensor x_out = out_weight ? empty_in_layout_of(x, x.size(1)) : empty(x, {0});
  if (x.size(0) == 0) return x_out;
  Inputs<Real> inputs(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift,
                      dilation, causal, scale, false);
  if (out_weight) inputs.layer.x_out = view_of(x_out);
  inputs.layer.skip = view_of(skip);
  inputs.layer.skip_out = view_of(skip_out);
  run_forward(inputs);
  return x_out;
}

Tensor layer_into(AUDIOGEN_LAYER_INPUTS, const Maybe& skip, const Tensor& skip_out, int64_t dilation, bool causal,
                  double scale) {
  const auto run = is_double(x) ? forward_into<double> : forward_into<float>;
  return run(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift, skip,
             skip_out, dilation, causal, scale);
}

std::tuple<Tensor, Tensor> layer_op(AUDIOGEN_LAYER_INPUTS, const Maybe& skip, int64_t dilation, bool causal,
                                    double scale) {
  Tensor skip_out = empty_in_layout_of(x, skip_weight.size(0));
  Tensor x_out = layer_into(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band,
                            shift, skip, skip_out, dilation, causal, scale);
  return {x_out, skip_out};
}

Tensor layer_in_place_op(AUDIOGEN_LAYER_INPUTS, const Tensor& skip, int64_t dilation, bool causal, double scale) {
  return layer_into(x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift,
                    Maybe(skip), skip, dilation, causal, scale);
}

using TenTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Real>
TenTensors backward(const Maybe& grad_x_out, const Tensor& grad_skip, const Tensor& x, const Tensor& weight,
                    const Maybe& bias, const Maybe& out_weight, const Tensor& skip_weight, const Maybe& condition,
                    const Maybe& first, const Maybe& band, const Maybe& shift, int64_t dilation, bool causal,
                    double scale) {
  Inputs<Real> inputs(x, weight, bias, out_weight, Maybe(), skip_weight, Maybe(), condition, first, band, shift,
                      dilation, causal, scale, true);
  Layer<Real>& l = inputs.layer;
  const LayerSizes& size = inputs.size;
  const long tiles = l.batch * l.pairing.tiles, parts = parts_for(tiles), wide = 2 * size.gate, gate = l.gate;
  Tensor of_x = empty_in_layout_of(x, l.channels);
  if (out_weight) l.grad_x_out = view_of(grad_x_out);
  l.grad_skip = view_of(grad_skip), l.grad_x = view_of(of_x);
  Numbers<Real> grad_z(l.batch * l.time * wide), grad_band(l.batch * l.time * l.taps), tile_shift(tiles * l.channels);
  l.grad_z = grad_z.get(), l.grad_band = grad_band.get(), l.tile_shift = tile_shift.get();

  // Each part sums for itself, the condition over the frames that its tiles read.
  const long of_weight = (l.kernel + 1) * size.rows * wide, of_out = (size.out_rows + 6) * size.gate;
  const long fixed = of_weight + wide + of_out + size.out_rows;
  std::vector<Numbers<Real>> memory(parts);
  std::vector<LayerSums<Real>> sums(parts);
  std::vector<long> counts(parts, 0);
  share(tiles, parts, [&](long part, long begin, long end) {
    FrameRange range{0, -1};
    if (condition) range = frames(l, begin, end);
    counts[part] = range.high - range.low + 1;
    memory[part] = Numbers<Real>(fixed + counts[part] * wide, true);
    Real* at = memory[part].get();
    sums[part] = {at, at + of_weight, at + of_weight + wide, at + of_weight + wide + of_out, at + fixed, range.low};
    Numbers<Real> scratch(size.backward_scratch);
    backward_gates(l, begin, end, scratch.get(), sums[part]);
  });
  share(tiles, parts, [&](long, long begin, long end) {
    Numbers<Real> scratch(size.backward_scratch);
    backward_input(l, begin, end, scratch.get());
  });
  for (long part = 1; part < parts; ++part)
    for (long i = 0; i < fixed; ++i) memory[0].get()[i] += memory[part].get()[i];

  const LayerSums<Real>& sum = sums[0];
  Tensor d_weight = empty(x, {2 * gate, l.channels, l.kernel}), d_bias = empty(x, {2 * gate});
  fill(d_weight, [&](int64_t i) {
    const long tap = i % l.kernel, channel = i / l.kernel % l.channels, row = i / (l.kernel * l.channels);
    const Real* of_product = sum.weight + channel * wide + row / gate * size.gate + row % gate;
    const long next = size.rows * wide;  // from one product's to the next one's
    if (l.kernel == 2) return of_product[0] + of_product[(1 + tap) * next];
    if (tap == 1) return Real(0.5) * (of_product[0] - of_product[next]);
    return Real(0.5) * (of_product[0] + of_product[next]) + of_product[(2 + tap / 2) * next];
  });
  fill(d_bias, [&](int64_t i) { return sum.bias[i / gate * size.gate + i % gate]; });
  Tensor d_out_weight = empty(x, {0}), d_out_bias = empty(x, {0});
  if (out_weight) {
    d_out_weight = empty(x, {l.channels, gate}), d_out_bias = empty(x, {l.channels});
    fill(d_out_weight, [&](int64_t i) { return sum.out[i / gate * size.gate + i % gate]; });
    fill(d_out_bias, [&](int64_t i) { return sum.out_bias[i]; });
  }
  Tensor d_skip_weight = empty(x, {l.skips, gate}), d_skip_bias = empty(x, {l.skips});
  fill(d_skip_weight, [&](int64_t i) { return sum.out[(l.channels + i / gate) * size.gate + i % gate]; });
  fill(d_skip_bias, [&](int64_t i) { return sum.out_bias[l.channels + i]; });

  Tensor d_condition = empty(x, {0}), d_band = empty(x, {0}), d_shift = empty(x, {0});
  if (condition) {
    const long frames = l.frames;
    Numbers<Real> whole(l.batch * frames * wide, true);
    for (long part = 0; part < parts; ++part)
      for (long i = 0; i < counts[part] * wide; ++i) whole.get()[sums[part].frame * wide + i] += sums[part].condition[i];
    d_condition = empty(x, {l.batch, 2 * gate, frames});
    fill(d_condition, [&](int64_t i) {
      const long frame = i % frames, row = i / frames % (2 * gate), item = i / (frames * 2 * gate);
      return whole.get()[(item * frames + frame) * wide + row / gate * size.gate + row % gate];
    });
  }
  if (condition && l.taps) {
    d_band = empty(*band, {l.time, l.taps});
    fill(d_band, [&](int64_t i) {
      Real all = 0;
      for (long item = 0; item < l.batch; ++item) all += l.grad_band[item * l.time * l.taps + i];
      return all;
    });
  }
  if (shift) {
    d_shift = empty(x, {l.batch, l.channels});
    fill(d_shift, [&](int64_t i) {
      Real all = 0;
      for (long tile = i / l.channels * l.pairing.tiles; tile < (i / l.channels + 1) * l.pairing.tiles; ++tile)
        all += l.tile_shift[tile * l.channels + i % l.channels];
      return all;
    });
  }
  return {of_x, d_weight, d_bias, d_out_weight, d_out_bias, d_skip_weight, d_skip_bias, d_condition, d_band, d_shift};
}

TenTensors layer_backward_op(const Maybe& grad_x_out, const Tensor& grad_skip, const Tensor& x, const Tensor& weight,
                             const Maybe& bias, const Maybe& out_weight, const Tensor& skip_weight,
                             const Maybe& condition, const Maybe& first, const Maybe& band, const Maybe& shift,
                             int64_t dilation, bool causal, double scale) {
  const auto run = is_double(x) ? backward<double> : backward<float>;
  return run(grad_x_out, grad_skip, x, weight, bias, out_weight, skip_weight, condition, first, band, shift, dilation,
             causal, scale);
}

}  // namespace audiogen

STABLE_TORCH_LIBRARY_IMPL(audiogen, CPU, m) {
  m.impl("gated_dilated_layer", TORCH_BOX(&audiogen::layer_op));
  m.impl("gated_dilated_layer_in_place", TORCH_BOX(&audiogen::layer_in_place_op));
  m.impl("gated_dilated_layer_backward", TORCH_BOX(&audiogen::layer_backward_op));
}
