// Dilated convolutions of 2 and 3 taps, two steps at a time (Winograd's F(2, kernel): Lavin and Gray 2016, section 4.1).
//
// Steps t and t + d of a convolution with dilation d share what they read: x0 = x[t], x1 = x[t + d] and so on, counted
// from the first tap's. Sums and differences of rows of x, made once, bring both out of kernel + 1 products where one
// step after the other takes 2 * kernel:
//   kernel 3: q = (x1 + x2)(g0 + g1 + g2)/2, r = (x2 - x1)(g0 - g1 + g2)/2
//             y[t] = q + r + (x0 - x2) g0          y[t + d] = q - r + (x3 - x1) g2        4 products for 6
//   kernel 2: q = x1 (g0 + g1)
//             y[t] = q + (x0 - x1) g0              y[t + d] = q + (x2 - x1) g1            3 products for 4
// Neither reads what its taps do not. The gradient of weights takes the same products: of g's sums first, then of g.
//
// Pairs of an item are counted in blocks of 2 d steps: pair p is step p / d * 2 d + p % d and the one d later. A tile is
// a run of pairs: whole blocks where they are short, else a part of one. Its rows are the first steps of its pairs,
// padded to whole groups, then the second ones.
#pragma once

#include "tile.h"

namespace audiogen::AUDIOGEN_ISA {

constexpr long most_pairs = 96;  // of a tile; a multiple of steps_down

inline Pairing pair_up(long batch, long time, long dilation, long threads) {
  Pairing p{time, dilation};
  const long blocks = (time + 2 * dilation - 1) / (2 * dilation), rest = time - (blocks - 1) * 2 * dilation;
  p.pairs = (blocks - 1) * dilation + (rest < dilation ? rest : dilation);
  const long share = batch * p.pairs / threads, most = share < 12 ? 12 : share > most_pairs ? most_pairs : share;
  if (dilation > most) {
    p.span = most < 48 ? most : 48;
    p.per_block = (dilation + p.span - 1) / p.span;
    p.tiles = (blocks - 1) * p.per_block + ((rest < dilation ? rest : dilation) + p.span - 1) / p.span;
  } else {
    for (long span = dilation; span <= most; span += dilation) {  // the least padding, and near 48
      const long waste = up(span, steps_down) * 1000 / span, old = p.span ? up(p.span, steps_down) * 1000 / p.span : 9999;
      if (waste < old || (waste == old && labs(span - 48) < labs(p.span - 48))) p.span = span;
    }
    p.tiles = (p.pairs + p.span - 1) / p.span;
  }
  p.rows = up(p.span < p.pairs ? p.span : p.pairs, steps_down);
  return p;
}

// Where the rows of a tile lie in time.
struct Tile {
  long item, rows, valid;  // valid: pairs before the padding
  int pieces;              // runs of steps: one, or one for each half
  struct {
    long start, count, spot;  // spot: the first one's place among all steps of the tile
  } piece[2];
  long steps[2 * most_pairs], spots[2 * most_pairs];  // of each row; step -1: none
};

inline void find_tile(Tile& tile, const Pairing& p, long number) {
  const long d = p.dilation, index = number % p.tiles;
  tile.item = number / p.tiles;
  long first = index * p.span, stop = first + p.span;
  if (p.per_block) {
    first = index / p.per_block * d + index % p.per_block * p.span;
    stop = first + p.span < first / d * d + d ? first + p.span : first / d * d + d;
  }
  stop = stop < p.pairs ? stop : p.pairs;
  tile.valid = stop - first, tile.rows = up(tile.valid, steps_down);
  tile.pieces = p.per_block ? 2 : 1;
  const auto clip = [&](long t) { return t < p.time ? t : p.time; };
  const long start = first / d * 2 * d + first % d;
  if (p.per_block) {
    tile.piece[0] = {start, tile.valid, 0};
    tile.piece[1] = {start + d, clip(start + d + tile.valid) - clip(start + d), tile.rows};
  } else {
    tile.piece[0] = {start, clip(start + (tile.valid + d - 1) / d * 2 * d) - start, 0};
  }
  long t = start, left = d - first % d;  // to the end of the block
  for (long m = 0; m < tile.rows; ++m) {
    for (long half = 0; half < 2; ++half) {
      const long step = t + half * d, r = half * tile.rows + m;
      const bool there = m < tile.valid && step < p.time;
      tile.steps[r] = there ? step : -1;
      tile.spots[r] = !there ? -1 : p.per_block ? r : step - start;
    }
    ++t;
    if (--left == 0) left = d, t += d;
  }
}

// Whether vectors may be read and written where a row of the view lies.
template <class Real>
INLINE bool direct(const View& view, long channels) {
  const bool same = view.type == (sizeof(Real) == 8 ? Type::f64 : Type::f32);
  return same && view.channel == 1 && channels % Simd<Real>::width == 0;
}

// rows[r] <- where row r of the tile lies: in the view, or in `staging` (2 * rows x padded channels); else `none`.
template <class Real, class Row>
void point(Row* rows, const View& view, const Tile& tile, long channels, Real* staging, Row none) {
  const bool there = direct<Real>(view, channels);
  Real* base = there ? (Real*)view.data + tile.item * view.batch : staging;
  const long pitch = there ? view.step : padded<Real>(channels), *at = there ? tile.steps : tile.spots;
  for (long r = 0; r < 2 * tile.rows; ++r) rows[r] = view.data && at[r] >= 0 ? base + at[r] * pitch : none;
}

// As `point`, and what lies elsewhere is read into `staging`.
template <class Real>
void fetch(const Real** rows, const View& view, const Tile& tile, long channels, Real* staging, const Real* none) {
  point<Real>(rows, view, tile, channels, staging, none);
  if (!view.data || direct<Real>(view, channels)) return;
  const long pitch = padded<Real>(channels);
  for (int i = 0; i < tile.pieces; ++i)
    read_tile(staging + tile.piece[i].spot * pitch, pitch, view, tile.item, tile.piece[i].start, tile.piece[i].count,
              channels);
}

// What was written to `staging` goes where it belongs.
template <class Real>
void put(const View& view, const Tile& tile, long channels, const Real* staging) {
  if (!view.data || direct<Real>(view, channels)) return;
  const long pitch = padded<Real>(channels);
  for (int i = 0; i < tile.pieces; ++i)
    write_tile(staging + tile.piece[i].spot * pitch, pitch, view, tile.item, tile.piece[i].start, tile.piece[i].count,
               channels);
}

inline long pair_window(const Pairing& p, long kernel) {  // rows that `transform` may need
  return p.per_block ? (kernel + 1) * p.rows : 2 * p.span + kernel * p.dilation;
}

// The sums and differences of view + shift that the products take: (kernel + 1, rows, channels) in the order q, r, first,
// second. Zeros outside [0, time), without the shift. reach: from a step to what its first tap reads. zeros: `channels`.
template <class Real>
void transform(Real* to, const View& view, const Real* shift, const Tile& tile, const Pairing& p, long channels,
               long kernel, long reach, Real* window, const Real* zeros) {
  const Real* rows[4][most_pairs];
  const bool same = view.type == (sizeof(Real) == 8 ? Type::f64 : Type::f32);
  const long start = tile.steps[0];
  if (same && view.channel == 1 && !shift) {
    const Real* base = (const Real*)view.data + tile.item * view.batch;
    for (long tap = 0; tap <= kernel; ++tap)
      for (long m = 0; m < tile.rows; ++m) {
        const long t = tile.steps[m] + reach + tap * p.dilation;
        rows[tap][m] = m < tile.valid && t >= 0 && t < p.time ? base + t * view.step : zeros;
      }
  } else {
    const auto fill = [&](Real* out, long first, long count) {
      const long before = first < 0 ? (-first < count ? -first : count) : 0;
      const long stop = first + count > p.time ? (p.time - first > before ? p.time - first : before) : count;
      memset(out, 0, before * channels * sizeof(Real));
      read_tile(out + before * channels, channels, view, tile.item, first + before, stop - before, channels);
      if (shift)
        for (long t = before; t < stop; ++t)
          for (long c = 0; c < channels; ++c) out[t * channels + c] += shift[c];
      memset(out + stop * channels, 0, (count - stop) * channels * sizeof(Real));
    };
    if (!p.per_block) fill(window, start + reach, tile.steps[tile.valid - 1] - start + 1 + kernel * p.dilation);
    for (long tap = 0; tap <= kernel; ++tap) {
      if (p.per_block) fill(window + tap * tile.valid * channels, start + reach + tap * p.dilation, tile.valid);
      for (long m = 0; m < tile.rows; ++m) {
        const long row = p.per_block ? tap * tile.valid + m : tile.steps[m] - start + tap * p.dilation;
        rows[tap][m] = m < tile.valid ? window + row * channels : zeros;
      }
    }
  }
  const long size = tile.rows * channels;
  for (long m = 0; m < tile.rows; ++m, to += channels) {
    const Real *x0 = rows[0][m], *x1 = rows[1][m], *x2 = rows[2][m], *x3 = rows[kernel][m];
    if (kernel == 3) {
#pragma GCC ivdep
      for (long c = 0; c < channels; ++c) {
        to[c] = x1[c] + x2[c], to[size + c] = x2[c] - x1[c];
        to[2 * size + c] = x0[c] - x2[c], to[3 * size + c] = x3[c] - x1[c];
      }
    } else {
#pragma GCC ivdep
      for (long c = 0; c < channels; ++c)
        to[c] = x1[c], to[size + c] = x0[c] - x1[c], to[2 * size + c] = x2[c] - x1[c];
    }
  }
}

// Weight number `product` of the kernel + 1 that take the place of tap(0 .. kernel - 1).
template <class Real, class Tap>
INLINE Real product_weight(long kernel, long product, Tap tap) {
  if (kernel == 2) return product == 0 ? tap(0) + tap(1) : tap(product - 1);
  if (product >= 2) return tap(product == 2 ? 0 : 2);
  return Real(0.5) * (tap(0) + tap(2) + (product == 0 ? tap(1) : -tap(1)));
}

// For groups of steps_down pairs: done(half, first row in the half, sums), where sums are `begin`'s, the products' added.
// `panel`: one block of N vectors, (kernel + 1, inner) rows.
template <class Real, int N, class Begin, class Done>
INLINE void convolve_pairs(const Real* x, long rows, long inner, long kernel, const Real* panel, Begin begin, Done done) {
  typedef Simd<Real> S;
  typedef typename S::Vector Sums[steps_down][N];
  const long pitch = N * S::width, size = rows * inner, block = inner * pitch;
  for (long m = 0; m < rows; m += steps_down) {
    const Real* from = x + m * inner;
    Sums q = {}, r = {};
    multiply<Real, steps_down, N>(q, from, inner, 1, panel, pitch, inner);
    if (kernel == 3) multiply<Real, steps_down, N>(r, from + size, inner, 1, panel + block, pitch, inner);
    Sums first, second;
    begin(0, m, first);
    begin(1, m, second);
#pragma GCC unroll 6
    for (int row = 0; row < steps_down; ++row)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) first[row][n] += q[row][n] + r[row][n], second[row][n] += q[row][n] - r[row][n];
    const long last = kernel - 1;
    multiply<Real, steps_down, N>(first, from + last * size, inner, 1, panel + last * block, pitch, inner);
    done(0, m, first);
    multiply<Real, steps_down, N>(second, from + kernel * size, inner, 1, panel + kernel * block, pitch, inner);
    done(1, m, second);
  }
}

}  // namespace audiogen::AUDIOGEN_ISA
