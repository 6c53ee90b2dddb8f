// How many pixels have each label.
//
// A thread goes down a strip of four columns and adds to memory when the label changes, which on a segmentation is
// seldom. Blocks add to different copies of the counts, so that they do not wait for each other.
#include "numbers.cuh"

constexpr int LABELS = 256, COPIES = 64, STRIP_ROWS = 32;

struct Run { // pixels with one label that are not yet counted
    unsigned label, pixels;
};

__device__ inline void add(Run &run, unsigned label, unsigned pixels, unsigned *counts)
{
    if (label != run.label) {
        if (run.pixels)
            atomicAdd(counts + run.label, run.pixels);
        run = {label, 0};
    }
    run.pixels += pixels;
}

extern "C" {

// copies: (COPIES, LABELS), zero before and changed by every block.
__global__ void class_counts(const byte *labels, int pitch, int height, int width, unsigned *copies)
{
    int x = 4 * (blockIdx.x * blockDim.x + threadIdx.x), top = STRIP_ROWS * (blockIdx.y * blockDim.y + threadIdx.y);
    int bottom = top + STRIP_ROWS < height ? top + STRIP_ROWS : height;
    unsigned *counts = copies + (blockIdx.y * gridDim.x + blockIdx.x) % COPIES * LABELS;
    Run run = {0, 0};
    for (int y = top; x < width && y < bottom; y++) {
        const byte *at = labels + static_cast<unsigned long long>(y) * pitch + x;
        if ((reinterpret_cast<unsigned long long>(at) & 3) == 0 && x + 4 <= width) {
            unsigned word = *reinterpret_cast<const unsigned *>(at);
            if (word == (word & 255) * 0x01010101u) {
                add(run, word & 255, 4, counts);
                continue;
            }
        }
        for (int i = 0; i < 4 && x + i < width; i++)
            add(run, at[i], 1, counts);
    }
    if (run.pixels)
        atomicAdd(counts + run.label, run.pixels);
}

// One thread for each label: the sum of its copies, which are zero afterwards.
__global__ void sum_class_counts(unsigned *copies, unsigned *counts)
{
    unsigned label = threadIdx.x, sum = 0;
    for (int copy = 0; copy < COPIES; copy++) {
        sum += copies[copy * LABELS + label];
        copies[copy * LABELS + label] = 0;
    }
    counts[label] = sum;
}

}
