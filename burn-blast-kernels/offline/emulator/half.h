// The 16-bit types: storage, and conversion to and from f32 with ties to even. TF32, which is stored as f32.
#pragma once
#include <cstring>

namespace emu {

inline float as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned as_bits(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float bf16_to_float(unsigned short bits) { return as_float(unsigned(bits) << 16); }

inline unsigned short bf16_from_float(float value) {
    unsigned bits = as_bits(value);
    if (value != value) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f16_to_float(unsigned short bits) {
    unsigned sign = unsigned(bits & 0x8000) << 16, exponent = bits >> 10 & 31, part = bits & 1023;
    if (exponent == 31) return as_float(sign | 0x7f800000 | part << 13);
    // Subnormals are multiples of 2^-24.
    if (exponent == 0) return as_float(sign | as_bits(float(part) * as_float(0x33800000)));
    return as_float(sign | (exponent + 112) << 23 | part << 13);
}

inline unsigned short f16_from_float(float value) {
    unsigned bits = as_bits(value), magnitude = bits & 0x7fffffff;
    unsigned short sign = (unsigned short)(bits >> 16 & 0x8000);
    if (value != value) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    // Below 2^-14 the spacing is that of 0.5, 2^-24: the addition rounds.
    if (magnitude < 0x38800000) {
        return (unsigned short)(sign | (as_bits(as_float(magnitude) + 0.5f) - 0x3f000000));
    }
    unsigned rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23);
    return (unsigned short)(sign | rounded >> 13);
}

// As cvt.rna.tf32.f32 rounds: ties away from zero.
inline float tf32_from_float(float value) {
    return value != value ? value : as_float((as_bits(value) + 0x1000) & ~0x1fffu);
}

// What a multiplier sees of 32 bits that hold TF32: not the lowest 13.
inline float tf32_to_float(unsigned bits) { return as_float(bits & ~0x1fffu); }

} // namespace emu

struct __half {
    unsigned short bits;
    __half() = default;
    __half(int value) : __half(float(value)) {}
    __half(float value) : bits(emu::f16_from_float(value)) {}
    operator float() const { return emu::f16_to_float(bits); }
};

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(int value) : __nv_bfloat16(float(value)) {}
    __nv_bfloat16(float value) : bits(emu::bf16_from_float(value)) {}
    operator float() const { return emu::bf16_to_float(bits); }
};
