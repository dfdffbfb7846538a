// Which offset of a shared-memory descriptor of wgmma steps along which side of an operand.
//
// One warpgroup multiplies A [64, 16] by B [16, 64], both without swizzle, B with n contiguous as the values of a block
// are. Core matrices (8 x 8 numbers, 128 bytes) lie one after the other, so that both offsets differ. All four ways to
// fill the two descriptors are tried; the product is of small whole numbers and must be exact.
//
//   nvcc -arch=sm_90a -o wgmma_probe wgmma_probe.cu && ./wgmma_probe
#include <cuda_bf16.h>
#ifdef __CUDACC_RTC__
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#else
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#endif

constexpr int M = 64, N = 64, K = 16, SIDE = 8, CORE = 128;

__device__ uint64_t descriptor(const void *start, uint32_t leading, uint32_t stride) {
  uint64_t address = (uint32_t)__cvta_generic_to_shared(start);
  return (address >> 4 & 0x3fff) | (uint64_t)(leading >> 4 & 0x3fff) << 16 | (uint64_t)(stride >> 4 & 0x3fff) << 32;
}

// y is what the unit gives for one choice of the offsets.
extern "C" __global__ void __launch_bounds__(128) product(const int *a, const int *b, float *y, uint32_t a_leading,
                                                          uint32_t a_stride, uint32_t b_leading, uint32_t b_stride) {
  __shared__ __align__(1024) __nv_bfloat16 a_cores[M * K];
  __shared__ __align__(1024) __nv_bfloat16 b_cores[K * N];
  for (int i = threadIdx.x; i < M * K; i += 128) {
    int m = i / K, k = i % K; // k contiguous in a core matrix; along k the next one is one core away
    a_cores[((m / SIDE) * (K / SIDE) + k / SIDE) * (CORE / 2) + (m % SIDE) * SIDE + k % SIDE] = __int2bfloat16_rn(a[i]);
  }
  for (int i = threadIdx.x; i < K * N; i += 128) {
    int k = i / N, n = i % N; // n contiguous in a core matrix; along n the next one is one core away
    b_cores[((k / SIDE) * (N / SIDE) + n / SIDE) * (CORE / 2) + (k % SIDE) * SIDE + n % SIDE] = __int2bfloat16_rn(b[i]);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  uint64_t left = descriptor(a_cores, a_leading, a_stride), right = descriptor(b_cores, b_leading, b_stride);
  float d[32];
  for (float &one : d) one = 0.0f;
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 1;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(left), "l"(right));
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
  for (int i = 0; i < 32; i++) y[(row + i % 4 / 2 * 8) * N + i / 4 * 8 + col + i % 2] = d[i];
}

#ifndef __CUDACC_RTC__
int main() {
  int *a, *b;
  float *y;
  cudaMallocManaged(&a, M * K * sizeof(int));
  cudaMallocManaged(&b, K * N * sizeof(int));
  cudaMallocManaged(&y, M * N * sizeof(float));
  for (int i = 0; i < M * K; i++) a[i] = i * 7 % 13 - 6;
  for (int i = 0; i < K * N; i++) b[i] = i * 5 % 11 - 5;
  const uint32_t along_k_of_a = CORE, along_m = CORE * (K / SIDE), along_n = CORE, along_k_of_b = CORE * (N / SIDE);
  int found = 0;
  for (int choice = 0; choice < 4; choice++) {
    bool a_swapped = choice & 1, b_swapped = choice & 2;
    for (int i = 0; i < M * N; i++) y[i] = NAN;
    product<<<1, 128>>>(a, b, y, a_swapped ? along_m : along_k_of_a, a_swapped ? along_k_of_a : along_m,
                        b_swapped ? along_k_of_b : along_n, b_swapped ? along_n : along_k_of_b);
    cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) return printf("%s\n", cudaGetErrorString(error)), 1;
    int wrong = 0;
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) {
        int want = 0;
        for (int k = 0; k < K; k++) want += a[m * K + k] * b[k * N + n];
        wrong += !(y[m * N + n] == (float)want);
      }
    found += wrong == 0;
    printf("A: leading offset along %s; B, n contiguous: leading offset along %s: %d of %d wrong\n", a_swapped ? "m" : "k",
           b_swapped ? "k" : "n", wrong, M * N);
  }
  return found == 1 ? 0 : 1;
}
#endif
