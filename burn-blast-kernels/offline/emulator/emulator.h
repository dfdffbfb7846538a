// What a generated CUDA kernel needs, on a CPU. See README.md for what is modelled.
//
// No header that declares fixed-width integers may be included here: generated sources declare their own.
#pragma once
#include <cstddef>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
    unsigned x, y, z;
};
extern dim3 threadIdx, blockIdx, gridDim;

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
inline float exp(float x) { return __builtin_expf(x); }
inline float fabs(float x) { return __builtin_fabsf(x); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// All units of the block that have not returned must arrive.
void __syncthreads();

namespace emu {

// First byte of the block's shared memory.
char *shared_memory();
// Offset of an address in shared memory; meaningless for any other address, as on the device.
unsigned shared_offset(void const *address);

// cp.async: the copy happens when its group is waited for, as late as the device may do it.
void cp_async(unsigned to, void const *from, unsigned bytes, unsigned from_bytes);
void cp_async_commit();
void cp_async_wait(unsigned groups_in_flight);

// ldmatrix of `count` 8 x 8 matrices of 16-bit elements; `row` is this lane's line.
void ldmatrix(unsigned *registers, unsigned count, bool transposed, unsigned row);

// mma.sync, row.col, f32 sums.
void mma_m16n8k16_f16(float *d, unsigned const *a, unsigned const *b, float const *c);
void mma_m16n8k16_bf16(float *d, unsigned const *a, unsigned const *b, float const *c);
void mma_m16n8k8_tf32(float *d, unsigned const *a, unsigned const *b, float const *c);

// wmma m16n16k16, and m16n16k8 in TF32: a lane's elements of a fragment in f32. All lanes give one address.
enum class Kind { F16, BF16, TF32 };
struct Sides {
    unsigned rows, cols;
};
void wmma_load(float *own, void const *from, unsigned stride, Kind kind, bool by_rows, Sides sides);
void wmma_store(float *to, float const *own, unsigned stride, bool by_rows);
void wmma_multiply(float *d, float const *a, float const *b, float const *c, unsigned depth);

} // namespace emu

inline unsigned __cvta_generic_to_shared(void const *address) { return emu::shared_offset(address); }
