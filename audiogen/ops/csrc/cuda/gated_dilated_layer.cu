// audiogen::gated_dilated_layer, _in_place and _backward for CUDA tensors. The kernels are in gated_dilated_layer.cuh.
#include "gated_dilated_layer.cuh"
#include "torch_glue.cuh"

namespace audiogen {
namespace {

/// The inputs of a layer in the layout that the kernels read; owns the copies that this needs.
struct Prepared {
    Tensor x, taps, weight;
    Maybe bias, condition, first, band, shift, tap_shift;
    int64_t dilation;
    bool causal;

    Prepared(const Tensor& x_, const Tensor& weight_, const Maybe& bias_, const Maybe& condition_, const Maybe& first_,
             const Maybe& band_, const Maybe& shift_, int64_t dilation_, bool causal_, cudaStream_t stream)
        : x(rows_of(x_)),
          taps(empty(weight_, {weight_.size(2), weight_.size(0), weight_.size(1)})),
          weight(torch::stable::contiguous(weight_)),
          bias(whole(bias_)),
          shift(contiguous(shift_)),
          dilation(dilation_ < x_.size(2) ? dilation_ : x_.size(2)),
          causal(causal_) {  // beyond x it reads padding alone
        if (condition_) {
            condition = rows_of(*condition_);
            first = contiguous(first_);
            if (band_) band = torch::stable::contiguous(torch::stable::to(*band_, ScalarType::Float));
        }
        if (shift) tap_shift = floats(x, {x.size(0), weight.size(2), weight.size(0)});
        with_type(x, [&](auto type) {
            using T = decltype(type);
            const int rows = weight.size(0), channels = weight.size(1), kernel = weight.size(2);
            reorder(data<T>(weight), data<T>(taps), kernel, rows, channels, 1, static_cast<int64_t>(channels) * kernel,
                    kernel, stream);
            if (shift)
                launch(tap_shift_kernel<T>, dim3(divide_up(kernel * rows, 256), x.size(0)), dim3(256), 0, stream,
                       data<T>(taps), data<T>(shift), data<float>(*tap_shift), kernel, rows, channels);
        });
    }

    template <class T>
    Layer<T> layer(int64_t skip_channels, double scale) const {
        Layer<T> p = {};
        p.x = data<T>(x), p.x_batch = x.stride(0), p.x_row = x.stride(2);
        p.taps = data<T>(taps), p.bias = data<T>(bias), p.tap_shift = data<float>(tap_shift);
        p.batch = x.size(0), p.channels = x.size(1), p.time = x.size(2);
        p.gate = weight.size(0) / 2, p.kernel = weight.size(2), p.skip_channels = skip_channels;
        for (int j = 0; j < p.kernel; ++j) p.offsets[j] = tap_offset(j, p.kernel, dilation, causal);
        p.scale = static_cast<float>(scale);
        if (condition)
            p.condition = {data<T>(*condition),
                           condition->stride(0),
                           condition->stride(2),
                           first ? data<int>(*first) : nullptr,
                           data<float>(band),
                           band ? static_cast<int>(band->size(1)) : 1,
                           static_cast<int>(x.size(2) / condition->size(2))};
        return p;
    }
};

bool supported(const Tensor& x, const Tensor& weight, const Tensor& skip_weight, const OnDeviceOf& device) {
    const int64_t gate = weight.size(0) / 2;
    return is_half_or_float(x) && x.size(0) > 0 && x.size(0) < 65536 && x.size(2) < (1 << 24) && x.size(1) % 8 == 0 &&
           gate % 8 == 0 && gate > 0 && x.size(1) > 0 && skip_weight.size(0) % 8 == 0 && skip_weight.size(0) > 0 &&
           with_type(x, [&](auto type) { return fits<decltype(type)>(gate, device.shared_limit()); });
}

void run_forward(const OnDeviceOf& device, const Tensor& x, const Tensor& weight, const Maybe& bias,
                 const Maybe& out_weight, const Maybe& out_bias, const Tensor& skip_weight, const Maybe& skip_bias,
                 const Maybe& condition, const Maybe& first, const Maybe& band, const Maybe& shift, const Maybe& skip,
                 const Maybe& x_out, const Tensor& skip_out, int64_t dilation, bool causal, double scale) {
    const Prepared inputs(x, weight, bias, condition, first, band, shift, dilation, causal, device.stream());
    const Maybe of_x = whole(out_weight), of_x_bias = whole(out_bias), of_skip_bias = whole(skip_bias);
    const Tensor of_skip = whole(skip_weight);
    with_type(x, [&](auto type) {
        using T = decltype(type);
        LayerOutputs<T> o = {};
        o.out_weight = data<T>(of_x), o.out_bias = data<T>(of_x_bias);
        o.skip_weight = data<T>(of_skip), o.skip_bias = data<T>(of_skip_bias);
        if (skip) o.skip = data<T>(*skip), o.skip_batch = skip->stride(0), o.skip_row = skip->stride(2);
        if (x_out) o.x_out = data<T>(*x_out), o.x_out_batch = x_out->stride(0), o.x_out_row = x_out->stride(2);
        o.skip_out = data<T>(skip_out), o.skip_out_batch = skip_out.stride(0), o.skip_out_row = skip_out.stride(2);
        gated_layer(inputs.layer<T>(skip_weight.size(0), scale), o, device.limits(), device.stream());
    });
}

std::tuple<Tensor, Tensor> layer(Tensor x, Tensor weight, Maybe bias, Maybe out_weight, Maybe out_bias,
                                 Tensor skip_weight, Maybe skip_bias, Maybe condition, Maybe first, Maybe band,
                                 Maybe shift, Maybe skip, int64_t dilation, bool causal, double scale) {
    const OnDeviceOf device(x);
    if (!supported(x, weight, skip_weight, device))
        return reference<std::tuple<Tensor, Tensor>>("audiogen::gated_dilated_layer_reference", x, weight, bias,
                                                     out_weight, out_bias, skip_weight, skip_bias, condition, first,
                                                     band, shift, skip, dilation, causal, scale);
    const Maybe skip_rows = skip ? Maybe(rows_of(*skip)) : std::nullopt;
    const Maybe x_out = out_weight ? Maybe(new_rows(x, x.size(1), x.size(2))) : std::nullopt;
    const Tensor skip_out = new_rows(x, skip_weight.size(0), x.size(2));
    run_forward(device, x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift,
                skip_rows, x_out, skip_out, dilation, causal, scale);
    return {x_out ? in_layout_of(*x_out, x) : empty(x, {0}), in_layout_of(skip_out, x)};
}

Tensor layer_in_place(Tensor x, Tensor weight, Maybe bias, Maybe out_weight, Maybe out_bias, Tensor skip_weight,
                      Maybe skip_bias, Maybe condition, Maybe first, Maybe band, Maybe shift, Tensor skip,
                      int64_t dilation, bool causal, double scale) {
    const OnDeviceOf device(x);
    if (!supported(x, weight, skip_weight, device))
        return reference<Tensor>("audiogen::gated_dilated_layer_in_place_reference", x, weight, bias, out_weight,
                                 out_bias, skip_weight, skip_bias, condition, first, band, shift, skip, dilation,
                                 causal, scale);
    Tensor sum = rows_of(skip);  // skip itself where its layout allows
    const Maybe x_out = out_weight ? Maybe(new_rows(x, x.size(1), x.size(2))) : std::nullopt;
    run_forward(device, x, weight, bias, out_weight, out_bias, skip_weight, skip_bias, condition, first, band, shift,
                sum, x_out, sum, dilation, causal, scale);
    if (sum.const_data_ptr() != skip.const_data_ptr()) torch::stable::copy_(skip, sum);
    return x_out ? in_layout_of(*x_out, x) : empty(x, {0});
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients layer_backward(Maybe grad_x_out, Tensor grad_skip, Tensor x, Tensor weight, Maybe bias, Maybe out_weight,
                         Tensor skip_weight, Maybe condition, Maybe first, Maybe band, Maybe shift, int64_t dilation,
                         bool causal, double scale) {
    const OnDeviceOf device(x);
    if (!supported(x, weight, skip_weight, device))
        return reference<Gradients>("audiogen::gated_dilated_layer_backward_reference", grad_x_out, grad_skip, x,
                                    weight, bias, out_weight, skip_weight, condition, first, band, shift, dilation,
                                    causal, scale);
    const cudaStream_t stream = device.stream();
    const Prepared inputs(x, weight, bias, condition, first, band, shift, dilation, causal, stream);
    const int64_t batch = x.size(0), channels = x.size(1), time = x.size(2), rows = weight.size(0), gate = rows / 2,
                  kernel = weight.size(2), skips = skip_weight.size(0);
    const bool straight = grad_x_out && out_weight;
    const Tensor of_skip_out = rows_of(grad_skip);
    const Maybe of_x_out = straight ? Maybe(rows_of(*grad_x_out)) : std::nullopt;
    const Tensor plain_skip = torch::stable::contiguous(skip_weight);
    const Maybe plain_out = straight ? Maybe(torch::stable::contiguous(*out_weight)) : std::nullopt;

    const Tensor h = empty(x, {batch, time, gate}), of_z = empty(x, {batch, time, rows});  // scratch
    const Tensor of_x = new_rows(x, channels, time), of_weight = empty(x, {rows, channels, kernel}),
                 of_bias = empty(x, {rows});
    const Tensor of_out = empty(x, straight ? std::vector<int64_t>{channels, gate} : std::vector<int64_t>{0});
    const Tensor of_out_bias = empty(x, {straight ? channels : 0});
    const Tensor of_skip = empty(x, {skips, gate}), of_skip_bias = empty(x, {skips});
    Tensor of_condition = empty(x, {0}), of_band = empty(x, {0}), of_shift = empty(x, {0});

    with_type(x, [&](auto type) {
        using T = decltype(type);
        const Layer<T> p = inputs.layer<T>(skips, scale);
        const Tensor skip_columns = empty(x, {gate, skips}), out_columns = empty(x, {gate, straight ? channels : 0});
        const Tensor taps_across = empty(x, {kernel, channels, rows});
        reorder(data<T>(plain_skip), data<T>(skip_columns), 1, gate, skips, 0, 1, gate, stream);
        if (straight) reorder(data<T>(*plain_out), data<T>(out_columns), 1, gate, channels, 0, 1, gate, stream);
        reorder(data<T>(inputs.weight), data<T>(taps_across), kernel, channels, rows, 1, kernel, channels * kernel,
                stream);

        LayerGradients<T> g = {};
        if (straight)
            g.grad_x_out = data<T>(*of_x_out), g.grad_x_batch = of_x_out->stride(0), g.grad_x_row = of_x_out->stride(2);
        g.grad_skip = data<T>(of_skip_out), g.grad_skip_batch = of_skip_out.stride(0),
        g.grad_skip_row = of_skip_out.stride(2);
        g.out_columns = data<T>(out_columns), g.skip_columns = data<T>(skip_columns);
        g.h = data<T>(h), g.grad_z = data<T>(of_z);
        gates(p, g, device.limits(), stream);

        Convolution<T> back = {};
        back.a = g.grad_z, back.a_batch = time * rows, back.a_row = rows, back.taps = data<T>(taps_across);
        back.added = g.grad_x_out, back.added_batch = g.grad_x_batch, back.added_row = g.grad_x_row,
        back.added_scale = p.scale;
        back.y = data<T>(of_x), back.y_batch = of_x.stride(0), back.y_row = of_x.stride(2);
        back.batch = p.batch, back.time = p.time, back.inputs = rows, back.outputs = p.channels, back.kernel = p.kernel;
        for (int j = 0; j < p.kernel; ++j) back.offsets[j] = -p.offsets[j];
        convolve(back, device.limits(), stream);

        // Sums over time: of the gradient of z, tap by tap where a shift meets the padding, and of what came in.
        const int64_t widest = rows > channels ? (rows > skips ? rows : skips) : (channels > skips ? channels : skips);
        const Tensor partial_sums = floats(x, {batch, sum_segments(p.time), widest});
        const Tensor sums = floats(x, {batch, widest}), tap_sums = floats(x, {shift ? batch : 0, kernel, rows});
        auto total = [&](const T* a, int64_t a_batch, int64_t a_row, int columns, const Tensor& result, float factor) {
            column_sums(a, a_batch, a_row, p.batch, columns, 0, p.time, data<float>(partial_sums), data<float>(sums),
                        columns, stream);
            total_sums(data<float>(sums), data<T>(result), p.batch, columns, factor, stream);
        };
        total(g.grad_z, time * rows, rows, rows, of_bias, 1.0f);
        total(g.grad_skip, g.grad_skip_batch, g.grad_skip_row, skips, of_skip_bias, 1.0f);
        if (straight) total(g.grad_x_out, g.grad_x_batch, g.grad_x_row, channels, of_out_bias, p.scale);
        if (shift) {
            for (int j = 0; j < p.kernel; ++j) {
                const int begin = p.offsets[j] < 0 ? -p.offsets[j] : 0,
                          end = p.offsets[j] > 0 ? p.time - p.offsets[j] : p.time;
                column_sums(g.grad_z, time * rows, rows, p.batch, rows, begin, end, data<float>(partial_sums),
                            data<float>(tap_sums) + j * rows, kernel * rows, stream);
            }
            of_shift = empty(x, {batch, channels});
            launch(shift_gradient_kernel<T>, dim3(divide_up(channels, 256), p.batch), dim3(256), 0, stream,
                   static_cast<const float*>(data<float>(tap_sums)), p.taps, data<T>(of_shift),
                   static_cast<int>(kernel * rows), p.channels);
        }

        auto gradient_of = [&](const T* a, int64_t a_batch, int64_t a_row, int outputs, const T* b, int64_t b_batch,
                               int64_t b_row, int inputs_, bool dilated, const Tensor& result, float factor) {
            WeightGradient<T> w = {};
            w.a = a, w.a_batch = a_batch, w.a_row = a_row, w.b = b, w.b_batch = b_batch, w.b_row = b_row;
            w.batch = p.batch, w.time = p.time, w.rows = outputs, w.columns = inputs_,
            w.kernel = dilated ? p.kernel : 1;
            for (int j = 0; j < w.kernel; ++j) w.offsets[j] = dilated ? p.offsets[j] : 0;
            w.splits = splits_of(p.batch, p.time, outputs, inputs_, w.kernel);
            const Tensor partial = floats(x, {w.splits, w.kernel, outputs, inputs_});
            w.partial = data<float>(partial);
            const bool shifted = dilated && shift.has_value();
            weight_gradient(w, data<T>(result), factor,
                            shifted ? static_cast<const float*>(data<float>(tap_sums)) : nullptr,
                            shifted ? data<T>(inputs.shift) : nullptr, stream);
        };
        gradient_of(g.grad_z, time * rows, rows, rows, p.x, p.x_batch, p.x_row, channels, true, of_weight, 1.0f);
        gradient_of(g.grad_skip, g.grad_skip_batch, g.grad_skip_row, skips, g.h, time * gate, gate, gate, false,
                    of_skip, 1.0f);
        if (straight)
            gradient_of(g.grad_x_out, g.grad_x_batch, g.grad_x_row, channels, g.h, time * gate, gate, gate, false,
                        of_out, p.scale);

        if (condition) {
            const int64_t frames = condition->size(2);
            const Tensor by_frame = empty(x, {batch, frames, rows});
            launch(condition_gradient_kernel<T>, dim3(frames, p.batch), dim3(256), 0, stream,
                   static_cast<const T*>(g.grad_z), p.condition, p.time, static_cast<int>(rows),
                   static_cast<int>(frames), data<T>(by_frame));
            of_condition = torch::stable::contiguous(transposed(by_frame));
            if (band) {
                Tensor result = floats(x, {time, band->size(1)});
                launch(band_gradient_kernel<T>, dim3(divide_up(time, 8)), dim3(256), 0, stream,
                       static_cast<const T*>(g.grad_z), p.condition, p.batch, p.time, static_cast<int>(rows),
                       data<float>(result));
                of_band = torch::stable::to(result, band->scalar_type());
            }
        }
    });
    return {in_layout_of(of_x, x), of_weight,    of_bias, of_out,  of_out_bias, of_skip,
            of_skip_bias,          of_condition, of_band, of_shift};
}

}  // namespace
}  // namespace audiogen

AUDIOGEN_LIBRARY(m) {
    m.impl("gated_dilated_layer", TORCH_BOX(&audiogen::layer));
    m.impl("gated_dilated_layer_in_place", TORCH_BOX(&audiogen::layer_in_place));
    m.impl("gated_dilated_layer_backward", TORCH_BOX(&audiogen::layer_backward));
}
