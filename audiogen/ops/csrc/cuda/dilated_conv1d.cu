// audiogen::dilated_conv1d, _backward and _step for CUDA tensors. The kernels are in convolution.cuh and
// dilated_conv1d.cuh.
#include "convolution.cuh"
#include "dilated_conv1d.cuh"
#include "torch_glue.cuh"

namespace audiogen {
namespace {

bool conv_supported(const Tensor& x, const Tensor& weight) {
    return is_half_or_float(x) && weight.scalar_type() == x.scalar_type() && x.size(0) > 0 && x.size(0) < 65536 &&
           x.size(2) < (1 << 24) && x.size(1) > 0 && x.size(1) % 8 == 0 && weight.size(0) > 0 &&
           weight.size(0) % 8 == 0 && weight.size(2) <= kMostTaps;
}

/// Offsets of the taps; beyond x all read padding alone, so the dilation need not be larger than that.
void set_offsets(int* offsets, int64_t kernel, int64_t dilation, int64_t time, bool causal, int sign) {
    for (int j = 0; j < kernel; ++j)
        offsets[j] =
            sign * tap_offset(j, static_cast<int>(kernel), static_cast<int>(dilation < time ? dilation : time), causal);
}

Tensor conv(Tensor x_, Tensor weight_, Maybe bias_, int64_t dilation, bool causal) {
    const OnDeviceOf device(x_);
    if (!conv_supported(x_, weight_))
        return reference<Tensor>("audiogen::dilated_conv1d_reference", x_, weight_, bias_, dilation, causal);
    const Tensor x = rows_of(x_), weight = torch::stable::contiguous(weight_);
    const Maybe bias = whole(bias_);
    const int64_t outputs = weight.size(0), channels = weight.size(1), kernel = weight.size(2);
    const Tensor taps = empty(x, {kernel, outputs, channels}), y = new_rows(x, outputs, x.size(2));
    with_type(x, [&](auto type) {
        using T = decltype(type);
        reorder(data<T>(weight), data<T>(taps), kernel, outputs, channels, 1, channels * kernel, kernel,
                device.stream());
        Convolution<T> p = {};
        p.a = data<T>(x), p.a_batch = x.stride(0), p.a_row = x.stride(2), p.taps = data<T>(taps),
        p.bias = data<T>(bias);
        p.y = data<T>(y), p.y_batch = y.stride(0), p.y_row = y.stride(2);
        p.batch = x.size(0), p.time = x.size(2), p.inputs = channels, p.outputs = outputs, p.kernel = kernel;
        set_offsets(p.offsets, kernel, dilation, x.size(2), causal, 1);
        convolve(p, device.limits(), device.stream());
    });
    return in_layout_of(y, x_);
}

std::tuple<Tensor, Tensor, Tensor> conv_backward(Tensor grad_, Tensor x_, Tensor weight_, int64_t dilation,
                                                 bool causal) {
    const OnDeviceOf device(x_);
    if (!conv_supported(x_, weight_) || grad_.scalar_type() != x_.scalar_type())
        return reference<std::tuple<Tensor, Tensor, Tensor>>("audiogen::dilated_conv1d_backward_reference", grad_, x_,
                                                             weight_, dilation, causal);
    const Tensor x = rows_of(x_), grad = rows_of(grad_), weight = torch::stable::contiguous(weight_);
    const int64_t outputs = weight.size(0), channels = weight.size(1), kernel = weight.size(2), batch = x.size(0),
                  time = x.size(2);
    const Tensor taps = empty(x, {kernel, channels, outputs}), of_x = new_rows(x, channels, time);
    const Tensor of_weight = empty(x, {outputs, channels, kernel}), of_bias = empty(x, {outputs});
    with_type(x, [&](auto type) {
        using T = decltype(type);
        const cudaStream_t stream = device.stream();
        reorder(data<T>(weight), data<T>(taps), kernel, channels, outputs, 1, kernel, channels * kernel, stream);
        Convolution<T> p = {};
        p.a = data<T>(grad), p.a_batch = grad.stride(0), p.a_row = grad.stride(2), p.taps = data<T>(taps);
        p.y = data<T>(of_x), p.y_batch = of_x.stride(0), p.y_row = of_x.stride(2);
        p.batch = batch, p.time = time, p.inputs = outputs, p.outputs = channels, p.kernel = kernel;
        set_offsets(p.offsets, kernel, dilation, time, causal, -1);
        convolve(p, device.limits(), stream);

        WeightGradient<T> w = {};
        w.a = p.a, w.a_batch = p.a_batch, w.a_row = p.a_row, w.b = data<T>(x), w.b_batch = x.stride(0),
        w.b_row = x.stride(2);
        w.batch = batch, w.time = time, w.rows = outputs, w.columns = channels, w.kernel = kernel;
        w.splits = splits_of(batch, time, outputs, channels, kernel);
        set_offsets(w.offsets, kernel, dilation, time, causal, 1);
        const Tensor partial = floats(x, {w.splits, kernel, outputs, channels});
        w.partial = data<float>(partial);
        weight_gradient(w, data<T>(of_weight), 1.0f, static_cast<const float*>(nullptr), static_cast<const T*>(nullptr),
                        stream);

        const Tensor partial_sums = floats(x, {batch, sum_segments(time), outputs}), sums = floats(x, {batch, outputs});
        column_sums(p.a, p.a_batch, p.a_row, p.batch, outputs, 0, p.time, data<float>(partial_sums), data<float>(sums),
                    outputs, stream);
        total_sums(data<float>(sums), data<T>(of_bias), p.batch, outputs, 1.0f, stream);
    });
    return {in_layout_of(of_x, x_), of_weight, of_bias};
}

Tensor step(Tensor x_, Tensor state, int64_t position, Tensor weight_, Maybe bias_, int64_t dilation) {
    const OnDeviceOf device(x_);
    if (!is_half_or_float(x_) || weight_.scalar_type() != x_.scalar_type() || !state.is_contiguous() ||
        x_.size(0) == 0 || x_.size(0) > 65535)
        return reference<Tensor>("audiogen::dilated_conv1d_step_reference", x_, state, position, weight_, bias_,
                                 dilation);
    const Tensor x = torch::stable::contiguous(x_), weight = torch::stable::contiguous(weight_);
    const Maybe bias = contiguous(bias_);
    const int outputs = weight.size(0), channels = weight.size(1), kernel = weight.size(2), batch = x.size(0);
    const int64_t slots = state.size(1);
    const Tensor y = empty(x, {batch, outputs});
    with_type(x, [&](auto type) {
        using T = decltype(type);
        launch(convolution_step_kernel<T>, dim3(divide_up(outputs, 8), batch), dim3(256), 0, device.stream(),
               data<T>(x), data<T>(state), slots, position, data<T>(weight), data<T>(bias), data<T>(y), outputs,
               channels, kernel, dilation);
        if (slots)
            launch(ring_write_kernel<T>, dim3(divide_up(channels, 256), batch), dim3(256), 0, device.stream(),
                   data<T>(x), data<T>(state), slots, position % slots, channels);
    });
    return y;
}

}  // namespace
}  // namespace audiogen

AUDIOGEN_LIBRARY(m) {
    m.impl("dilated_conv1d", TORCH_BOX(&audiogen::conv));
    m.impl("dilated_conv1d_backward", TORCH_BOX(&audiogen::conv_backward));
    m.impl("dilated_conv1d_step", TORCH_BOX(&audiogen::step));
}
