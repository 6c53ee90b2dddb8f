// Logits of any layout, and where the camera's pixels lie between them. Mirrored in runtime/cuda_tables.py.
#pragma once
#include "numbers.cuh"

struct Logits {
    const void *data;
    int classes, height, width;
    int class_stride, row_stride, column_stride; // in elements
};

struct alignas(16) Row { // a row of the camera, between two rows of logits
    int top, bottom;     // top is negative where the network does not look
    float weight;        // share of the bottom one
    int unused;
};

struct alignas(16) Segment { // pixels start to stop of each row, between two columns of logits
    int start, stop;
    int left, right; // left is negative where the network does not look
};

template <typename T> __device__ inline float logit(const Logits &logits, int place)
{
    return float_from(static_cast<const T *>(logits.data)[place]);
}

// How many of `count` bytes to store at once, so that all but the first and the last time it is an aligned word.
__device__ inline int bytes_at_once(const byte *at, int count)
{
    int to_next_word = 4 - static_cast<int>(reinterpret_cast<unsigned long long>(at) & 3);
    return count < to_next_word ? count : to_next_word;
}

// The first `count` bytes of a word, as `bytes_at_once` says: four are aligned.
__device__ inline void store(byte *at, unsigned values, int count)
{
    if (count == 4) {
        *reinterpret_cast<unsigned *>(at) = values;
        return;
    }
    for (int i = 0; i < count; i++)
        at[i] = static_cast<byte>(values >> 8 * i);
}

__device__ inline void fill(byte *row, const Segment &segment, unsigned value)
{
    int count;
    for (int x = segment.start; x < segment.stop; x += count) {
        count = bytes_at_once(row + x, segment.stop - x);
        store(row + x, value * 0x01010101u, count);
    }
}
