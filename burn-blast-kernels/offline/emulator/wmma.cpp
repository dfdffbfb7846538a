// nvcuda::wmma: how fragments are read, multiplied and written.
#include "emulator.h"
#include "half.h"
#include "warp.h"

#include <cstring>

namespace emu {

namespace {

// Where in shared memory a fragment starts, after the checks that the device leaves to the programmer.
size_t fragment_start(Warp const &warp, size_t element) {
    Operands const &first = warp.lanes[0];
    for (Operands const &lane : warp.lanes) {
        if (lane.address != first.address || lane.stride != first.stride) {
            fault("lanes give wmma different addresses or strides");
        }
    }
    size_t at = shared_offset(first.address);
    if (!shared->near(first.address)) fault("wmma outside of shared memory is not modelled");
    if (at % 32) fault("a fragment of wmma does not start at 32 bytes");
    if (first.stride * element % 16) fault("lines of a wmma fragment are not a multiple of 16 bytes apart");
    return at;
}

// Offset of element `i` of a fragment, counted by rows, in elements.
size_t fragment_offset(unsigned i, unsigned cols, unsigned stride, bool by_rows) {
    return by_rows ? i / cols * stride + i % cols : i % cols * stride + i / cols;
}

float widen(Kind kind, char const *from) {
    unsigned word;
    unsigned short half;
    std::memcpy(&half, from, sizeof half);
    if (kind == Kind::F16) return f16_to_float(half);
    if (kind == Kind::BF16) return bf16_to_float(half);
    std::memcpy(&word, from, sizeof word);
    return tf32_to_float(word);
}

} // namespace

void wmma_load(float *own, void const *from, unsigned stride, Kind kind, bool by_rows, Sides sides) {
    Operands given = {};
    given.address = from, given.stride = stride;
    unsigned count = sides.rows * sides.cols, each = count / LANES;
    size_t bytes = kind == Kind::TF32 ? 4 : 2;
    Operands &done = together("wmma.load", given, [&](Warp &warp, unsigned first) {
        size_t start = fragment_start(warp, bytes);
        for (unsigned i = 0; i < count; i++) {
            size_t at = start + bytes * fragment_offset(i, sides.cols, stride, by_rows);
            unit = first + i / each;
            shared->read(at, bytes, "wmma.load");
            warp.lanes[i / each].left[i % each] = widen(kind, shared->begin() + at);
        }
    });
    std::memcpy(own, done.left, sizeof done.left);
}

void wmma_store(float *to, float const *own, unsigned stride, bool by_rows) {
    Operands given = {};
    given.address = to, given.stride = stride;
    std::memcpy(given.sums, own, sizeof given.sums);
    together("wmma.store", given, [&](Warp &warp, unsigned first) {
        size_t start = fragment_start(warp, 4);
        for (unsigned i = 0; i < 256; i++) {
            size_t at = start + 4 * fragment_offset(i, 16, stride, by_rows);
            unit = first + i / 8;
            shared->write(at, 4, "wmma.store");
            std::memcpy(shared->begin() + at, &warp.lanes[i / 8].sums[i % 8], 4);
        }
    });
}

void wmma_multiply(float *d, float const *a, float const *b, float const *c, unsigned depth) {
    Operands given = {};
    std::memcpy(given.left, a, sizeof given.left);
    std::memcpy(given.right, b, sizeof given.right);
    std::memcpy(given.sums, c, sizeof given.sums);
    unsigned each = 16 * depth / LANES;
    Operands &done = together("wmma.mma", given, [&](Warp &warp, unsigned) {
        for (unsigned i = 0; i < 256; i++) {
            float &sum = warp.lanes[i / 8].sums[i % 8];
            for (unsigned k = 0; k < depth; k++) {
                unsigned left = i / 16 * depth + k, right = k * 16 + i % 16;
                sum += warp.lanes[left / each].left[left % each] * warp.lanes[right / each].right[right % each];
            }
        }
    });
    std::memcpy(d, done.sums, sizeof done.sums);
}

} // namespace emu
