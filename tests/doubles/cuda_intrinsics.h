/* What our kernels use of CUDA beyond kernel_shim.h, for g++, as the CUDA C++ Programming Guide and PTX define it. */
#include <cmath>
#include <cstdint>
#include <cstring>

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/* The low word of (high:low) >> (shift & 31). */
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}

/* Four bytes chosen from (high:low), each by the low three bits of a digit of the selector. */
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++)
        result |= static_cast<unsigned>(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}

/* The two 16-bit numbers of a times the two lowest bytes of b, added to c. */
inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) {
    return c + (a & 0xffff) * (b & 0xff) + (a >> 16) * (b >> 8 & 0xff);
}

/* The same for signed numbers. */
inline int __dp2a_lo(int a, int b, int c) {
    return c + static_cast<int16_t>(a) * static_cast<int8_t>(b) + (a >> 16) * static_cast<int8_t>(b >> 8);
}

inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }

inline unsigned atomicAdd(unsigned *address, unsigned value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

/* In numbers.cuh the GPU's own instructions do the following. */
inline unsigned saturated_pair(int low, int high) {
    const auto limited = [](int value) { return static_cast<unsigned>(value < 0 ? 0 : value > 255 ? 255 : value); };
    return limited(low) | limited(high) << 8;
}

template <typename T> inline float float_from_half(T value) {
    const unsigned sign = value.bits >> 15, exponent = value.bits >> 10 & 31, mantissa = value.bits & 0x3ff;
    if (exponent == 31)
        return __int_as_float(static_cast<int>(sign << 31 | 0x7f800000u | mantissa << 13));
    const float size = exponent ? std::ldexp(1024.0f + mantissa, static_cast<int>(exponent) - 25)
                                : std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -size : size;
}
