// Passes through small dense networks on a CPU. What PyTorch does layer by layer, each time over the whole batch and
// through memory, is done here for a block of rows from the first layer to the last, while it is in the cache.
//
// Matrices are row-major; "ld" is the distance between rows, in numbers. An index (may be null) names the row that
// stands for row i. For a given number of threads, results are always the same. The interface is plain C, for ctypes:
// library.py.
//
// A product is made tile by tile: a tile of the result stays in registers while both operands stream by. The right
// operand is first packed into panels as wide as a tile, by all threads together. With bfloat16 matrix units (AMX),
// both operands are rounded to bfloat16 when they are packed; sums stay float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#include <vector>

#ifdef DOUBLE
using Real = double;
#else
using Real = float;
#endif
#if !defined(DOUBLE) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define MATRIX_UNITS
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64, TILE_ROWS = 12;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32, TILE_ROWS = 6;
#else
constexpr int64_t VECTOR_BYTES = 16, TILE_ROWS = 6;
#endif
constexpr int64_t LANES = VECTOR_BYTES / sizeof(Real), TILE = 2 * LANES;  // numbers in a vector; columns of a tile
constexpr int64_t BLOCK_ROWS = 96;  // that pass through all layers together: a multiple of TILE_ROWS, and of 32 (AMX)
constexpr int64_t NARROW = 4;  // up to so many columns, a result is made of dot products

using Vector = Real __attribute__((vector_size(VECTOR_BYTES)));
using LooseVector = Real __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(Real))));  // at any address

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Range {
    int64_t first, last;
};

// This thread's part of `count`.
Range share(int64_t count) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    return {count * thread / threads, count * (thread + 1) / threads};
}

// Memory that is kept from call to call.
class Scratch {
  public:
    ~Scratch() { std::free(data_); }
    template <class T = Real> T* get(int64_t count) {
        const size_t bytes = ceil_div(count * sizeof(T), 64) * 64;
        if (bytes > size_) {
            std::free(data_);
            data_ = std::aligned_alloc(64, bytes);
            size_ = bytes;
        }
        return static_cast<T*>(data_);
    }

  private:
    void* data_ = nullptr;
    size_t size_ = 0;
};
thread_local Scratch weights_scratch, block_scratch, panels_scratch, strip_scratch, sums_scratch;

int64_t row_of(const int64_t* index, int64_t row) { return index ? index[row] : row; }

inline Real dot(const Real* a, const Real* b, int64_t count) {
    Real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

// ------------------------------------------------------------------ activations

enum Activation : int { NONE, RELU, TANH, SILU };

template <class Function> void each(int64_t count, Function function) {
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) function(c);
}

template <int ACTIVATION> inline void activate(const Real* pre, Real* out, int64_t count) {
    each(count, [=](int64_t c) {
        const Real x = pre[c];
        if constexpr (ACTIVATION == RELU)
            out[c] = x < 0 ? 0 : x;
        else if constexpr (ACTIVATION == TANH)
            out[c] = std::tanh(x);
        else if constexpr (ACTIVATION == SILU)
            out[c] = x / (1 + std::exp(-x));
        else
            out[c] = x;
    });
}

// out = slope * activation'(.): relu and tanh know it from their value `post`, silu from its argument `pre`.
template <int ACTIVATION>
inline void deactivate(const Real* slope, const Real* pre, const Real* post, Real* out, int64_t count) {
    each(count, [=](int64_t c) {
        if constexpr (ACTIVATION == RELU) {
            out[c] = post[c] > 0 ? slope[c] : 0;
        } else if constexpr (ACTIVATION == TANH) {
            out[c] = slope[c] * (1 - post[c] * post[c]);
        } else if constexpr (ACTIVATION == SILU) {
            const Real gate = 1 / (1 + std::exp(-pre[c]));
            out[c] = slope[c] * gate * (1 + pre[c] * (1 - gate));
        } else {
            out[c] = slope[c];
        }
    });
}

// Calls function.operator()<activation>(): a constant inside, so that what it does in loops has no branches.
template <class Function> inline void with_activation(int activation, Function function) {
    switch (activation) {
    case RELU: return function.template operator()<RELU>();
    case TANH: return function.template operator()<TANH>();
    case SILU: return function.template operator()<SILU>();
    default: return function.template operator()<NONE>();
    }
}

// ------------------------------------------------------------------ tiles of vectors

// tile[r, c] = sum_k a_r[k] b[k, c], a_r one row after the other, or interleaved (a_0[0], a_1[0], …, a_0[1], …).
template <bool INTERLEAVED>
inline void multiply(int64_t depth, const Real* const* a, const Real* b, int64_t b_ld, Real* tile) {
    Vector sums[TILE_ROWS][2] = {};
#pragma GCC unroll 4
    for (int64_t k = 0; k < depth; ++k) {
        const Vector left = *reinterpret_cast<const LooseVector*>(b + k * b_ld);
        const Vector right = *reinterpret_cast<const LooseVector*>(b + k * b_ld + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; ++r) {
            const Real factor = INTERLEAVED ? a[0][k * TILE_ROWS + r] : a[r][k];
            sums[r][0] += factor * left;
            sums[r][1] += factor * right;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; ++r) {
        *reinterpret_cast<Vector*>(tile + r * TILE) = sums[r][0];
        *reinterpret_cast<Vector*>(tile + r * TILE + LANES) = sums[r][1];
    }
}

// Columns [first, first + TILE) of b into (depth, TILE), with zeros beyond `width`.
void pack(const Real* b, int64_t ld, bool transposed, int64_t depth, int64_t width, int64_t first, Real* out) {
    const int64_t count = std::min(TILE, width - first);
    if (transposed) {
        for (int64_t k = 0; k < depth; ++k)
            for (int64_t c = 0; c < TILE; ++c) out[k * TILE + c] = c < count ? b[(first + c) * ld + k] : 0;
        return;
    }
    for (int64_t k = 0; k < depth; ++k, out += TILE) {
        const Real* row = b + k * ld + first;
        if (count == TILE)
            each(TILE, [=](int64_t c) { out[c] = row[c]; });
        else
            for (int64_t c = 0; c < TILE; ++c) out[c] = c < count ? row[c] : 0;
    }
}

// ------------------------------------------------------------------ tiles of the matrix units

constexpr int64_t SIDE = 16, STEP = 32;  // rows and float32 columns of a tile register; bfloat16 terms of one step
constexpr int64_t PAIR = 2 * SIDE;       // blocks of 2 x 2 tiles are worked on together

#ifdef MATRIX_UNITS

using Half = uint16_t;  // the bits of a bfloat16

struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

bool may_use_matrix_units() {
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM: Linux gives the registers on demand
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return granted;
}

__mmask16 first_lanes(int64_t count) { return count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1; }

// 16 numbers of two rows, rounded and interleaved: (even[0], odd[0], even[1], …).
inline __m512i interleave(__m512 even, __m512 odd) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

inline __m512 load_row(const float* row, bool exists, __mmask16 lanes) {
    return exists ? _mm512_maskz_loadu_ps(lanes, row) : _mm512_setzero_ps();
}

// Right operands: columns [first, first + PAIR) as tiles (steps, 2, 16 pairs of rows, 16 columns of pairs).
void pack_right(const float* b, int64_t ld, int64_t depth, int64_t width, int64_t first, Half* out) {
    for (int64_t step = 0; step < ceil_div(depth, STEP); ++step)
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t column = first + half * SIDE;
            const __mmask16 lanes = first_lanes(width - column);
            for (int64_t pair = 0; pair < SIDE; ++pair, out += 2 * SIDE) {
                const int64_t k = step * STEP + 2 * pair;
                const float* row = b + k * ld + column;
                const __m512 even = load_row(row, k < depth, lanes), odd = load_row(row + ld, k + 1 < depth, lanes);
                _mm512_storeu_si512(out, interleave(even, odd));
            }
        }
}

// The same for b given as (width, depth): a pair of rows lies side by side there, so pairs are gathered.
void pack_right_transposed(const float* b, int64_t ld, int64_t depth, int64_t width, int64_t first, Half* out) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i rows = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(ld)));
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t step = 0; step < ceil_div(depth, STEP); ++step)
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t column = first + half * SIDE;
            const __mmask16 lanes = first_lanes(width - column);
            for (int64_t pair = 0; pair < SIDE; ++pair, out += 2 * SIDE) {
                const int64_t k = step * STEP + 2 * pair;
                const float* at = b + column * ld + k;
                const __m512 even = _mm512_mask_i32gather_ps(zero, k < depth ? lanes : 0, rows, at, 4);
                const __m512 odd = _mm512_mask_i32gather_ps(zero, k + 1 < depth ? lanes : 0, rows, at + 1, 4);
                _mm512_storeu_si512(out, interleave(even, odd));
            }
        }
}

// Left operands: PAIR rows as (PAIR, padded depth), zeros where there are none.
void pack_left(const float* a, int64_t ld, int64_t rows, int64_t depth, Half* out) {
    const int64_t padded = ceil_div(depth, STEP) * STEP;
    for (int64_t r = 0; r < PAIR; ++r)
        for (int64_t k = 0; k < padded; k += SIDE) {
            const __m512 row = load_row(a + r * ld + k, r < rows, first_lanes(depth - k));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * padded + k), (__m256i)_mm512_cvtneps_pbh(row));
        }
}

// PAIR columns of x, transposed, as a left operand: pairs of its numbers are interleaved rows of x.
void pack_left_transposed(const float* x, int64_t ld, int64_t rows, int64_t count, Half* out) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i across = _mm512_slli_epi32(lane, 4);
    alignas(64) Half pairs[2 * SIDE * SIDE];
    const int64_t padded = ceil_div(rows, STEP) * STEP;
    for (int64_t first = 0; first < padded; first += STEP)
        for (int64_t half = 0; half < PAIR; half += SIDE) {
            const __mmask16 lanes = first_lanes(count - half);
            for (int64_t pair = 0; pair < SIDE; ++pair) {
                const int64_t k = first + 2 * pair;
                const float* row = x + k * ld + half;
                const __m512 even = load_row(row, k < rows, lanes), odd = load_row(row + ld, k + 1 < rows, lanes);
                _mm512_store_si512(pairs + pair * 2 * SIDE, interleave(even, odd));
            }
            for (int64_t r = 0; r < SIDE; ++r) {
                const __m512i column = _mm512_i32gather_epi32(across, pairs + 2 * r, 4);
                _mm512_storeu_si512(out + (half + r) * padded + first, column);
            }
        }
}

// (PAIR, PAIR) sums of a packed left and right operand, `ld` numbers apart; with ADD on top of what is there.
template <bool ADD> inline void multiply_pair(int64_t steps, const Half* a, const Half* b, float* sums, int64_t ld) {
    const int64_t stride = 2 * steps * STEP, bytes = 4 * ld;
    if constexpr (ADD) {
        _tile_loadd(0, sums, bytes);
        _tile_loadd(1, sums + SIDE, bytes);
        _tile_loadd(2, sums + SIDE * ld, bytes);
        _tile_loadd(3, sums + SIDE * ld + SIDE, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t step = 0; step < steps; ++step) {
        _tile_loadd(4, a + step * STEP, stride);
        _tile_loadd(5, a + step * STEP + SIDE * steps * STEP, stride);
        _tile_loadd(6, b + step * 2 * SIDE * STEP, 64);
        _tile_loadd(7, b + step * 2 * SIDE * STEP + SIDE * STEP, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, bytes);
    _tile_stored(1, sums + SIDE, bytes);
    _tile_stored(2, sums + SIDE * ld, bytes);
    _tile_stored(3, sums + SIDE * ld + SIDE, bytes);
}

#endif  // MATRIX_UNITS

// ------------------------------------------------------------------ right operands

enum Kind { DOTS, TILES, HALVES };  // few columns: dot products of rows; tiles of vectors; matrix units

Kind kind_of(int64_t depth, int64_t width, bool half) {
    if (width <= NARROW) return DOTS;
#ifdef MATRIX_UNITS
    if (half && std::min(depth, width) >= SIDE) return HALVES;
#endif
    (void)half, (void)depth;
    return TILES;
}

struct Operand {
    const Real* w;  // (depth, width), or (width, depth) if transposed
    int64_t ld, depth, width;
    bool transposed;
    Kind kind;
    Real* packed;

    int64_t panels() const { return kind == DOTS ? width : ceil_div(width, kind == TILES ? TILE : PAIR); }
    int64_t panel_size() const {  // in numbers
        return kind == DOTS ? depth : kind == TILES ? depth * TILE : ceil_div(depth, STEP) * STEP * PAIR / 2;
    }
    void pack_panel(int64_t panel) const {
        Real* to = packed + panel * panel_size();
        if (kind == DOTS) {
            for (int64_t k = 0; k < depth; ++k) to[k] = transposed ? w[panel * ld + k] : w[k * ld + panel];
        } else if (kind == TILES) {
            pack(w, ld, transposed, depth, width, panel * TILE, to);
        } else {
#ifdef MATRIX_UNITS
            Half* halves = reinterpret_cast<Half*>(to);
            (transposed ? pack_right_transposed : pack_right)(w, ld, depth, width, panel * PAIR, halves);
#endif
        }
    }
};

// The right operands of one call. Made by the calling thread, packed by all of them.
class Operands {
  public:
    explicit Operands(bool half) : half_(half) {}
    void add(const Real* w, int64_t ld, bool transposed, int64_t depth, int64_t width) {
        items_.push_back({w, ld, depth, width, transposed, kind_of(depth, width, half_), nullptr});
        size_ += ceil_div(items_.back().panels() * items_.back().panel_size(), 16) * 16;
    }
    int64_t size() const { return size_; }
    void place(Real* next) {
        for (Operand& item : items_) {
            item.packed = next;
            next += ceil_div(item.panels() * item.panel_size(), 16) * 16;
        }
    }
    void pack_together() const {
        for (const Operand& item : items_) {
            const Range range = share(item.panels());
            for (int64_t panel = range.first; panel < range.last; ++panel) item.pack_panel(panel);
        }
#pragma omp barrier
    }
    const Operand& operator[](int64_t i) const { return items_[i]; }

  private:
    bool half_;
    int64_t size_ = 0;
    std::vector<Operand> items_;
};

// ------------------------------------------------------------------ products of a block of rows

// What becomes of row i of a product: forwards bias and what `out` holds are added, and the activation applied;
// backwards it is multiplied by the activation's derivative, which follows from row known_index[i] of `post` (silu:
// `pre`).
struct Finish {
    Real* out;
    int64_t out_ld;
    const int64_t* out_index = nullptr;
    int activation = NONE;
    const Real* bias = nullptr;
    bool add = false, backwards = false;
    Real* pre = nullptr;  // forwards, where the sum before the activation is kept
    const Real* post = nullptr;
    int64_t known_ld = 0;  // of pre and post
    const int64_t* known_index = nullptr;
};

// Columns [first, first + count) of row i, given their sums.
template <int ACTIVATION> inline void finish(const Finish& f, int64_t i, int64_t first, int64_t count, Real* sums) {
    Real* out = f.out + row_of(f.out_index, i) * f.out_ld + first;
    if (f.backwards) {
        const int64_t known = row_of(f.known_index, i) * f.known_ld + first;
        return deactivate<ACTIVATION>(sums, f.pre + known, f.post + known, out, count);
    }
    if (f.bias) each(count, [&, bias = f.bias + first](int64_t c) { sums[c] += bias[c]; });
    if (f.add) each(count, [&](int64_t c) { sums[c] += out[c]; });
    if (f.pre) each(count, [&, pre = f.pre + i * f.known_ld + first](int64_t c) { pre[c] = sums[c]; });
    activate<ACTIVATION>(sums, out, count);
}

// The same for several rows, `ld` apart in `sums`.
inline void finish_rows(
    const Finish& f, int64_t row, int64_t rows, int64_t first, int64_t count, Real* sums, int64_t ld
) {
    with_activation(f.activation, [&]<int ACTIVATION>() {
        for (int64_t r = 0; r < rows; ++r, sums += ld) {
            if (count == TILE)
                finish<ACTIVATION>(f, row + r, first, TILE, sums);  // a constant: loops without remainder
            else
                finish<ACTIVATION>(f, row + r, first, count, sums);
        }
    });
}

void multiply_dots(const Real* x, int64_t ld, int64_t rows, const Operand& b, const Finish& f) {
    for (int64_t i = 0; i < rows; ++i) {
        Real sums[NARROW];
        for (int64_t c = 0; c < b.width; ++c) sums[c] = dot(x + i * ld, b.packed + c * b.depth, b.depth);
        finish_rows(f, i, 1, 0, b.width, sums, 0);
    }
}

void multiply_tiles(const Real* x, int64_t ld, int64_t rows, const Operand& b, const Finish& f) {
    alignas(64) Real tile[TILE_ROWS * TILE];
    for (int64_t panel = 0; panel < b.panels(); ++panel) {
        const Real* right = b.packed + panel * b.panel_size();
        const int64_t columns = std::min(TILE, b.width - panel * TILE);
        for (int64_t row = 0; row < rows; row += TILE_ROWS) {
            const int64_t count = std::min(TILE_ROWS, rows - row);
            const Real* a[TILE_ROWS];
            for (int64_t r = 0; r < TILE_ROWS; ++r) a[r] = x + (row + std::min(r, count - 1)) * ld;
            multiply<false>(b.depth, a, right, TILE, tile);
            finish_rows(f, row, count, panel * TILE, columns, tile, TILE);
        }
    }
}

#ifdef MATRIX_UNITS
void multiply_halves(const Real* x, int64_t ld, int64_t rows, const Operand& b, const Finish& f) {
    static_assert(TILE == PAIR);
    const int64_t steps = ceil_div(b.depth, STEP);
    Half* left = strip_scratch.get<Half>(steps * STEP * PAIR);
    alignas(64) float sums[PAIR * PAIR];
    for (int64_t row = 0; row < rows; row += PAIR) {
        const int64_t count = std::min(PAIR, rows - row);
        pack_left(x + row * ld, ld, count, b.depth, left);
        for (int64_t panel = 0; panel < b.panels(); ++panel) {
            multiply_pair<false>(steps, left, reinterpret_cast<Half*>(b.packed + panel * b.panel_size()), sums, PAIR);
            finish_rows(f, row, count, panel * PAIR, std::min(PAIR, b.width - panel * PAIR), sums, PAIR);
        }
    }
}
#endif

// finish(x @ b) for a block of rows.
void multiply_block(const Real* x, int64_t ld, int64_t rows, const Operand& b, const Finish& f) {
    if (b.kind == DOTS) return multiply_dots(x, ld, rows, b, f);
#ifdef MATRIX_UNITS
    if (b.kind == HALVES) return multiply_halves(x, ld, rows, b, f);
#endif
    multiply_tiles(x, ld, rows, b, f);
}

// ------------------------------------------------------------------ gradients of a block of rows

// A layer's gradients, summed up over blocks: weight (depth, width), bias (width).
struct Sums {
    Real *weight, *bias;
    int64_t depth, width;
};

inline void add_tile(const Real* tile, int64_t tile_ld, int64_t rows, int64_t columns, Real* out, int64_t ld) {
    for (int64_t r = 0; r < rows; ++r, tile += tile_ld, out += ld) {
        if (columns == TILE)
            each(TILE, [=](int64_t c) { out[c] += tile[c]; });
        else
            each(columns, [=](int64_t c) { out[c] += tile[c]; });
    }
}

// Columns [first, first + TILE_ROWS) of x, interleaved for multiply<true>; zeros beyond `count`.
inline void pack_strip(const Real* x, int64_t ld, int64_t rows, int64_t count, Real* strip) {
    for (int64_t i = 0; i < rows; ++i, x += ld, strip += TILE_ROWS) {
        if (count == TILE_ROWS)
            std::memcpy(strip, x, TILE_ROWS * sizeof(Real));
        else
            for (int64_t r = 0; r < TILE_ROWS; ++r) strip[r] = r < count ? x[r] : 0;
    }
}

// sums.weight += x^T slope, tile by tile.
void gradient_tiles(const Real* x, int64_t x_ld, const Real* slope, int64_t slope_ld, int64_t rows, const Sums& sums) {
    alignas(64) Real tile[TILE_ROWS * TILE];
    if (sums.width <= TILE_ROWS) {  // few columns: (slope^T x)^T, so that the tiles are full
        Real *strip = strip_scratch.get(rows * TILE_ROWS), *panel = panels_scratch.get(rows * TILE);
        pack_strip(slope, slope_ld, rows, sums.width, strip);
        for (int64_t first = 0; first < sums.depth; first += TILE) {
            const int64_t count = std::min(TILE, sums.depth - first);
            if (count < TILE) pack(x, x_ld, false, rows, sums.depth, first, panel);
            multiply<true>(rows, &strip, count < TILE ? panel : x + first, count < TILE ? TILE : x_ld, tile);
            for (int64_t r = 0; r < count; ++r) {
                Real* out = sums.weight + (first + r) * sums.width;
                for (int64_t c = 0; c < sums.width; ++c) out[c] += tile[c * TILE + r];
            }
        }
        return;
    }
    const int64_t panels = ceil_div(sums.width, TILE);
    Real *strip = strip_scratch.get(rows * TILE_ROWS), *packed = panels_scratch.get(panels * rows * TILE);
    for (int64_t panel = 0; panel < panels; ++panel)
        pack(slope, slope_ld, false, rows, sums.width, panel * TILE, packed + panel * rows * TILE);
    for (int64_t first = 0; first < sums.depth; first += TILE_ROWS) {
        const int64_t count = std::min(TILE_ROWS, sums.depth - first);
        pack_strip(x + first, x_ld, rows, count, strip);
        for (int64_t panel = 0; panel < panels; ++panel) {
            multiply<true>(rows, &strip, packed + panel * rows * TILE, TILE, tile);
            Real* out = sums.weight + first * sums.width + panel * TILE;
            add_tile(tile, TILE, count, std::min(TILE, sums.width - panel * TILE), out, sums.width);
        }
    }
}

#ifdef MATRIX_UNITS
void gradient_halves(const Real* x, int64_t x_ld, const Real* slope, int64_t slope_ld, int64_t rows, const Sums& sums) {
    const int64_t panels = ceil_div(sums.width, PAIR), steps = ceil_div(rows, STEP), size = steps * STEP * PAIR;
    Half *right = panels_scratch.get<Half>(panels * size), *left = strip_scratch.get<Half>(size);
    for (int64_t panel = 0; panel < panels; ++panel)
        pack_right(slope, slope_ld, rows, sums.width, panel * PAIR, right + panel * size);
    alignas(64) float edge[PAIR * PAIR];
    for (int64_t first = 0; first < sums.depth; first += PAIR) {
        const int64_t count = std::min(PAIR, sums.depth - first);
        pack_left_transposed(x + first, x_ld, rows, count, left);
        for (int64_t panel = 0; panel < panels; ++panel) {
            const int64_t columns = std::min(PAIR, sums.width - panel * PAIR);
            Real* out = sums.weight + first * sums.width + panel * PAIR;
            if (count == PAIR && columns == PAIR) {
                multiply_pair<true>(steps, left, right + panel * size, out, sums.width);
            } else {
                multiply_pair<false>(steps, left, right + panel * size, edge, PAIR);
                add_tile(edge, PAIR, count, columns, out, sums.width);
            }
        }
    }
}
#endif

void gradient_block(
    const Real* x, int64_t x_ld, const Real* slope, int64_t slope_ld, int64_t rows, bool half, const Sums& sums
) {
    for (int64_t i = 0; i < rows; ++i) {
        const Real* row = slope + i * slope_ld;
        each(sums.width, [&](int64_t c) { sums.bias[c] += row[c]; });
    }
#ifdef MATRIX_UNITS
    if (half && std::min(sums.depth, sums.width) >= SIDE)
        return gradient_halves(x, x_ld, slope, slope_ld, rows, sums);
#endif
    (void)half;
    gradient_tiles(x, x_ld, slope, slope_ld, rows, sums);
}

}  // namespace

// ------------------------------------------------------------------ interface

extern "C" {

// One layer. Its input is kept in `post` (rows, in), and what it gives before the activation in `pre` (rows, out), silu
// only; the first layer has no `post`, the last no `pre`.
struct Layer {
    int64_t in, out;
    const Real *weight, *bias;  // (in, out), (out)
    Real *weight_grad, *bias_grad, *post, *pre;
};

// Layers with activations between them, and before them LayerNorm if there is a scale: (in) each, and normalized
// (rows, in).
struct Network {
    int64_t count;
    const Layer* layers;
    const Real *scale, *shift;
    Real *scale_grad, *shift_grad, *normalized;
    int activation;
};

// Whether products can be made in bfloat16.
int hasac_bfloat16() {
#ifdef MATRIX_UNITS
    return may_use_matrix_units();
#else
    return 0;
#endif
}

}  // extern "C"

namespace {

int64_t widest(const Network& net) {
    int64_t most = 0;
    for (int64_t k = 0; k < net.count; ++k) most = std::max({most, net.layers[k].in, net.layers[k].out});
    return most;
}

// Opens and closes the matrix units for what a thread does with them.
class MatrixUnits {
  public:
    explicit MatrixUnits(bool wanted) : wanted_(wanted) {
#ifdef MATRIX_UNITS
        const TileShapes shapes;
        if (wanted_) _tile_loadconfig(&shapes);
#endif
    }
    ~MatrixUnits() {
#ifdef MATRIX_UNITS
        if (wanted_) _tile_release();
#endif
    }

  private:
    [[maybe_unused]] bool wanted_;
};

// Rows in multiples of what a tile holds.
Range share_rows(int64_t rows) {
#ifdef MATRIX_UNITS
    const int64_t grain = PAIR;
#else
    const int64_t grain = TILE_ROWS;
#endif
    const Range range = share(ceil_div(rows, grain));
    return {range.first * grain, std::min(rows, range.last * grain)};
}

void normalize(const Real* x, Real* out, int64_t width) {
    constexpr Real epsilon = 1e-5;
    Real sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) sum += x[c];
    const Real mean = sum / width;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < width; ++c) squares += (x[c] - mean) * (x[c] - mean);
    const Real factor = 1 / std::sqrt(squares / width + epsilon);
    each(width, [=](int64_t c) { out[c] = (x[c] - mean) * factor; });
}

}  // namespace

extern "C" {

// out (rows, out) = the network's output for x (rows, in). If `shift` is not null, x + shift is taken for what the
// first layer gives before the activation: (rows, hidden) and (hidden). With `keep`, what a backward pass needs is kept.
void hasac_forward(
    const Network* network, const Real* x, int64_t x_ld, const Real* shift, int64_t rows, Real* out, int64_t out_ld,
    int keep, int half, int threads
) {
    const Network& net = *network;
    const int64_t start = shift ? 1 : 0, room = BLOCK_ROWS * widest(net);
    Operands weights(half);
    for (int64_t k = start; k < net.count; ++k) {
        const Layer& layer = net.layers[k];
        weights.add(layer.weight, layer.out, false, layer.in, layer.out);
    }
    weights.place(weights_scratch.get(weights.size()));
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnits units(half);
        weights.pack_together();
        Real *here = block_scratch.get(2 * room), *there = here + room;
        const Range range = share_rows(rows);
        for (int64_t block = range.first; block < range.last; block += BLOCK_ROWS) {
            const int64_t count = std::min(BLOCK_ROWS, range.last - block), in = net.layers[0].in;
            const Real* a = x + block * x_ld;
            int64_t a_ld = x_ld;
            if (shift) {
                const int64_t width = net.layers[0].out;
                with_activation(net.activation, [&]<int ACTIVATION>() {
                    for (int64_t i = 0; i < count; ++i) {
                        Real* to = here + i * width;
                        each(width, [=](int64_t c) { to[c] = a[i * x_ld + c] + shift[c]; });
                        activate<ACTIVATION>(to, to, width);
                    }
                });
                a = here, a_ld = width;
            } else if (net.scale) {
                for (int64_t i = 0; i < count; ++i) {
                    Real *to = here + i * in, *normalized = keep ? net.normalized + (block + i) * in : to;
                    normalize(a + i * x_ld, normalized, in);
                    each(in, [=](int64_t c) { to[c] = normalized[c] * net.scale[c] + net.shift[c]; });
                }
                a = here, a_ld = in;
            }
            for (int64_t k = start; k < net.count; ++k) {
                const Layer& layer = net.layers[k];
                const bool last = k == net.count - 1;
                Finish f{.out = last ? out + block * out_ld : there, .out_ld = last ? out_ld : layer.out};
                f.bias = layer.bias;
                if (!last) {
                    f.activation = net.activation;
                    f.known_ld = layer.out;
                    if (keep) f.out = net.layers[k + 1].post + block * layer.out;
                    if (keep && layer.pre) f.pre = layer.pre + block * layer.out;
                }
                multiply_block(a, a_ld, count, weights[k - start], f);
                a = f.out, a_ld = f.out_ld;
                if (f.out == there) std::swap(here, there);
            }
        }
    }
}

// The gradients of a network for the last forward pass that kept what it needs. x (rows, in) is read unless the network
// normalises; slope (rows, out) is the gradient with respect to the output.
void hasac_backward(
    const Network* network, const Real* x, int64_t x_ld, const Real* slope, int64_t slope_ld, int64_t rows, int half,
    int threads
) {
    const Network& net = *network;
    const int64_t room = BLOCK_ROWS * widest(net);
    Operands weights(half);
    int64_t size = 0;
    for (int64_t k = 0; k < net.count; ++k) {
        const Layer& layer = net.layers[k];
        if (k) weights.add(layer.weight, layer.out, true, layer.out, layer.in);
        size += ceil_div((layer.in + 1) * layer.out, 16) * 16;
    }
    weights.place(weights_scratch.get(weights.size()));
    Real* all_sums = sums_scratch.get(threads * size);
    const Layer& bottom = net.layers[0];
    const Real* input = net.scale ? net.normalized : x;
    const int64_t input_ld = net.scale ? bottom.in : x_ld;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnits units(half);
        Real *own_sums = all_sums + omp_get_thread_num() * size, *below = block_scratch.get(2 * room);
        std::fill(own_sums, own_sums + size, Real(0));
        weights.pack_together();
        const Range range = share_rows(rows);
        for (int64_t block = range.first; block < range.last; block += BLOCK_ROWS) {
            const int64_t count = std::min(BLOCK_ROWS, range.last - block);
            const Real* s = slope + block * slope_ld;
            int64_t s_ld = slope_ld;
            Real* sums = own_sums + size;
            for (int64_t k = net.count - 1; k >= 0; --k) {
                const Layer& layer = net.layers[k];
                sums -= ceil_div((layer.in + 1) * layer.out, 16) * 16;
                const Real* a = k ? layer.post + block * layer.in : input + block * input_ld;
                const Sums to{sums, sums + layer.in * layer.out, layer.in, layer.out};
                gradient_block(a, k ? layer.in : input_ld, s, s_ld, count, half, to);
                if (k == 0) break;
                Finish f{.out = below + (k % 2) * room, .out_ld = layer.in};
                f.backwards = true;
                f.activation = net.activation;
                f.post = a;
                f.pre = net.layers[k - 1].pre ? net.layers[k - 1].pre + block * layer.in : nullptr;
                f.known_ld = layer.in;
                multiply_block(s, s_ld, count, weights[k - 1], f);
                s = f.out, s_ld = f.out_ld;
            }
        }
#pragma omp barrier
        Real* sums = all_sums;  // now over the threads
        const int64_t team = omp_get_num_threads();
        for (int64_t k = 0; k < net.count; ++k) {
            const Layer& layer = net.layers[k];
            const Range part = share(layer.in + 1);  // the last row is the bias'
            for (int64_t r = part.first; r < part.last; ++r) {
                Real* to = r < layer.in ? layer.weight_grad + r * layer.out : layer.bias_grad;
                std::copy(sums + r * layer.out, sums + (r + 1) * layer.out, to);
                for (int64_t t = 1; t < team; ++t) {
                    const Real* more = sums + t * size + r * layer.out;
                    each(layer.out, [=](int64_t c) { to[c] += more[c]; });
                }
            }
            sums += ceil_div((layer.in + 1) * layer.out, 16) * 16;
        }
        if (net.scale) {
            // The layer saw z * scale + shift. From z^T slope follow the weight's gradient, and by exchanging sums
            // those of scale and shift.
#pragma omp barrier
            const Range part = share(bottom.in);
            for (int64_t r = part.first; r < part.last; ++r) {
                const Real *weight = bottom.weight + r * bottom.out, *bias = bottom.bias_grad;
                Real* inner = bottom.weight_grad + r * bottom.out;
                net.scale_grad[r] = dot(weight, inner, bottom.out);
                net.shift_grad[r] = dot(weight, bias, bottom.out);
                each(bottom.out, [=](int64_t c) { inner[c] = net.scale[r] * inner[c] + net.shift[r] * bias[c]; });
            }
        }
    }
}

}  // extern "C"

namespace {

// For each of two networks with one output: all layers but the first forwards, then those of them that are not the last
// backwards.
Operands twin_operands(const Network* const* nets, bool half) {
    Operands weights(half);
    for (int twin = 0; twin < 2; ++twin) {
        const Layer* layers = nets[twin]->layers;
        const int64_t hidden = nets[twin]->count - 1;
        const auto add = [&](const Layer& layer, bool transposed) {
            const int64_t depth = transposed ? layer.out : layer.in, width = transposed ? layer.in : layer.out;
            weights.add(layer.weight, layer.out, transposed, depth, width);
        };
        for (int64_t k = 1; k <= hidden; ++k) add(layers[k], false);
        for (int64_t k = 1; k < hidden; ++k) add(layers[k], true);
    }
    return weights;
}

}  // namespace

extern "C" {

// Numbers that hasac_smaller keeps of two networks' weights.
int64_t hasac_packed_size(const Network* first, const Network* second) {
    const Network* nets[2] = {first, second};
    return std::max(twin_operands(nets, false).size(), twin_operands(nets, true).size());
}

// A change of the input of two networks' first layers: x (rows, size) times weights (size, hidden) of each.
struct Change {
    const Real *x, *weights[2];
    int64_t size, weight_ld;
};

// The smaller of two networks of the same sizes with one output, given what their first layers give (before the
// activation): min (…), whether it is the first's (…), and its slope in what the first layer gives (…, hidden), in
// rows index[0..count) of all of them. If `change` is not null, what the first layers give is first changed.
// `packed` holds the weights between calls; with `renew` they have changed.
void hasac_smaller(
    const Network* first, const Network* second, Real* first_pre, Real* second_pre, const Change* change,
    const int64_t* index, int64_t count, Real* packed, int renew, Real* smaller, uint8_t* of_first, Real* slope,
    int half, int threads
) {
    const Network* nets[2] = {first, second};
    Real* pres[2] = {first_pre, second_pre};
    const int64_t hidden = first->count - 1;  // layers
    const Layer* shape = first->layers;
    const int64_t width = shape[0].out, room = BLOCK_ROWS * widest(*first), of_each = 2 * hidden - 1;
    const bool needs_pre = first->activation == SILU;
    Operands weights = twin_operands(nets, half);
    weights.place(packed);
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnits units(half);
        if (renew) weights.pack_together();
        Real* memory = block_scratch.get((4 * hidden + 2) * room);
        const auto post = [=](int twin, int64_t k) { return memory + (twin * hidden + k) * room; };
        const auto pre = [=](int twin, int64_t k) { return memory + ((2 + twin) * hidden + k) * room; };
        Real* const slopes = memory + 4 * hidden * room;
        const Range range = share_rows(count);
        for (int64_t block = range.first; block < range.last; block += BLOCK_ROWS) {
            const int64_t rows = std::min(BLOCK_ROWS, range.last - block);
            Real q[2][BLOCK_ROWS];
            for (int twin = 0; twin < 2; ++twin) {
                with_activation(first->activation, [&]<int ACTIVATION>() {
                    for (int64_t i = 0; i < rows; ++i) {
                        Real* from = pres[twin] + row_of(index, block + i) * width;
                        for (int64_t c = 0; change && c < change->size; ++c) {
                            const Real *weight = change->weights[twin] + c * change->weight_ld;
                            const Real factor = change->x[row_of(index, block + i) * change->size + c];
                            each(width, [=](int64_t h) { from[h] += factor * weight[h]; });
                        }
                        if (needs_pre) std::copy(from, from + width, pre(twin, 0) + i * width);
                        activate<ACTIVATION>(from, post(twin, 0) + i * width, width);
                    }
                });
                for (int64_t k = 1; k <= hidden; ++k) {
                    const Layer& layer = nets[twin]->layers[k];
                    Finish f{.out = q[twin], .out_ld = 1};
                    f.bias = layer.bias;
                    if (k < hidden) {
                        f.out = post(twin, k);
                        f.out_ld = f.known_ld = layer.out;
                        f.activation = first->activation;
                        f.pre = needs_pre ? pre(twin, k) : nullptr;
                    }
                    multiply_block(post(twin, k - 1), layer.in, rows, weights[twin * of_each + k - 1], f);
                }
            }
            int64_t chosen[2][BLOCK_ROWS], places[2][BLOCK_ROWS], counts[2] = {0, 0};
            for (int64_t i = 0; i < rows; ++i) {
                const int64_t place = row_of(index, block + i);
                const int twin = q[0][i] <= q[1][i] ? 0 : 1;
                smaller[place] = q[twin][i];
                of_first[place] = twin == 0;
                chosen[twin][counts[twin]] = i;
                places[twin][counts[twin]++] = place;
            }
            for (int twin = 0; twin < 2; ++twin) {
                if (counts[twin] == 0) continue;
                const Real* s = slopes;
                int64_t s_ld = shape[hidden].in;
                with_activation(first->activation, [&]<int ACTIVATION>() {
                    for (int64_t i = 0; i < counts[twin]; ++i) {
                        const int64_t at = chosen[twin][i] * s_ld;
                        Real* to = hidden == 1 ? slope + places[twin][i] * width : slopes + i * s_ld;
                        const Real *before = pre(twin, hidden - 1) + at, *after = post(twin, hidden - 1) + at;
                        deactivate<ACTIVATION>(nets[twin]->layers[hidden].weight, before, after, to, s_ld);
                    }
                });
                for (int64_t k = hidden - 1; k >= 1; --k) {
                    Finish f{.out = k == 1 ? slope : slopes + ((hidden - k) % 2) * room, .out_ld = shape[k].in};
                    f.out_index = k == 1 ? places[twin] : nullptr;
                    f.backwards = true;
                    f.activation = first->activation;
                    f.post = post(twin, k - 1);
                    f.pre = pre(twin, k - 1);
                    f.known_ld = shape[k].in;
                    f.known_index = chosen[twin];
                    multiply_block(s, s_ld, counts[twin], weights[twin * of_each + hidden + k - 1], f);
                    s = f.out, s_ld = f.out_ld;
                }
            }
        }
    }
}

// out (rows, size): slope (rows, width) times the rows of `first` where of_first, else of `second`, (size, width) each.
void hasac_slope_in(
    const Real* slope, const uint8_t* of_first, const Real* first, const Real* second, int64_t weight_ld, Real* out,
    int64_t rows, int64_t width, int64_t size, int threads
) {
#pragma omp parallel num_threads(threads)
    {
        const Range range = share(rows);
        for (int64_t i = range.first; i < range.last; ++i) {
            const Real *weight = of_first[i] ? first : second, *own = slope + i * width;
            for (int64_t c = 0; c < size; ++c) out[i * size + c] = dot(own, weight + c * weight_ld, width);
        }
    }
}

// out[index[i]] = x[i] @ w + bias (width), or if that is null, added to what is there.
void hasac_product(
    const Real* x, int64_t x_ld, const Real* w, int64_t w_ld, const Real* bias, Real* out, int64_t out_ld,
    const int64_t* index, int64_t rows, int64_t depth, int64_t width, int half, int threads
) {
    Operands weights(half);
    weights.add(w, w_ld, false, depth, width);
    weights.place(weights_scratch.get(weights.size()));
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnits units(half);
        weights.pack_together();
        const Range range = share_rows(rows);
        for (int64_t block = range.first; block < range.last; block += BLOCK_ROWS) {
            const int64_t count = std::min(BLOCK_ROWS, range.last - block);
            Finish f{.out = index ? out : out + block * out_ld, .out_ld = out_ld};
            f.out_index = index ? index + block : nullptr;
            f.bias = bias;
            f.add = !bias;
            multiply_block(x + block * x_ld, x_ld, count, weights[0], f);
        }
    }
}

// ---- policies: samples, and gradients of the loss for a network's output, see modules/distributions.py

// Box: action (rows, size), log_prob (rows) or null, from output (rows, 2 * size).
void hasac_gaussian_draw(
    const Real* output, const Real* noise, int64_t rows, int64_t size, double low, double high, double log_scale,
    Real* action, Real* log_prob, int threads
) {
    const Real constant = 0.5 * std::log(2 * M_PI), log_two = std::log(2.0);
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const Real *mean = output + 2 * i * size, *unclamped = mean + size, *own = noise + i * size;
        Real* to = action + i * size;
        Real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < size; ++c) {
            const Real log_std = std::min(std::max(unclamped[c], Real(low)), Real(high));
            const Real u = mean[c] + std::exp(log_std) * own[c];
            to[c] = std::tanh(u);
            // softplus(-2 u) without overflow
            const Real softplus = std::max(-2 * u, Real(0)) + std::log1p(std::exp(-std::abs(2 * u)));
            sum += Real(-0.5) * own[c] * own[c] - log_std - constant - 2 * (log_two - u - softplus);
        }
        if (log_prob) log_prob[i] = sum - Real(log_scale);
    }
}

// out (rows, 2 * size); std: of the value normalisation.
void hasac_gaussian_slope(
    const Real* output, const Real* noise, const Real* action, int64_t action_ld, const Real* slope, int64_t rows,
    int64_t size, double low, double high, const Real* std, const Real* alpha, const Real* weight, Real* out,
    int threads
) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const Real *unclamped = output + (2 * i + 1) * size, *own = noise + i * size, *a = action + i * action_ld;
        Real *to = out + 2 * i * size;
        each(size, [=](int64_t c) {
            const bool inside = unclamped[c] >= Real(low) && unclamped[c] <= Real(high);
            const Real log_std = std::min(std::max(unclamped[c], Real(low)), Real(high));
            const Real through_u = slope[i * size + c] * *std * (1 - a[c] * a[c]) - 2 * *alpha * a[c];
            to[c] = -weight[i] * through_u;
            to[size + c] = inside ? -weight[i] * (through_u * std::exp(log_std) * own[c] + *alpha) : 0;
        });
    }
}

// Independent choices of one action: `sizes` of each.
struct Choices {
    int64_t count;
    const int64_t* sizes;
};

}  // extern "C"

namespace {

constexpr Real UNAVAILABLE = -1e9;

// Log-probabilities of one choice among `size`.
inline void log_softmax(const Real* logits, const uint8_t* avail, int64_t size, Real* out) {
    Real most = avail[0] ? logits[0] : UNAVAILABLE, sum = 0;
    for (int64_t c = 0; c < size; ++c) {
        out[c] = avail[c] ? logits[c] : UNAVAILABLE;
        most = std::max(most, out[c]);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < size; ++c) sum += std::exp(out[c] - most);
    const Real log_sum = most + std::log(sum);
    each(size, [=](int64_t c) { out[c] -= log_sum; });
}

// out = gain - probs * sum(gain): the gradient of sum(probs * value) for the logits, given gain = probs * value.
inline void through_softmax(const Real* gain, const Real* probs, int64_t size, Real* out) {
    Real sum = 0;
    for (int64_t c = 0; c < size; ++c) sum += gain[c];
    each(size, [=](int64_t c) { out[c] = gain[c] - probs[c] * sum; });
}

int64_t total(const Choices& choices) {
    int64_t sum = 0;
    for (int64_t f = 0; f < choices.count; ++f) sum += choices.sizes[f];
    return sum;
}

}  // namespace

extern "C" {

// Discrete: a one-hot action (rows, n), and if they are not null log_prob and entropy (rows), from logits, mask and
// noise (rows, n) each.
void hasac_categorical_draw(
    const Choices* choices, const Real* logits, const uint8_t* avail, const Real* noise, int64_t rows, Real* action,
    Real* log_prob, Real* entropy, int threads
) {
    const int64_t width = total(*choices);
#pragma omp parallel num_threads(threads)
    {
        Real* log_probs = strip_scratch.get(width);
        const Range range = share(rows);
        for (int64_t i = range.first; i < range.last; ++i) {
            Real sum = 0, mean = 0;
            int64_t at = i * width;
            for (int64_t f = 0; f < choices->count; at += choices->sizes[f++]) {
                const int64_t size = choices->sizes[f];
                log_softmax(logits + at, avail + at, size, log_probs);
                int64_t best = 0;
                for (int64_t c = 1; c < size; ++c)
                    if (log_probs[c] + noise[at + c] > log_probs[best] + noise[at + best]) best = c;
                for (int64_t c = 0; c < size; ++c) action[at + c] = c == best;
                sum += log_probs[best];
                if (!entropy) continue;
#pragma omp simd reduction(+ : mean)
                for (int64_t c = 0; c < size; ++c) mean += std::exp(log_probs[c]) * log_probs[c];
            }
            if (log_prob) log_prob[i] = sum;
            if (entropy) entropy[i] = -mean;
        }
    }
}

// The straight-through gradient out (rows, n); slope (rows, n) of the normalised Q; std: of the value normalisation.
void hasac_categorical_slope(
    const Choices* choices, const Real* logits, const uint8_t* avail, const Real* noise, const Real* action,
    int64_t action_ld, const Real* slope, int64_t rows, const Real* std, const Real* alpha, const Real* weight,
    Real* out, int threads
) {
    const int64_t width = total(*choices);
    const std::vector<uint8_t> everything(width, 1);
#pragma omp parallel num_threads(threads)
    {
        Real *log_probs = strip_scratch.get(3 * width), *soft = log_probs + width, *gain = soft + width;
        const Range range = share(rows);
        for (int64_t i = range.first; i < range.last; ++i) {
            int64_t at = i * width;
            const Real* chosen = action + i * action_ld;
            for (int64_t f = 0; f < choices->count; at += choices->sizes[f], chosen += choices->sizes[f++]) {
                const int64_t size = choices->sizes[f];
                log_softmax(logits + at, avail + at, size, log_probs);
                each(size, [=](int64_t c) { gain[c] = log_probs[c] + noise[at + c]; });
                log_softmax(gain, everything.data(), size, soft);
                each(size, [=](int64_t c) { soft[c] = std::exp(soft[c]); });
                each(size, [=](int64_t c) { gain[c] = soft[c] * (slope[at + c] * *std - *alpha * log_probs[c]); });
                through_softmax(gain, soft, size, out + at);
                each(size, [=](int64_t c) {
                    out[at + c] = -weight[i] * (out[at + c] - *alpha * (chosen[c] - std::exp(log_probs[c])));
                });
            }
        }
    }
}

// The exact gradient out (rows, n) and the objective (rows), from the twins' normalised q (2, rows, n); scale: standard
// deviation and mean of the value normalisation.
void hasac_categorical_exact(
    const Choices* choices, const Real* logits, const uint8_t* avail, const Real* q, int64_t rows, const Real* scale,
    const Real* alpha, const Real* weight, Real* out, Real* objective, int threads
) {
    const int64_t width = total(*choices);
#pragma omp parallel num_threads(threads)
    {
        Real *log_probs = strip_scratch.get(3 * width), *probs = log_probs + width, *gain = probs + width;
        const Range range = share(rows);
        for (int64_t i = range.first; i < range.last; ++i) {
            int64_t at = i * width;
            Real sum = 0;
            for (int64_t f = 0; f < choices->count; at += choices->sizes[f++]) {
                const int64_t size = choices->sizes[f];
                log_softmax(logits + at, avail + at, size, log_probs);
                each(size, [=](int64_t c) {
                    const Real value = std::min(q[at + c], q[rows * width + at + c]) * scale[0] + scale[1];
                    probs[c] = std::exp(log_probs[c]);
                    gain[c] = probs[c] * (value - *alpha * log_probs[c]);
                });
                for (int64_t c = 0; c < size; ++c) sum += gain[c];
                through_softmax(gain, probs, size, out + at);
                each(size, [=](int64_t c) { out[at + c] *= -weight[i]; });
            }
            objective[i] = sum;
        }
    }
}

// One step of Adam on `count` weights. Gradients are first scaled to a norm of at most `most`; returns what it was.
double hasac_adam(
    Real* weights, Real* grads, Real* firsts, Real* seconds, int64_t count, double most, double lr, double beta1,
    double beta2, double epsilon, double step, int threads
) {
    const Real rate = lr / (1 - std::pow(beta1, step)), root = std::sqrt(1 - std::pow(beta2, step));
    const Real keep1 = beta1, keep2 = beta2, new1 = 1 - beta1, new2 = 1 - beta2, small = epsilon;
    std::vector<double> squares(threads, 0.0);
    double norm = 0;
#pragma omp parallel num_threads(threads)
    {
        const Range range = share(count);
        constexpr int64_t PART = 4096;  // of the squares, summed in single precision
        double own = 0;
        for (int64_t i = range.first; i < range.last; i += PART)
            own += dot(grads + i, grads + i, std::min(PART, range.last - i));
        squares[omp_get_thread_num()] = own;
#pragma omp barrier
        double total = 0;
        for (const double part : squares) total += part;
        const double length = std::sqrt(total);
        const Real scale = std::min(1.0, most / (length + 1e-6));
        if (omp_get_thread_num() == 0) norm = length;
#pragma omp simd
        for (int64_t i = range.first; i < range.last; ++i) {
            const Real grad = grads[i] * scale;
            grads[i] = grad;
            firsts[i] = keep1 * firsts[i] + new1 * grad;
            seconds[i] = keep2 * seconds[i] + new2 * grad * grad;
            weights[i] -= rate * firsts[i] / (std::sqrt(seconds[i]) / root + small);
        }
    }
    return norm;
}

}  // extern "C"
