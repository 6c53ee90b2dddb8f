// The network's input from a camera's picture in one pass: converted, resized, RGB, as pspnet.geometry.network_input.
//
// Pixels are converted first and then interpolated, in the fixed point of OpenCV's resize, whose vector code rounds a
// little otherwise: one grey level apart at most.
#include "picture.cuh"

constexpr int WEIGHT_BITS = 11;
constexpr int ROWS = 4; // of the input, one below the other, that a thread writes

struct alignas(8) Tap { // of a row or a column of the network's input
    int first;          // row or column of the picture, whose next one has the other weight; negative in the border
    unsigned weights;   // of the first in bits 0 to 15, of the next in bits 16 to 31; together 2^WEIGHT_BITS
};

struct Line { // of the picture at one column of the input, interpolated along the row
    int row;
    unsigned red, green, blue;
};

template <typename Format>
__device__ inline Line line(const Picture &picture, int row, const Tap &column, int column_step)
{
    const Pixels pixels = pair(Format(), picture, row, column.first, column_step);
    return {row, __dp2a_lo(column.weights, pixels.red, 0u), __dp2a_lo(column.weights, pixels.green, 0u),
            __dp2a_lo(column.weights, pixels.blue, 0u)};
}

__device__ inline byte between(unsigned upper, unsigned lower, unsigned weights)
{
    const unsigned half = 1u << (2 * WEIGHT_BITS - 1);
    return static_cast<byte>((upper * (weights & 0xffff) + lower * (weights >> 16) + half) >> 2 * WEIGHT_BITS);
}

// One thread for ROWS pixels of the input; lines of the picture that two of them need are made once. row_step,
// column_step: to the next row and column of the picture, 0 in a view of one. border: red, green and blue of pixels
// outside the view, from bit 0 on.
template <typename Format>
__device__ void resize(const Picture &picture, const Tap *rows, const Tap *columns, int row_step, int column_step,
                       unsigned border, byte *input, int height, int width)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, top = ROWS * (blockIdx.y * blockDim.y + threadIdx.y);
    if (x >= width)
        return;
    const Tap column = columns[x];
    int bottom = top + ROWS < height ? top + ROWS : height;
    byte *target = input + (static_cast<unsigned long long>(top) * width + x) * 3;
    Line upper = {-1, 0, 0, 0}, lower = upper;
    for (int y = top; y < bottom; y++, target += 3 * width) {
        const Tap row = rows[y];
        if (row.first < 0 || column.first < 0) {
            for (int i = 0; i < 3; i++)
                target[i] = static_cast<byte>(border >> 8 * i);
            continue;
        }
        if (upper.row != row.first)
            upper = lower.row == row.first ? lower : line<Format>(picture, row.first, column, column_step);
        if (row.weights >> 16 && lower.row != row.first + row_step)
            lower = line<Format>(picture, row.first + row_step, column, column_step);
        target[0] = between(upper.red, lower.red, row.weights); // where `lower` is an older line, its weight is 0
        target[1] = between(upper.green, lower.green, row.weights);
        target[2] = between(upper.blue, lower.blue, row.weights);
    }
}

#define PREPROCESS(name, Format)                                                                                    \
    __global__ void name(Picture picture, const Tap *rows, const Tap *columns, int row_step, int column_step,        \
                         unsigned border, byte *input, int height, int width)                                        \
    {                                                                                                                \
        resize<Format>(picture, rows, columns, row_step, column_step, border, input, height, width);                 \
    }

extern "C" {
PREPROCESS(preprocess_bgr, Bgr)
PREPROCESS(preprocess_rgb, RgbOrder)
PREPROCESS(preprocess_grey, Grey)
PREPROCESS(preprocess_nv12, Nv12)
PREPROCESS(preprocess_yuyv, Yuyv)
PREPROCESS(preprocess_uyvy, Uyvy)
}
