// nvcuda::wmma for 16 x 16 x 16, as far as generated code uses it. Which lane holds which element is not
// specified there; here lane l holds elements 8 l to 8 l + 7 by rows.
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

template <typename Use, int m, int n, int k, typename T, typename Layout = void> struct fragment {
    static_assert(m == 16 && n == 16 && k == 16, "only this size is modelled");
    float own[8];
};

inline emu::Kind kind(__half const *) { return emu::Kind::F16; }
inline emu::Kind kind(__nv_bfloat16 const *) { return emu::Kind::BF16; }

template <typename Use, int m, int n, int k, typename T, typename Layout, typename V>
void fill_fragment(fragment<Use, m, n, k, T, Layout> &to, V value) {
    for (float &own : to.own) own = float(value);
}

template <typename Use, int m, int n, int k, typename T, typename Layout>
void load_matrix_sync(fragment<Use, m, n, k, T, Layout> &to, T const *from, unsigned stride) {
    emu::wmma_load(to.own, from, stride, kind(from), Layout::by_rows);
}

template <int m, int n, int k>
void store_matrix_sync(float *to, fragment<accumulator, m, n, k, float> const &from, unsigned stride,
                       layout_t layout) {
    emu::wmma_store(to, from.own, stride, layout == mem_row_major);
}

template <int m, int n, int k, typename T, typename A, typename B>
void mma_sync(fragment<accumulator, m, n, k, float> &d, fragment<matrix_a, m, n, k, T, A> const &a,
              fragment<matrix_b, m, n, k, T, B> const &b, fragment<accumulator, m, n, k, float> const &c) {
    emu::wmma_multiply(d.own, a.own, b.own, c.own);
}

} // namespace wmma
} // namespace nvcuda
