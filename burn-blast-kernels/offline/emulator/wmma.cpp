// nvcuda::wmma: how fragments are read, multiplied and written.
#include "emulator.h"
#include "half.h"
#include "warp.h"

#include <cstring>

namespace emu {

namespace {

// Where in shared memory a 16 x 16 fragment starts, after the checks that the device leaves to the programmer.
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
size_t fragment_offset(unsigned i, unsigned stride, bool by_rows) {
    return by_rows ? i / 16 * stride + i % 16 : i % 16 * stride + i / 16;
}

} // namespace

void wmma_load(float *own, void const *from, unsigned stride, Kind kind, bool by_rows) {
    Operands given = {};
    given.address = from, given.stride = stride;
    Operands &done = together("wmma.load", given, [&](Warp &warp, unsigned first) {
        size_t start = fragment_start(warp, 2);
        for (unsigned i = 0; i < 256; i++) {
            size_t at = start + 2 * fragment_offset(i, stride, by_rows);
            unsigned short bits;
            unit = first + i / 8;
            shared->read(at, 2, "wmma.load");
            std::memcpy(&bits, shared->begin() + at, 2);
            warp.lanes[i / 8].left[i % 8] = kind == Kind::F16 ? f16_to_float(bits) : bf16_to_float(bits);
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
            size_t at = start + 4 * fragment_offset(i, stride, by_rows);
            unit = first + i / 8;
            shared->write(at, 4, "wmma.store");
            std::memcpy(shared->begin() + at, &warp.lanes[i / 8].sums[i % 8], 4);
        }
    });
}

void wmma_multiply(float *d, float const *a, float const *b, float const *c) {
    Operands given = {};
    std::memcpy(given.left, a, sizeof given.left);
    std::memcpy(given.right, b, sizeof given.right);
    std::memcpy(given.sums, c, sizeof given.sums);
    Operands &done = together("wmma.mma", given, [&](Warp &warp, unsigned) {
        for (unsigned i = 0; i < 256; i++) {
            float &sum = warp.lanes[i / 8].sums[i % 8];
            for (unsigned k = 0; k < 16; k++) {
                unsigned left = i / 16 * 16 + k, right = k * 16 + i % 16;
                sum += warp.lanes[left / 8].left[left % 8] * warp.lanes[right / 8].right[right % 8];
            }
        }
    });
    std::memcpy(d, done.sums, sizeof done.sums);
}

} // namespace emu
