// audiogen::anti_aliased_snake and _backward for CUDA tensors. The kernels are in anti_aliased_snake.cuh.
#include "anti_aliased_snake.cuh"
#include "torch_glue.cuh"

namespace audiogen {
namespace {

constexpr float kEps = 1e-9f;  // as published: beta = 0 would divide by it

bool snake_supported(const Tensor& x, const Tensor& alpha, const Tensor& beta, const Tensor& up, const Tensor& down) {
    return x.dim() == 3 && is_half_or_float(x) && is_half_or_float(alpha) &&
           alpha.scalar_type() == beta.scalar_type() && up.dim() == 1 && down.dim() == 1 && up.size(0) == kSnakeTaps &&
           down.size(0) == kSnakeTaps && x.size(0) > 0 && x.size(0) < 65536 && x.size(1) > 0 && alpha.dim() == 1 &&
           beta.dim() == 1 && alpha.size(0) == x.size(1) && beta.size(0) == x.size(1) && x.size(2) > 0 &&
           x.size(2) < (1 << 29);
}

template <class T, class Of>
SnakeTensor<T> view(const Of& tensor) {
    return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

/// Parameters in float32, and the filters.
struct Scales {
    Tensor alpha, inverse_beta, up, down;

    Scales(const Tensor& alpha_, const Tensor& beta_, const Tensor& up_, const Tensor& down_, bool logscale,
           cudaStream_t stream)
        : alpha(floats(alpha_, {alpha_.size(0)})),
          inverse_beta(floats(alpha_, {alpha_.size(0)})),
          up(torch::stable::contiguous(torch::stable::to(up_, ScalarType::Float))),
          down(torch::stable::contiguous(torch::stable::to(down_, ScalarType::Float))) {
        const Tensor a = torch::stable::contiguous(alpha_), b = torch::stable::contiguous(beta_);
        with_type(alpha_, [&](auto type) {
            using T = decltype(type);
            const int channels = a.size(0);
            launch(snake_scales_kernel<T>, dim3((channels + 255) / 256), dim3(256), 0, stream,
                   static_cast<const T*>(data<T>(a)), static_cast<const T*>(data<T>(b)), channels, kEps, logscale,
                   data<float>(alpha), data<float>(inverse_beta));
        });
    }

    template <class T>
    Snake<T> snake(const Tensor& x) const {
        return {
            view<const T>(x),  data<float>(alpha),          data<float>(inverse_beta),   data<float>(up),
            data<float>(down), static_cast<int>(x.size(0)), static_cast<int>(x.size(1)), static_cast<int>(x.size(2))};
    }
};

Tensor new_like(const Tensor& x) {
    return is_channels_last(x) ? new_rows(x, x.size(1), x.size(2)) : empty(x, {x.size(0), x.size(1), x.size(2)});
}

Tensor snake_forward(Tensor x, Tensor alpha, Tensor beta, Tensor up, Tensor down, bool logscale) {
    const OnDeviceOf device(x);
    if (!snake_supported(x, alpha, beta, up, down))
        return reference<Tensor>("audiogen::anti_aliased_snake_reference", x, alpha, beta, up, down, logscale);
    const Scales scales(alpha, beta, up, down, logscale, device.stream());
    const Tensor y = new_like(x);
    with_type(x, [&](auto type) {
        using T = decltype(type);
        snake(scales.snake<T>(x), view<T>(y), device.stream());
    });
    return y;
}

std::tuple<Tensor, Tensor, Tensor> snake_backward(Tensor grad, Tensor x, Tensor alpha, Tensor beta, Tensor up,
                                                  Tensor down, bool logscale) {
    const OnDeviceOf device(x);
    if (!snake_supported(x, alpha, beta, up, down) || grad.scalar_type() != x.scalar_type())
        return reference<std::tuple<Tensor, Tensor, Tensor>>("audiogen::anti_aliased_snake_backward_reference", grad, x,
                                                             alpha, beta, up, down, logscale);
    const Scales scales(alpha, beta, up, down, logscale, device.stream());
    const Tensor of_x = new_like(x), of_alpha = floats(x, {x.size(1)}), of_beta = floats(x, {x.size(1)});
    with_type(x, [&](auto type) {
        using T = decltype(type);
        const Snake<T> p = scales.snake<T>(x);
        const Tensor partial = floats(x, {static_cast<int64_t>(snake_grid(p).x) * p.batch, 2, p.channels});
        snake_gradient(p, view<const T>(grad), view<T>(of_x), data<float>(partial), kEps, logscale,
                       data<float>(of_alpha), data<float>(of_beta), device.stream());
    });
    return {of_x, torch::stable::to(of_alpha, alpha.scalar_type()), torch::stable::to(of_beta, beta.scalar_type())};
}

}  // namespace
}  // namespace audiogen

AUDIOGEN_LIBRARY(m) {
    m.impl("anti_aliased_snake", TORCH_BOX(&audiogen::snake_forward));
    m.impl("anti_aliased_snake_backward", TORCH_BOX(&audiogen::snake_backward));
}
