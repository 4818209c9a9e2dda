// Between torch's stable ABI and the kernels' plain structures.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "views.h"

namespace audiogen {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

inline Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Half: return Type::f16;
    default: STD_TORCH_CHECK(false, "audiogen's kernels take float32, float64, bfloat16 and float16");
  }
}

inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

// A (batch, channels, time) tensor; all of one operation have the same type, for kernels look at one of them.
inline View view_of(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 3, "(batch, channels, time) is needed");
  return {tensor.data_ptr(), type_of(tensor), long(tensor.stride(0)), long(tensor.stride(1)), long(tensor.stride(2))};
}

inline View view_of(const Maybe& tensor) { return tensor ? view_of(*tensor) : View{}; }

// Numbers aligned to whole cache lines.
template <class Real>
class Numbers {
 public:
  Numbers() = default;
  explicit Numbers(size_t count, bool zero = false)
      : memory_(new char[count * sizeof(Real) + 64]), count_(count) {
    size_t at = reinterpret_cast<size_t>(memory_.get());
    begin_ = reinterpret_cast<Real*>((at + 63) / 64 * 64);
    if (zero) std::fill(begin_, begin_ + count, Real(0));
  }
  Real* get() const { return begin_; }
  size_t size() const { return count_; }

 private:
  std::unique_ptr<char[]> memory_;
  Real* begin_ = nullptr;
  size_t count_ = 0;
};

inline float widen(uint16_t bits, Type type) {
  if (type == Type::f16) return float(c10::Half(bits, c10::Half::from_bits()));
  return float(c10::BFloat16(bits, c10::BFloat16::from_bits()));
}

// All numbers of a tensor of at most three dimensions, in order; `in place` where they already are what is needed.
template <class Real>
class Copy {
 public:
  explicit Copy(const Maybe& tensor) {
    if (!tensor) return;
    const Type type = type_of(*tensor);
    const bool same = type == (sizeof(Real) == 8 ? Type::f64 : Type::f32);
    if (same && tensor->is_contiguous()) {
      begin_ = static_cast<const Real*>(tensor->data_ptr());
      return;
    }
    STD_TORCH_CHECK(tensor->dim() <= 3, "at most three dimensions");
    long size[3] = {1, 1, 1}, stride[3] = {0, 0, 0};
    const int dims = int(tensor->dim());
    for (int d = 0; d < dims; ++d) {
      size[3 - dims + d] = tensor->size(d);
      stride[3 - dims + d] = tensor->stride(d);
    }
    memory_ = Numbers<Real>(tensor->numel());
    Real* to = memory_.get();
    for (long i = 0; i < size[0]; ++i)
      for (long j = 0; j < size[1]; ++j)
        for (long k = 0; k < size[2]; ++k) {
          const long at = i * stride[0] + j * stride[1] + k * stride[2];
          if (type == Type::f32) *to++ = Real(static_cast<const float*>(tensor->data_ptr())[at]);
          else if (type == Type::f64) *to++ = Real(static_cast<const double*>(tensor->data_ptr())[at]);
          else *to++ = Real(widen(static_cast<const uint16_t*>(tensor->data_ptr())[at], type));
        }
    begin_ = memory_.get();
  }
  const Real* get() const { return begin_; }

 private:
  Numbers<Real> memory_;
  const Real* begin_ = nullptr;
};

// Writes number i of a new, contiguous tensor.
template <class Value>
void fill(const Tensor& tensor, Value value) {
  const int64_t count = tensor.numel();
  void* to = tensor.data_ptr();
  switch (type_of(tensor)) {
    case Type::f32:
      for (int64_t i = 0; i < count; ++i) static_cast<float*>(to)[i] = float(value(i));
      break;
    case Type::f64:
      for (int64_t i = 0; i < count; ++i) static_cast<double*>(to)[i] = double(value(i));
      break;
    case Type::bf16:
      for (int64_t i = 0; i < count; ++i) static_cast<uint16_t*>(to)[i] = c10::BFloat16(float(value(i))).x;
      break;
    case Type::f16:
      for (int64_t i = 0; i < count; ++i) static_cast<uint16_t*>(to)[i] = c10::Half(float(value(i))).x;
      break;
  }
}

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape) {
  return torch::stable::new_empty(like, shape);
}

// A new (batch, channels, time) tensor in the memory layout of x: channels-last or contiguous.
inline Tensor empty_in_layout_of(const Tensor& x, int64_t channels) {
  if (x.stride(1) == 1 && x.size(1) > 1)
    return torch::stable::transpose(empty(x, {x.size(0), x.size(2), channels}), 1, 2);
  return empty(x, {x.size(0), channels, x.size(2)});
}

// Splits `count` pieces of work among torch's threads: work(part, begin, end). The split depends on the number of
// threads alone, so that sums over parts are the same every time.
template <class Work>
void share(long count, long parts, Work work) {
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) work(part, count * part / parts, count * (part + 1) / parts);
  });
}

inline long parts_for(long count) { return std::max(1L, std::min(count, long(torch::stable::get_num_threads()))); }

// Steps of a tile: enough tiles for all threads, windows that fit into the second cache; a multiple of `unit`.
inline long tile_steps(long batch, long time, long channels, long kernel, long unit, long most = 96) {
  const long fit = 32768 / std::max(1L, kernel * channels), share = batch * time / long(torch::stable::get_num_threads());
  const long steps = std::min({most, std::max(fit, 24L), std::max(share, 24L)});
  return std::max(unit, steps / unit * unit);
}

}  // namespace audiogen
