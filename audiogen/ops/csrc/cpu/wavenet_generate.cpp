// audiogen::wavenet_generate on CPUs: takes the tensors apart, and gives streams and rows to threads.
#include "wavenet_generate.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "crew_room.h"

namespace audiogen {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

long padded(long size) { return (size + 15) / 16 * 16; }

// Reads the packed block from its beginning to its end; see wavenet_pack.py for the order.
class Reader {
 public:
  Reader(const Tensor& blob, Precision precision)
      : at_(static_cast<const unsigned char*>(blob.const_data_ptr())), left_(blob.numel()), precision_(precision) {}

  const float* vector(long count) { return static_cast<const float*>(take(count * 4)); }

  Matrix matrix(long rows, long columns) {
    static constexpr long bytes[] = {4, 2, 1};
    Matrix m;
    m.rows = rows, m.columns = columns;
    m.weights = static_cast<const unsigned char*>(take(rows * columns * bytes[int(precision_)]));
    if (precision_ == Precision::i8) {
      m.scales = vector(rows);
      m.sums = static_cast<const int*>(take(rows * 4));
    }
    return m;
  }

  long left() const { return left_; }

 private:
  const void* take(long bytes) {
    bytes = (bytes + 63) / 64 * 64;
    STD_TORCH_CHECK(bytes <= left_, "wavenet_generate: the packed weights are too short for this plan");
    const void* here = at_;
    at_ += bytes, left_ -= bytes;
    return here;
  }

  const unsigned char* at_;
  long left_;
  Precision precision_;
};

template <class T>
T* data(const Tensor& tensor, ScalarType type, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous(), "wavenet_generate: ", name,
                  " must be contiguous and of its own type");
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}

Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

// condition (batch, layers, 2 * gate, frames), frames begin .. end -> (batch, frames, layers, 2 * padded gate), with the
// rows of tanh and sigmoid 16 by 16 in turn.
void arrange(const float* from, float* to, long batch, long layers, long gate, long all_frames, long begin, long end) {
  const long rows = 2 * padded(gate), frames = end - begin;
  torch::stable::parallel_for(0, batch * layers, 1, [&](int64_t first, int64_t stop) {
    for (int64_t item = first; item < stop; ++item) {
      const long stream = item / layers, layer = item % layers;
      for (long row = 0; row < rows; ++row) {
        const long half = row / 16 % 2, channel = row / 32 * 16 + row % 16;
        const float* line = from + ((item * 2 + half) * gate + channel) * all_frames + begin;
        float* out = to + (stream * frames * layers + layer) * rows + row;
        for (long frame = 0; frame < frames; ++frame) out[frame * layers * rows] = channel < gate ? line[frame] : 0.0f;
      }
    }
  });
}

// Two threads may split the rows where one core's nearest caches are too small for the weights, so that reading them is
// what takes the time; below, meeting once a layer costs more than it saves. Whether they do: crew.cpp.
bool worth_a_crew(long bytes) {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long second_cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  static const long second_cache = 0;
#endif
  return bytes >= (second_cache > 0 && second_cache < 1 << 20 ? second_cache : 1 << 20);
}

struct Piece {
  long begin, streams;
};

std::vector<Piece> pieces(long batch, long threads) {
  const long share = (batch + threads - 1) / threads;
  std::vector<Piece> found;
  for (long thread = 0; thread * share < batch; ++thread) {
    long begin = thread * share, end = begin + share < batch ? begin + share : batch;
    for (long streams : {4, 2, 1})
      for (; end - begin >= streams; begin += streams) found.push_back({begin, streams});
  }
  return found;
}

void run(const Generation& g, long batch, long bytes, const Tensor& like) {
  const long threads = torch::stable::get_num_threads();
  const long groups = (2 * g.gate + 63) / 64;  // a member needs a group of its own
  const bool crewed = batch == 1 && threads > 1 && groups > 1 && worth_a_crew(bytes);
  const std::vector<Piece> work = pieces(batch, crewed ? 1 : threads);
  const long shared = AUDIOGEN_CHOOSE(generate_shared_size)(g, most_streams);
  const long own = AUDIOGEN_CHOOSE(generate_private_size)(g, most_streams);
  // All that the loops need. 32 floats more bring each part to a cache line of its own.
  const long part = (shared + (crewed ? 2 : 1) * own + 47) / 16 * 16;
  Tensor scratch = torch::stable::new_empty(like, {long(work.size()) * part + 16}, ScalarType::Float);
  float* floats = static_cast<float*>(scratch.mutable_data_ptr());
  floats = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(floats) + 63) / 64 * 64);
  const auto generate = AUDIOGEN_CHOOSE(generate_run);

  if (!crewed) {
    torch::stable::parallel_for(0, int64_t(work.size()), 1, [&](int64_t first, int64_t stop) {
      for (int64_t i = first; i < stop; ++i) {
        Crew alone;
        generate(g, work[i].begin, work[i].streams, floats + i * part, floats + i * part + shared, alone, 0);
      }
    });
    return;
  }
  // Whoever comes first leads, and needs nobody: where one thread gets both parts, the second finds nothing left to do.
  CrewRoom room;
  Crew crew;
  crew.room = &room;
  std::atomic<int> comers{0};
  torch::stable::parallel_for(0, 2, 1, [&](int64_t first, int64_t stop) {
    for (int64_t i = first; i < stop; ++i) {
      const int member = comers.fetch_add(1);
      generate(g, 0, 1, floats, floats + shared + member * own, crew, member);
    }
  });
}

std::tuple<Tensor, Tensor> wavenet_generate(
    const Tensor blob, std::vector<int64_t> plan, Tensor rings, Tensor last, Tensor position,
    std::optional<Tensor> random, std::optional<Tensor> given, std::optional<Tensor> condition,
    std::optional<Tensor> first, std::optional<Tensor> band, double temperature, double residual_scale,
    double log_scale_min) {
  STD_TORCH_CHECK(plan.size() > 11 && plan[0] >= 0 && plan[0] < 3,
                  "wavenet_generate: the kernel takes float32, bfloat16 and int8 weights");
  STD_TORCH_CHECK(random.has_value() != given.has_value(), "wavenet_generate: random or given, and not both");
  Generation g{};
  g.precision = Precision(plan[0]), g.output = Output(plan[1]);
#if defined(AUDIOGEN_EMULATION)
  g.vnni = !getenv("AUDIOGEN_NO_VNNI");
#elif defined(AUDIOGEN_X86)
  g.vnni = __builtin_cpu_supports("avx512vnni");
#endif
  g.inputs = plan[2], g.first_kernel = plan[3], g.first_tanh = plan[4], g.kernel = plan[5];
  const long gate = plan[7];
  g.channels = padded(plan[6]), g.gate = padded(gate), g.skip = padded(plan[8]), g.hidden = padded(plan[9]);
  g.outputs = plan[10], g.logits = padded(g.outputs), g.layers = long(plan.size()) - 11;
  g.temperature = float(temperature), g.residual_scale = float(residual_scale), g.log_scale_min = float(log_scale_min);

  data<unsigned char>(blob, ScalarType::Byte, "blob");
  Reader reader(blob, g.precision);
  g.first = reader.vector(g.first_kernel * g.inputs * g.channels);
  g.first_bias = reader.vector(g.channels);
  std::vector<GeneratorLayer> layers(g.layers);
  for (long i = 0; i < g.layers; ++i) {
    GeneratorLayer& l = layers[i];
    l.dilation = plan[11 + i], l.slots = l.dilation * (g.kernel - 1), l.first_slot = g.slots;
    g.slots += l.slots;
    for (long tap = g.kernel; tap-- > 0;) l.taps[tap] = reader.matrix(2 * g.gate, g.channels);
    l.bias = reader.vector(2 * g.gate);
    if (i + 1 < g.layers) {
      l.out = reader.matrix(g.channels, g.gate);
      l.out_bias = reader.vector(g.channels);
    }
    l.skip = reader.matrix(g.skip, g.gate);
  }
  g.layer = layers.data();
  g.skip_bias = reader.vector(g.skip);
  g.hidden_matrix = reader.matrix(g.hidden, g.skip);
  g.hidden_bias = reader.vector(g.hidden);
  g.last_matrix = reader.matrix(g.logits, g.hidden);
  g.last_bias = reader.vector(g.logits);
  STD_TORCH_CHECK(reader.left() == 0, "wavenet_generate: the packed weights are too long for this plan");

  const long batch = last.size(0);
  g.rings = data<float>(rings, ScalarType::Float, "rings");
  g.last = data<float>(last, ScalarType::Float, "last");
  int64_t* now = data<int64_t>(position, ScalarType::Long, "position");
  g.position = *now;
  STD_TORCH_CHECK(rings.numel() == batch * g.slots * g.channels && last.numel() == batch * g.first_kernel &&
                      position.numel() == 1 && g.position >= 0,
                  "wavenet_generate: the state was made for another network");
  g.numbers = g.output == Output::logistics ? 2 : 1;
  std::optional<Tensor> kept, kept_condition;
  if (random) {
    kept = dense(*random);
    g.time = kept->size(2);
    STD_TORCH_CHECK(kept->numel() == batch * g.numbers * g.time, "wavenet_generate: random is (batch, numbers, time)");
    g.random = data<float>(*kept, ScalarType::Float, "random");
  } else {
    kept = dense(*given);
    g.time = kept->size(1);
    STD_TORCH_CHECK(kept->numel() == batch * g.time, "wavenet_generate: given is (batch, time)");
    g.given = data<float>(*kept, ScalarType::Float, "given");
  }
  Tensor samples = torch::stable::new_empty(last, {batch, random ? g.time : 0});
  Tensor parameters = torch::stable::new_empty(last, {batch, random ? 0 : g.time, g.outputs});
  g.samples = static_cast<float*>(samples.mutable_data_ptr());
  g.parameters = static_cast<float*>(parameters.mutable_data_ptr());
  if (batch == 0 || g.time == 0) return {samples, parameters};

  std::optional<Tensor> kept_first, kept_band;
  std::vector<int> shifted;
  if (condition) {
    kept_condition = dense(*condition);
    const long frames = kept_condition->size(3);
    STD_TORCH_CHECK(kept_condition->numel() == batch * g.layers * 2 * gate * frames,
                    "wavenet_generate: condition is (batch, layers, 2 * gate, frames)");
    long begin = 0, end = frames;
    if (first && band) {
      kept_first = dense(*first), kept_band = dense(*band);
      g.taps = kept_band->size(1);
      const int* steps = data<int>(*kept_first, ScalarType::Int, "first");
      STD_TORCH_CHECK(kept_first->numel() == g.time && kept_band->numel() == g.time * g.taps && g.taps > 0,
                      "wavenet_generate: a band of (time, taps) is needed");
      begin = frames, end = 0;
      for (long t = 0; t < g.time; ++t) {
        STD_TORCH_CHECK(steps[t] >= 0 && steps[t] + g.taps <= frames,
                        "wavenet_generate: the band leaves the frames of the condition");
        begin = steps[t] < begin ? steps[t] : begin;
        end = steps[t] + g.taps > end ? steps[t] + g.taps : end;
      }
      shifted.resize(g.time);  // a stream gives all its frames with each call: only those in use are arranged
      for (long t = 0; t < g.time; ++t) shifted[t] = int(steps[t] - begin);
      g.first_frame = shifted.data();
      g.band = data<float>(*kept_band, ScalarType::Float, "band");
    } else {
      STD_TORCH_CHECK(frames > 0 && g.time % frames == 0, "wavenet_generate: frames must divide time");
    }
    g.frames = end - begin;
    const float* numbers = data<float>(*kept_condition, ScalarType::Float, "condition");
    Tensor arranged = torch::stable::new_empty(last, {batch * g.frames * g.layers * 2 * g.gate});
    arrange(numbers, static_cast<float*>(arranged.mutable_data_ptr()), batch, g.layers, gate, frames, begin, end);
    kept_condition = arranged;
    g.condition = static_cast<const float*>(arranged.const_data_ptr());
  }
  run(g, batch, blob.numel(), last);
  *now += g.time;
  return {samples, parameters};
}

}  // namespace
}  // namespace audiogen

STABLE_TORCH_LIBRARY_IMPL(audiogen, CPU, m) { m.impl("wavenet_generate", TORCH_BOX(&audiogen::wavenet_generate)); }
