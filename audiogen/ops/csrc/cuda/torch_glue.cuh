// Between torch tensors and the kernels, on torch's stable ABI: layouts, types, the current stream, the way back to the
// reference for what the kernels do not do.
//
// The emulation (AUDIOGEN_EMULATED) compiles the same functions for CPU tensors, in a name space of its own.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "launch.cuh"

#ifdef AUDIOGEN_EMULATED
#define AUDIOGEN_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(audiogen_emulated, CPU, m)
#else
#define AUDIOGEN_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(audiogen, CUDA, m)
#endif

namespace torch::stable::detail {
template <class... T>
std::tuple<T...> unbox_to_tuple_of(std::tuple<T...>*, StableIValue* stack) {
    return unbox_to_tuple<T...>(stack);
}
}  // namespace torch::stable::detail

namespace audiogen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

/// The device of a tensor made current, and its current stream; what is launched in its scope belongs there.
class OnDeviceOf {
   public:
#ifdef AUDIOGEN_EMULATED
    explicit OnDeviceOf(const Tensor&) {}
    int shared_limit() const {  // of an H200, or what a test sets
        const char* set = std::getenv("AUDIOGEN_EMULATION_SHARED_BYTES");
        return set ? std::atoi(set) : 227 * 1024;
    }
    int multiprocessors() const { return 24; }
    int capability() const {  // 90: thread-block clusters
        const char* set = std::getenv("AUDIOGEN_EMULATION_CAPABILITY");
        return set ? std::atoi(set) : 90;
    }
#else
    explicit OnDeviceOf(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
        void* stream = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
        stream_ = static_cast<cudaStream_t>(stream);
    }
    int shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
    int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }
    int capability() const {
        return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    }
#endif
    cudaStream_t stream() const { return stream_; }
    Limits limits() const { return {shared_limit(), capability()}; }

   private:
    cudaStream_t stream_ = nullptr;
#ifndef AUDIOGEN_EMULATED
    int attribute(cudaDeviceAttr which) const {
        int value = 0;
        check_cuda(cudaDeviceGetAttribute(&value, which, index_), "a property of the device");
        return value;
    }
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
#endif
};

inline bool is_half_or_float(const Tensor& tensor) {
    const ScalarType type = tensor.scalar_type();
    return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

/// Call f with a value of the C++ type of the tensor's elements. AUDIOGEN_ONE_TYPE (1 float32, 2 bfloat16, 3 float16)
/// leaves the others out, where nothing is to be proved but that the file compiles.
template <class F>
auto with_type(const Tensor& tensor, F&& f) {
#if defined(AUDIOGEN_ONE_TYPE)
    return f(
        std::conditional_t<AUDIOGEN_ONE_TYPE == 1, float, std::conditional_t<AUDIOGEN_ONE_TYPE == 2, bf16, half>>{});
#else
    switch (tensor.scalar_type()) {
        case ScalarType::BFloat16:
            return f(bf16{});
        case ScalarType::Half:
            return f(half{});
        default:
            return f(float{});
    }
#endif
}

template <class T>
T* data(const Tensor& tensor) {
    return static_cast<T*>(tensor.mutable_data_ptr());
}
template <class T>
const T* data(const Maybe& tensor) {
    return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

inline Tensor empty(const Tensor& like, std::vector<int64_t> sizes, std::optional<ScalarType> type = std::nullopt) {
    return torch::stable::new_empty(like, sizes, type);
}
inline Tensor floats(const Tensor& like, std::vector<int64_t> sizes) {
    return empty(like, std::move(sizes), ScalarType::Float);
}
inline Tensor transposed(const Tensor& tensor) { return torch::stable::transpose(tensor, 1, 2); }
inline Maybe contiguous(const Maybe& tensor) {
    return tensor ? Maybe(torch::stable::contiguous(*tensor)) : std::nullopt;
}
inline bool aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0; }

inline bool is_channels_last(const Tensor& x) { return x.stride(1) == 1 && x.size(1) > 1; }

/// (batch, channels, time) -> the same with channels side by side and 16-byte rows, a copy only where they are not so.
inline Tensor rows_of(const Tensor& x) {
    const int64_t whole = 16 / static_cast<int64_t>(x.element_size());
    if (x.stride(1) == 1 && x.stride(2) % whole == 0 && x.stride(0) % whole == 0 && x.stride(2) >= x.size(1) &&
        aligned(x))
        return x;
    Tensor copy = empty(x, {x.size(0), x.size(2), x.size(1)}), view = transposed(copy);
    torch::stable::copy_(view, x);
    return view;
}
/// A contiguous copy that begins at a multiple of 16 bytes, where the tensor is not so itself.
inline Tensor whole(const Tensor& tensor) {
    Tensor result = torch::stable::contiguous(tensor);
    return aligned(result) ? result : torch::stable::clone(result);
}
inline Maybe whole(const Maybe& tensor) { return tensor ? Maybe(whole(*tensor)) : std::nullopt; }

/// A new (batch, channels, time), channels-last in memory.
inline Tensor new_rows(const Tensor& like, int64_t channels, int64_t time) {
    return transposed(empty(like, {like.size(0), time, channels}));
}
/// `result` in the memory layout of x.
inline Tensor in_layout_of(const Tensor& result, const Tensor& x) {
    return is_channels_last(x) ? result : torch::stable::contiguous(result);
}

/// Run the op `name` (same schema, the PyTorch reference) in place of a kernel.
template <class Result, class... Arguments>
Result reference(const char* name, const Arguments&... arguments) {
    constexpr size_t given = sizeof...(Arguments);
    std::array<StableIValue, (given > 16 ? given : 16)> stack{torch::stable::detail::from(arguments)...};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
    if constexpr (std::is_same_v<Result, Tensor>)
        return torch::stable::detail::to<Tensor>(stack[0]);
    else
        return torch::stable::detail::unbox_to_tuple_of(static_cast<Result*>(nullptr), stack.data());
}

}  // namespace audiogen
