// Whether all logits are numbers: labels of NaN and infinity mean nothing.
#include "numbers.cuh"

template <typename T> __device__ inline void find_infinite(const T *values, unsigned long long count, byte *found)
{
    unsigned columns = gridDim.x * blockDim.x, rows = gridDim.y * blockDim.y;
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    for (unsigned long long at = y * columns + x; at < count; at += columns * rows) {
        float value = float_from(values[at]);
        float zero = value - value; // NaN of NaN and of infinity
        if (zero != zero)
            *found = 1;
    }
}

extern "C" {

// found: 0 before; every thread that finds one writes the same.
__global__ void find_infinite_float16(const half_bits *values, unsigned long long count, byte *found)
{
    find_infinite(values, count, found);
}

__global__ void find_infinite_float32(const float *values, unsigned long long count, byte *found)
{
    find_infinite(values, count, found);
}

}
