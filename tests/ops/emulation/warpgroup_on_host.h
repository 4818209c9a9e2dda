// wgmma on the CPU (PTX ISA, "Asynchronous warpgroup-level matrix instructions"), with what makes its faults visible:
//   * the async proxy sees a copy of shared memory of its own, which begins as NaN: what a thread wrote (16 bytes by
//     store_pack, or by a cp.async that it waited for) comes there by that thread's fence.proxy.async;
//   * descriptors are decoded as the manual says, swizzle and all; a base that the swizzle does not fit aborts;
//   * in orders 0, 2, 4 ... a product is made no earlier than it is waited for, in the others as soon as it is issued;
//     either way the sums are NaN from its issue to the wait, and what is written to them meanwhile is an error;
//   * sums that no wgmma is busy with need a wgmma.fence between the last wait and the next wgmma: without it, NaN.
// Of a warpgroup every warp makes its own 16 rows, and nothing but the kernel's own barriers keeps the four together.
#pragma once

#define AUDIOGEN_HAS_WGMMA true

namespace emulation {

/// A matrix in shared memory, as a descriptor says; rows of a, or columns of b, each of K values.
struct Tile {
    uint32_t start, leading, stride, mode;

    explicit Tile(uint64_t descriptor)
        : start((descriptor & 0x3FFF) << 4),
          leading((descriptor >> 16 & 0x3FFF) << 4),
          stride((descriptor >> 32 & 0x3FFF) << 4),
          mode(static_cast<uint32_t>(descriptor >> 62)) {
        const uint32_t pattern = mode == 1 ? 1024 : mode == 2 ? 512 : mode == 3 ? 256 : 128;
        if (descriptor >> 49 & 7) fail("a wgmma descriptor with a base offset");
        if (mode && start % pattern >= pattern / 8) fail("a wgmma tile does not begin where its swizzle does");
    }
    /// Address of byte `byte` of K (below 32) of a row.
    uint32_t address(int row, int byte) const {
        if (mode == 0) return start + row / 8 * stride + byte / 16 * leading + row % 8 * 16 + byte % 16;
        const uint32_t width = mode == 1 ? 128 : mode == 2 ? 64 : 32;
        const uint32_t plain = start + row / 8 * stride + row % 8 * width + byte;
        return plain ^ ((plain >> 7 & (width / 16 - 1)) << 4);
    }
};

/// Sums that wgmma is busy with: the numbers themselves, while the registers show NaN.
struct Sums {
    float* registers[32];
    std::vector<float> values;  // (lane, number)
    int running = 0;
};
struct Product {
    Sums* sums;
    uint64_t a, b;
    void (*make)(const Block&, int warp, const Product&);
    bool made = false;
};
struct WarpgroupState {
    std::vector<std::unique_ptr<Sums>> busy;
    std::vector<Product> open;
    std::vector<std::vector<Product>> committed;
    bool fenced = false;
};

inline std::shared_ptr<WarpgroupState> new_warpgroup_state() { return std::make_shared<WarpgroupState>(); }
inline bool warpgroup_busy(const WarpgroupState& state) { return !state.busy.empty(); }

inline std::vector<unsigned char>& async_view(Block& block) {
    if (block.async_view.empty()) block.async_view.assign(block.shared_bytes, 0xFF);
    return block.async_view;
}

template <class T, int N>
void make_product(const Block& block, int warp, const Product& product) {
    const Tile of_a(product.a), of_b(product.b);
    std::vector<float> b(N * 16);
    auto value = [&](uint32_t address) {
        if (address + sizeof(T) > block.shared_bytes) fail("wgmma reads beyond shared memory");
        T element;
        std::memcpy(&element, block.async_view.data() + address, sizeof(T));
        return to_float(element);
    };
    for (int column = 0; column < N; ++column)
        for (int k = 0; k < 16; ++k) b[k * N + column] = value(of_b.address(column, 2 * k));
    for (int row = 0; row < 16; ++row) {
        std::vector<float> sums(N, 0.0f);
        for (int k = 0; k < 16; ++k) {
            const float a = value(of_a.address(warp % 4 * 16 + row, 2 * k));
            for (int column = 0; column < N; ++column) sums[column] += a * b[k * N + column];
        }
        for (int column = 0; column < N; ++column) {
            const int lane = row % 8 * 4 + column % 8 / 2, at = column / 8 * 4 + row / 8 * 2 + column % 2;
            product.sums->values[lane * (N / 2) + at] += sums[column];
        }
    }
}

constexpr uint32_t kPoison = 0x7FC0BEEFu;

inline void finish(const Block& block, int warp, WarpgroupState& state, Product& product) {
    if (!product.made) product.make(block, warp, product);
    if (--product.sums->running) return;
    const size_t count = product.sums->values.size() / 32;
    for (int lane = 0; lane < 32; ++lane)
        for (size_t at = 0; at < count; ++at) {
            float* to = product.sums->registers[lane] + at;
            uint32_t bits;
            std::memcpy(&bits, to, 4);
            *to = bits == kPoison ? product.sums->values[lane * count + at] : NAN;  // written meanwhile
        }
    state.busy.erase(std::find_if(state.busy.begin(), state.busy.end(),
                                  [&](const auto& sums) { return sums.get() == product.sums; }));
    state.fenced = false;
}

}  // namespace emulation

inline void fence_async_proxy(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (emulation::skipped(file, line)) return;
    emulation::Fiber& fiber = emulation::me();
    std::vector<unsigned char>& view = emulation::async_view(*fiber.home);
    for (const unsigned char* at : fiber.written) std::memcpy(view.data() + (at - fiber.home->shared), at, 16);
    fiber.written.clear();
}

inline void warpgroup_fence(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    static const char name = 0;
    if (emulation::skipped(file, line)) return;
    emulation::Warp& warp = emulation::me().home->warps[emulation::me().warp];
    emulation::warp_wide(&name, nullptr, [&warp](void**) { warp.warpgroup->fenced = true; });
}

inline void warpgroup_commit(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    static const char name = 0;
    if (emulation::skipped(file, line)) return;
    emulation::Warp& warp = emulation::me().home->warps[emulation::me().warp];
    emulation::warp_wide(&name, nullptr, [&warp](void**) {
        warp.warpgroup->committed.push_back(std::move(warp.warpgroup->open));
        warp.warpgroup->open.clear();
    });
}

template <int kLeft>
void warpgroup_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    static const char name = 0;
    if (emulation::skipped(file, line)) return;
    emulation::Fiber& fiber = emulation::me();
    emulation::Warp& warp = fiber.home->warps[fiber.warp];
    emulation::warp_wide(&name, nullptr, [&](void**) {
        auto& groups = warp.warpgroup->committed;
        while (static_cast<int>(groups.size()) > kLeft) {
            for (emulation::Product& product : groups.front())
                emulation::finish(*fiber.home, fiber.warp, *warp.warpgroup, product);
            groups.erase(groups.begin());
        }
    });
}

inline void pin(float&) {}

/// d[4 j + i] of lane 4 g + t is row g + 8 (i / 2) of the warp's 16, column 8 j + 2 t + i % 2.
template <class T, int N>
void warpgroup_multiply(float* d, uint64_t a, uint64_t b) {
    static const char name = 0;
    struct Slot {
        float* d;
        uint64_t a, b;
    } slot{d, a, b};
    emulation::Fiber& fiber = emulation::me();
    emulation::WarpgroupState& state = *fiber.home->warps[fiber.warp].warpgroup;
    emulation::async_view(*fiber.home);
    emulation::warp_wide(&name, &slot, [&](void** slots) {
        const Slot* first = static_cast<Slot*>(slots[0]);
        auto found = std::find_if(state.busy.begin(), state.busy.end(),
                                  [&](const auto& sums) { return sums->registers[0] == first->d; });
        if (found == state.busy.end()) {
            auto sums = std::make_unique<emulation::Sums>();
            sums->values.resize(32 * (N / 2));
            for (int lane = 0; lane < 32; ++lane) {
                float* own = sums->registers[lane] = static_cast<Slot*>(slots[lane])->d;
                for (int at = 0; at < N / 2; ++at) {
                    sums->values[lane * (N / 2) + at] = state.fenced ? own[at] : NAN;
                    std::memcpy(own + at, &emulation::kPoison, 4);
                }
            }
            state.busy.push_back(std::move(sums));
            found = std::prev(state.busy.end());
        }
        for (int lane = 0; lane < 32; ++lane) {
            const Slot* own = static_cast<Slot*>(slots[lane]);
            if (own->a != first->a || own->b != first->b) emulation::fail("lanes of a warp name different tiles");
        }
        emulation::Product product{found->get(), first->a, first->b, emulation::make_product<T, N>};
        ++product.sums->running;
        if (emulation::machine().order % 2) {
            product.make(*fiber.home, fiber.warp, product);
            product.made = true;
        }
        state.open.push_back(product);
    });
}
