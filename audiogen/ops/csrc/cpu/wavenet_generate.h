// What the caller (wavenet_generate.cpp) and the kernels (wavenet_generate.isa.cpp) agree on.
#pragma once

#include "crew.h"
#include "isa.h"

namespace audiogen {

enum class Precision : int { f32, bf16, i8 };           // as in audiogen/ops/wavenet_pack.py
enum class Output : int { softmax, logistics, gaussian };

// Rows and columns are padded to multiples of 16. The layout is described in wavenet_pack.py.
struct Matrix {
  const unsigned char* weights = nullptr;
  const float* scales = nullptr;  // int8: of each row
  const int* sums = nullptr;      // int8: of each row's weights
  long rows = 0, columns = 0;
};

struct GeneratorLayer {
  Matrix taps[3], out, skip;  // taps: oldest first; out has no rows in the last layer
  const float *bias = nullptr, *out_bias = nullptr;
  long dilation = 0, first_slot = 0, slots = 0;
};

// One call. All sizes but `inputs`, `outputs` and `first_kernel` are padded.
struct Generation {
  Precision precision;
  Output output;
  bool vnni, first_tanh;
  long inputs, first_kernel, kernel, channels, gate, skip, hidden, logits, outputs, layers;
  const float *first, *first_bias, *skip_bias, *hidden_bias, *last_bias;
  const GeneratorLayer* layer;
  Matrix hidden_matrix, last_matrix;
  float residual_scale, log_scale_min, temperature;

  long time, slots, position, numbers;
  float* rings;            // (batch, slots, channels)
  float* last;             // (batch, first_kernel)
  const float* random;     // (batch, numbers, time), or null:
  const float* given;      // (batch, time)
  float* samples;          // (batch, time)
  float* parameters;       // (batch, time, outputs), if samples are given
  const float* condition;  // (batch, frames, layers, 2 * gate), rows as those of the taps; or null
  long frames, taps;       // taps 0: frames are held
  const int* first_frame;  // (time)
  const float* band;       // (time, taps)
};

constexpr int most_streams = 4;  // that share one pass over the weights

#define AUDIOGEN_GENERATE                                                                                    \
  long generate_shared_size(const Generation&, long streams);  /* floats */                                 \
  long generate_private_size(const Generation&, long streams); /* floats, for each member */                \
  /* Streams begin .. begin + streams (1, 2 or 4), all steps; in a crew as member 0, who leads, or 1. */     \
  void generate_run(const Generation&, long begin, long streams, float* shared, float* own, Crew&, int member);

AUDIOGEN_EACH_LEVEL(AUDIOGEN_GENERATE)

}  // namespace audiogen
