// nvcuda::wmma for 16 x 16 x 16, and 16 x 16 x 8 in TF32, as far as generated code uses it. Which lane holds which
// element is not specified there; here the lanes share the elements by rows, lane 0 first.
#pragma once
#include "emulator.h"
#include "half.h"

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {
    static bool const by_rows = true;
};
struct col_major {
    static bool const by_rows = false;
};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
} // namespace precision

// What a fragment of `T` is loaded from, and its contraction.
template <typename T> struct element;
template <> struct element<__half> {
    using stored = __half;
    static emu::Kind const kind = emu::Kind::F16;
    static int const depth = 16;
};
template <> struct element<__nv_bfloat16> {
    using stored = __nv_bfloat16;
    static emu::Kind const kind = emu::Kind::BF16;
    static int const depth = 16;
};
template <> struct element<precision::tf32> {
    using stored = float;
    static emu::Kind const kind = emu::Kind::TF32;
    static int const depth = 8;
};

template <typename Use, int m, int n, int k, typename T, typename Layout = void> struct fragment {
    static_assert(m == 16 && n == 16 && k == element<T>::depth, "only these sizes are modelled");
    float own[8];
};
template <int m, int n, int k> struct fragment<accumulator, m, n, k, float> {
    static_assert(m == 16 && n == 16 && (k == 16 || k == 8), "only these sizes are modelled");
    float own[8];
};

inline emu::Sides sides(matrix_a, unsigned depth) { return {16, depth}; }
inline emu::Sides sides(matrix_b, unsigned depth) { return {depth, 16}; }

inline float __float_to_tf32(float value) { return emu::tf32_from_float(value); }

template <typename Use, int m, int n, int k, typename T, typename Layout, typename V>
void fill_fragment(fragment<Use, m, n, k, T, Layout> &to, V value) {
    for (float &own : to.own) own = float(value);
}

template <typename Use, int m, int n, int k, typename T, typename Layout>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout> &to, typename element<T>::stored const *from,
                      unsigned stride) {
    emu::wmma_load(to.own, from, stride, element<T>::kind, Layout::by_rows, sides(Use(), k));
}

template <int m, int n, int k>
void store_matrix_sync(float *to, fragment<accumulator, m, n, k, float> const &from, unsigned stride,
                       layout_t layout) {
    emu::wmma_store(to, from.own, stride, layout == mem_row_major);
}

template <int m, int n, int k, typename T, typename A, typename B>
void mma_sync(fragment<accumulator, m, n, k, float> &d, fragment<matrix_a, m, n, k, T, A> const &a,
              fragment<matrix_b, m, n, k, T, B> const &b, fragment<accumulator, m, n, k, float> const &c) {
    emu::wmma_multiply(d.own, a.own, b.own, c.own, k);
}

} // namespace wmma
} // namespace nvcuda
