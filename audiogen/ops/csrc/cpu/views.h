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

// How the steps of an item are taken in pairs, and those in tiles: see pairs.h.
struct Pairing {
  long time = 0, dilation = 0;
  long pairs = 0, tiles = 0;  // of an item
  long span = 0, rows = 0;    // pairs of a tile at most; with those that fill the last group
  long per_block = 0;         // tiles of a block of 2 * dilation steps; 0: a tile is one or more whole blocks
};

}  // namespace audiogen
