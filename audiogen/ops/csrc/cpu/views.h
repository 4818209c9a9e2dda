// Plain structures that kernels and their callers share. No functions: see build.py on what *.isa.cpp may include.
#pragma once

namespace audiogen {

enum class Type : int { f32, f64, bf16, f16 };

// A (batch, channels, time) tensor in memory, or none; strides in numbers.
struct View {
  void* data = nullptr;
  Type type = Type::f32;
  long batch = 0, channel = 0, step = 0;
};

}  // namespace audiogen
