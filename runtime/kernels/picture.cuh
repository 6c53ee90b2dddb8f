// Pixels of a camera's picture in every format. Mirrored in runtime/cuda_pictures.py.
#pragma once
#include "numbers.cuh"

constexpr int COLOUR_BITS = 10; // of the fixed point in which OpenCV's transform, and so runtime/yuv.py, works too

struct Colour {        // of a YUV format: (luma Y + chroma (U - 128, V - 128) + offset) >> COLOUR_BITS
    int luma;          // the same in every band
    int chroma[3];     // of red, green and blue: U's weight in bits 0 to 15, V's in bits 16 to 31
    int offset[3];
};

struct Picture {
    const byte *plane;  // all of it, or Y of NV12
    const byte *chroma; // U and V of NV12
    int pitch, chroma_pitch; // bytes from one row to the next
    Colour colour;
};

struct Pixels { // two neighbours: the left one in bits 0 to 7, the right one in bits 8 to 15
    unsigned red, green, blue;
};

// Two pixels of one band. Their chroma: U in bits 0 to 7, V in bits 8 to 15, both less 128.
__device__ inline unsigned band(const Colour &colour, int index, int left, int left_chroma, int right, int right_chroma)
{
    int weights = colour.chroma[index], offset = colour.offset[index];
    return saturated_pair((__dp2a_lo(weights, left_chroma, offset) + colour.luma * left) >> COLOUR_BITS,
                          (__dp2a_lo(weights, right_chroma, offset) + colour.luma * right) >> COLOUR_BITS);
}

// Two pixels from their Y, and U and V in the two lowest bytes.
__device__ inline Pixels pixels(const Colour &colour, int left, unsigned left_chroma, int right, unsigned right_chroma)
{
    int first = static_cast<int>(left_chroma ^ 0x8080u), second = static_cast<int>(right_chroma ^ 0x8080u);
    return {band(colour, 0, left, first, right, second), band(colour, 1, left, first, right, second),
            band(colour, 2, left, first, right, second)};
}

// Six bytes from any address: `low` has four, `high` two. Whole words are read, so up to three bytes behind them too.
__device__ inline void load_six(const byte *at, unsigned &low, unsigned &high)
{
    unsigned past = static_cast<unsigned>(reinterpret_cast<unsigned long long>(at) & 3), shift = past * 8;
    const unsigned *words = reinterpret_cast<const unsigned *>(at - past);
    unsigned middle = words[1];
    low = __funnelshift_r(words[0], middle, shift);
    high = shift > 16 ? __funnelshift_r(middle, words[2], shift) : middle >> shift;
}

// A format is a type, for which pair() gives the pixels (row, column) and (row, column + step), where step is 0 or 1.

template <int RED, int BLUE> struct Interleaved {}; // three bands, at these bytes of a pixel, green between them
typedef Interleaved<2, 0> Bgr;
typedef Interleaved<0, 2> RgbOrder;

struct Grey {};

struct Nv12 {}; // one U and one V for 2 x 2 pixels, interleaved

template <int LUMA> struct Packed {}; // two pixels in a word: Y at bits LUMA and LUMA + 16, U and V at the others
typedef Packed<0> Yuyv;
typedef Packed<8> Uyvy;

__device__ inline const byte *line_of(const byte *plane, int row, int pitch)
{
    return plane + static_cast<unsigned long long>(row) * pitch;
}

template <int RED, int BLUE>
__device__ inline Pixels pair(Interleaved<RED, BLUE>, const Picture &picture, int row, int column, int step)
{
    const byte *at = line_of(picture.plane, row, picture.pitch) + 3 * column;
    if (step == 0)
        return {at[RED] * 0x101u, at[1] * 0x101u, at[BLUE] * 0x101u};
    unsigned low, high; // bytes 0 to 2 are the left pixel, 3 to 5 the right one
    load_six(at, low, high);
    return {__byte_perm(low, high, 0x30 + 0x11 * RED) & 0xffff, __byte_perm(low, high, 0x30 + 0x11) & 0xffff,
            __byte_perm(low, high, 0x30 + 0x11 * BLUE) & 0xffff};
}

__device__ inline Pixels pair(Grey, const Picture &picture, int row, int column, int step)
{
    const byte *at = line_of(picture.plane, row, picture.pitch) + column;
    unsigned both = at[0] | static_cast<unsigned>(at[step]) << 8;
    return {both, both, both};
}

__device__ inline Pixels pair(Nv12, const Picture &picture, int row, int column, int step)
{
    const byte *luma = line_of(picture.plane, row, picture.pitch) + column;
    const unsigned short *chroma =
        reinterpret_cast<const unsigned short *>(line_of(picture.chroma, row >> 1, picture.chroma_pitch));
    return pixels(picture.colour, luma[0], chroma[column >> 1], luma[step], chroma[(column + step) >> 1]);
}

template <int LUMA>
__device__ inline Pixels pair(Packed<LUMA>, const Picture &picture, int row, int column, int step)
{
    const unsigned *line = reinterpret_cast<const unsigned *>(line_of(picture.plane, row, picture.pitch));
    const int right = column + step, CHROMA = LUMA ? 0x20 : 0x31; // the bytes of U and V
    unsigned first = line[column >> 1], second = line[right >> 1];
    return pixels(picture.colour, first >> ((column & 1) * 16 + LUMA) & 255, __byte_perm(first, 0, CHROMA),
                  second >> ((right & 1) * 16 + LUMA) & 255, __byte_perm(second, 0, CHROMA));
}
