// How sure the network is, at the camera's pixels, as in runtime/confidence.py: the largest softmax at the head's size,
// upsampled bilinearly, 0 to 255.
#include "logits.cuh"

constexpr float LEVELS = 255;
constexpr byte UNSEEN = 0; // of a pixel that the network did not look at

// One thread for each logit position. probabilities: the logits are such already.
template <typename T> __device__ void find_peak(const Logits &logits, int probabilities, float *peaks)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= logits.width || y >= logits.height)
        return;
    int place = y * logits.row_stride + x * logits.column_stride;
    float best = logit<T>(logits, place);
    for (int c = 1; c < logits.classes; c++)
        best = fmaxf(best, logit<T>(logits, c * logits.class_stride + place));
    float peak;
    if (probabilities) {
        if (logits.classes == 2) { // the second class says all
            float second = logit<T>(logits, logits.class_stride + place);
            best = fmaxf(second, 1 - second);
        }
        peak = LEVELS * fminf(fmaxf(best, 0.0f), 1.0f);
    } else {
        float total = 0;
        for (int c = 0; c < logits.classes; c++)
            total += expf(logit<T>(logits, c * logits.class_stride + place) - best);
        peak = LEVELS / total;
    }
    peaks[y * logits.width + x] = peak;
}

extern "C" {

__global__ void confidence_peaks_float16(Logits logits, int probabilities, float *peaks)
{
    find_peak<half_bits>(logits, probabilities, peaks);
}

__global__ void confidence_peaks_float32(Logits logits, int probabilities, float *peaks)
{
    find_peak<float>(logits, probabilities, peaks);
}

// One thread for each segment of each row, as in labels.cu. width: of `peaks`.
__global__ void confidence(const float *peaks, int width, const Row *rows, const Segment *segments,
                           const float *column_weights, int segment_count, int height, byte *levels, int pitch)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= segment_count || y >= height)
        return;
    const Row row = rows[y];
    const Segment segment = segments[x];
    byte *line = levels + static_cast<unsigned long long>(y) * pitch;
    if (row.top < 0 || segment.left < 0)
        return fill(line, segment, UNSEEN);
    const float *top = peaks + row.top * width, *bottom = peaks + row.bottom * width;
    float left = blended(top[segment.left], bottom[segment.left], row.weight);
    float right = blended(top[segment.right], bottom[segment.right], row.weight);
    int count;
    for (int at = segment.start; at < segment.stop; at += count) {
        count = bytes_at_once(line + at, segment.stop - at);
        unsigned values = 0;
        for (int i = 0; i < count; i++)
            values |= static_cast<unsigned>(blended(left, right, column_weights[at + i]) + 0.5f) << 8 * i;
        store(line + at, values, count);
    }
}

}
