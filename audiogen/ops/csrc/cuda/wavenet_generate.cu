// audiogen::wavenet_generate for CUDA tensors. The kernel is in wavenet_generate.cuh.
#include "wavenet_generate.cuh"
#include "torch_glue.cuh"

#include <torch/headeronly/util/Exception.h>

namespace audiogen {
namespace {

using Kernel = void (*)(Generation);

template <template <int, bool> class Product, int kPrecision>
Kernel kernel_of(bool resident, bool cluster) {
    return resident ? (cluster ? generate_kernel<Product<kPrecision, true>, true, true>
                               : generate_kernel<Product<kPrecision, true>, true, false>)
                    : generate_kernel<Product<kPrecision, false>, false, false>;
}
Kernel kernel_of(int precision, int width, bool resident, bool cluster) {
#if !defined(AUDIOGEN_ONE_TYPE) || AUDIOGEN_ONE_TYPE == 2
    if (precision == kBfloat16)
        return width == 1 ? kernel_of<Multiply, kBfloat16>(resident, cluster)
                          : kernel_of<MultiplyTile, kBfloat16>(resident, cluster);
#endif
#if !defined(AUDIOGEN_ONE_TYPE) || AUDIOGEN_ONE_TYPE == 3
    if (precision == kInt8)
        return width == 1 ? kernel_of<Multiply, kInt8>(resident, cluster)
                          : kernel_of<MultiplyTile, kInt8>(resident, cluster);
#endif
#if !defined(AUDIOGEN_ONE_TYPE) || AUDIOGEN_ONE_TYPE == 1
    return kernel_of<Multiply, kFloat32>(resident, cluster);
#else
    return nullptr;
#endif
}

struct Way {
    Generation p;
    bool cluster;
    Kernel kernel;
    int64_t cost;  // in thirds of the time that one stream takes for a layer
};

/// The best division for tiles of base.width streams. Clusters where a chain fits into one, else cooperative blocks
/// with weights in shared memory, else with weights in L2. Empty: not even one tile fits.
std::optional<Way> find_way(const Generation& base, const OnDeviceOf& device) {
    for (const bool cluster : {true, false}) {
        for (const bool resident : {true, false}) {
            if (cluster && (!resident || device.capability() < 90)) continue;
            const Kernel kernel = kernel_of(base.precision, base.width, resident, cluster);
            auto attempt = [&](int streams) -> std::optional<Way> {
                Generation p = base;
                if (!divide(p, cluster, resident, streams, device.shared_limit(), device.multiprocessors()))
                    return std::nullopt;
                if (cluster) {
                    if (p.blocks() > kMostBlocks) return std::nullopt;
                    const int most = clusters_at_once(kernel, dim3(p.threads), SharedPlan(p).bytes, p.blocks());
                    p.chains = smaller(p.chains, most);
                }
                p.chains = smaller(p.chains, p.tiles());
                if (p.chains <= 0) return std::nullopt;
                const int64_t launches = (p.tiles() + p.chains * p.streams - 1) / (p.chains * p.streams);
                const int64_t down = p.layers + 2 * p.blocks(),
                              busiest = static_cast<int64_t>(p.streams) * (p.block_layers + 1);
                const int64_t steps = launches * (down > busiest ? down : busiest);
                return Way{p, cluster, kernel, steps * (p.width == 1 ? 3 : 4)};  // a tile takes a third longer
            };
            // Streams of a chain follow each other: more of them fill it, until they wait for the busiest block; but
            // their inboxes take room from weights.
            std::optional<Way> best;
            for (int streams = 1; streams < 2 * base.tiles() && streams <= 256; streams *= 2) {
                const std::optional<Way> way = attempt(smaller(streams, base.tiles()));
                if (!way) break;
                if (!best || way->cost < best->cost) best = way;
            }
            if (best) return best;
        }
    }
    return std::nullopt;
}

/// Streams one by one, or 8 together on tensor cores (bfloat16, int8), whichever costs less. AUDIOGEN_GENERATION: auto;
/// streams or tiles, to compare: an error where it is not to be had.
std::optional<Way> find_way(Generation base, const OnDeviceOf& device, const std::string& wish) {
    STD_TORCH_CHECK(wish == "auto" || wish == "streams" || wish == "tiles", "AUDIOGEN_GENERATION=", wish,
                    ": one of auto, streams, tiles is needed");
    std::optional<Way> best;
    for (const int width : {1, kTileStreams}) {
        if (wish == (width == 1 ? "tiles" : "streams") || (width > 1 && base.precision == kFloat32)) continue;
        base.width = width;
        const std::optional<Way> way = find_way(base, device);
        if (way && (!best || way->cost < best->cost)) best = way;
    }
    STD_TORCH_CHECK(best || wish == "auto", "AUDIOGEN_GENERATION=", wish,
                    ": this network, in this precision, does not run so on this chip");
    return best;
}

std::tuple<Tensor, Tensor> generate(Tensor blob, std::vector<int64_t> plan, Tensor rings, Tensor last, Tensor position,
                                    Maybe random, Maybe given, Maybe condition, Maybe first, Maybe band,
                                    double temperature, double residual_scale, double log_scale_min) {
    const OnDeviceOf device(rings);
    const int layers = static_cast<int>(plan.size()) - 11;
    auto by_reference = [&] {
        return reference<std::tuple<Tensor, Tensor>>("audiogen::wavenet_generate_reference", blob, plan, rings, last,
                                                     position, random, given, condition, first, band, temperature,
                                                     residual_scale, log_scale_min);
    };
    if (layers < 1 || layers > kMostLayers || plan[0] > kInt8 || rings.scalar_type() != ScalarType::Float ||
        last.size(0) == 0 || !rings.is_contiguous() || !last.is_contiguous() || !aligned(blob))
        return by_reference();

    Generation p = {};
    auto wide = [](int64_t size) { return static_cast<int>((size + 15) / 16 * 16); };
    p.precision = plan[0], p.output = plan[1], p.inputs = plan[2], p.first_kernel = plan[3], p.first_tanh = plan[4],
    p.kernel = plan[5];
    p.channels = plan[6], p.gate = plan[7], p.skip = plan[8], p.hidden = plan[9], p.outputs = plan[10];
    p.layers = layers;
    for (int layer = 0; layer < layers; ++layer) p.dilations[layer] = plan[11 + layer];
    p.wide_channels = wide(p.channels), p.wide_gate = wide(p.gate), p.wide_skip = wide(p.skip),
    p.wide_hidden = wide(p.hidden);
    p.wide_outputs = wide(p.outputs);
    STD_TORCH_CHECK(blob.numel() == p.last_bias_offset() + p.vector_bytes(p.wide_outputs), "packed weights of ",
                    blob.numel(), " bytes: this kernel reads another layout; build it again");
    const Maybe numbers = contiguous(random), told = contiguous(given), frames = contiguous(condition),
                rows = contiguous(first);
    const Maybe weights = contiguous(band);
    p.batch = last.size(0), p.time = given ? given->size(1) : random->size(2);
    p.blob = data<unsigned char>(blob), p.rings = data<float>(rings), p.slots = rings.size(1),
    p.last = data<float>(last);
    p.position = data<int64_t>(position), p.random = data<float>(numbers), p.given = data<float>(told);
    p.condition = data<float>(frames), p.first = data<int>(rows), p.band = data<float>(weights);
    p.numbers = random ? random->size(1) : 0, p.taps = band ? band->size(1) : 0,
    p.frames = condition ? condition->size(3) : 0;
    p.temperature = temperature, p.residual_scale = residual_scale, p.log_scale_min = log_scale_min;
#ifdef AUDIOGEN_EMULATED
    const char* threads = std::getenv("AUDIOGEN_EMULATION_THREADS");
    p.threads = threads ? std::atoi(threads) : 64;
#else
    p.threads = 512;
#endif
    const Tensor samples = empty(last, {p.batch, given ? 0 : p.time}),
                 parameters = empty(last, {p.batch, given ? p.time : 0, p.outputs});
    p.samples = data<float>(samples), p.parameters = data<float>(parameters);
    const char* wish = std::getenv("AUDIOGEN_GENERATION");
    const std::optional<Way> way = find_way(p, device, wish ? wish : "auto");
    if (!way) return by_reference();
    if (p.time == 0) return {samples, parameters};

    p = way->p;
    const Tensor ready =
        floats(last, {p.width == 1 ? 0 : static_cast<int64_t>(p.tiles()) * p.layers * 2 * p.wide_gate * p.width});
    p.ready = data<float>(ready);
    for (p.first_tile = 0; p.first_tile < p.tiles(); p.first_tile += way->p.chains * way->p.streams) {
        p.chains = smaller(p.tiles() - p.first_tile, way->p.chains);
        const Tensor inboxes = torch::stable::new_zeros(
            last,
            std::vector<int64_t>{
                way->cluster ? 0 : static_cast<int64_t>(p.chains) * p.blocks() * p.streams * p.inbox_words},
            ScalarType::Long);
        p.inboxes = way->cluster ? nullptr : reinterpret_cast<uint64_t*>(data<int64_t>(inboxes));
        launch_together(way->kernel, dim3(p.chains * p.blocks()), dim3(p.threads), SharedPlan(p).bytes,
                        way->cluster ? p.blocks() : 1, device.stream(), p);
    }
    launch(advance_kernel, dim3(1), dim3(32), 0, device.stream(), data<int64_t>(position), p.time);
    return {samples, parameters};
}

}  // namespace
}  // namespace audiogen

AUDIOGEN_LIBRARY(m) { m.impl("wavenet_generate", TORCH_BOX(&audiogen::generate)); }
