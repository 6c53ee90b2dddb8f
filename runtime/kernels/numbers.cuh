// Number types, and what CUDA C++ has no word for, or only in a header that not every machine with NVRTC has.
#pragma once

using byte = unsigned char;

struct half_bits { // an IEEE 754 binary16 number
    unsigned short bits;
};

#define LOWEST (-__int_as_float(0x7f800000)) // minus infinity

#ifdef __CUDACC__
__device__ inline float float_from(half_bits value)
{
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

// Both limited to 0..255, `low` in bits 0 to 7 and `high` in bits 8 to 15.
__device__ inline unsigned saturated_pair(int low, int high)
{
    unsigned result;
    asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, 0;" : "=r"(result) : "r"(high), "r"(low));
    return result;
}
#endif

__device__ inline float float_from(float value)
{
    return value;
}

// The value at `weight`, 0 to 1, on the way from a to b: three roundings, in the order of runtime/labels.py.
__device__ inline float blended(float a, float b, float weight)
{
    return a + weight * (b - a);
}
