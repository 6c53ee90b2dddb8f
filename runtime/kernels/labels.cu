// Labels at the camera's pixels straight from logits at the head's size, equal to runtime/labels.py pixel by pixel.
//
// A class that wins at all four corners of a cell between logits wins everywhere in it. `cell_winners` finds these
// cells once, with a margin that the roundings of `blended` cannot use up; `labels` fills them without a look at the
// logits, and does what labels.py does in the others, in the same order and with the same roundings (so compile without
// contraction to fused multiply-adds).
#include "logits.cuh"

constexpr byte OUTSIDE = 255; // label of a pixel that the network did not look at
constexpr byte MIXED = 255;   // in place of the winner, of a cell whose pixels must be interpolated

// With M the largest logit at the corners, |b - a| is at most 2 M and a blend errs by at most 5 M 2^-24, so two of them
// differ from the truth by less than M 2^-20. Among numbers that are not normal the error is absolute.
constexpr float RELATIVE_MARGIN = 1.0f / (1 << 19), LEAST_MARGIN = 1e-30f;
constexpr int GROUPS = 8; // of 32 classes

struct Corner { // the two best classes at one logit position
    float best, second;
    int winner;
};

__device__ inline void see(Corner &corner, float value, int label)
{
    if (value > corner.best) {
        corner.second = corner.best;
        corner.best = value;
        corner.winner = label;
    } else if (value > corner.second) {
        corner.second = value;
    }
}

// One thread for each cell between 2 x 2 logits; the last row and column of a map of one have themselves twice.
template <typename T> __device__ void find_winners(const Logits &logits, byte *cells, int rows, int columns)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= columns || y >= rows)
        return;
    int right = x + 1 < logits.width ? x + 1 : x, bottom = y + 1 < logits.height ? y + 1 : y;
    int places[4] = {y * logits.row_stride + x * logits.column_stride,
                     y * logits.row_stride + right * logits.column_stride,
                     bottom * logits.row_stride + x * logits.column_stride,
                     bottom * logits.row_stride + right * logits.column_stride};
    Corner corners[4];
    for (int i = 0; i < 4; i++)
        corners[i] = {LOWEST, LOWEST, 0};
    float largest = 0;
    for (int c = 0; c < logits.classes; c++)
        for (int i = 0; i < 4; i++) {
            float value = logit<T>(logits, c * logits.class_stride + places[i]);
            see(corners[i], value, c);
            largest = fmaxf(largest, fabsf(value));
        }
    float needed = largest * RELATIVE_MARGIN + LEAST_MARGIN;
    bool sure = true; // an infinite logit makes `needed` infinite, and the cell mixed
    for (int i = 0; i < 4; i++)
        sure = sure && corners[i].winner == corners[0].winner && corners[i].best - corners[i].second > needed;
    cells[y * columns + x] = sure ? static_cast<byte>(corners[0].winner) : MIXED;
}

struct Ends { // of the line between two columns of logits, along one row of pixels
    float left, right;
};

template <typename T> __device__ inline Ends ends(const Logits &logits, const Row &row, const Segment &segment, int c)
{
    int top = c * logits.class_stride + row.top * logits.row_stride;
    int bottom = c * logits.class_stride + row.bottom * logits.row_stride;
    int left = segment.left * logits.column_stride, right = segment.right * logits.column_stride;
    return {blended(logit<T>(logits, top + left), logit<T>(logits, bottom + left), row.weight),
            blended(logit<T>(logits, top + right), logit<T>(logits, bottom + right), row.weight)};
}

// Bit c % 32 of candidates[c / 32]: whether class c can win between the ends, of which `first` and `last` are won.
template <typename T>
__device__ inline void find_candidates(const Logits &logits, const Row &row, const Segment &segment, int first,
                                       int last, unsigned *candidates)
{
    Ends of_first = ends<T>(logits, row, segment, first), of_last = ends<T>(logits, row, segment, last);
    for (int c = 0; c < logits.classes; c++) {
        Ends of_class = ends<T>(logits, row, segment, c);
        // A third class must beat `last` at the left and `first` at the right, or one of them is above it all the way.
        bool third = of_class.left > of_last.left && of_class.right > of_first.right;
        if (c % 32 == 0)
            candidates[c / 32] = 0;
        if (c == first || c == last || third)
            candidates[c / 32] |= 1u << c % 32;
    }
}

// The labels of `count` pixels, at most four, one in each byte.
template <typename T>
__device__ inline unsigned interpolated(const Logits &logits, const Row &row, const Segment &segment,
                                        const unsigned *candidates, const float *weights, int count)
{
    float best[4] = {LOWEST, LOWEST, LOWEST, LOWEST};
    unsigned labels = 0;
    for (int group = 0; group * 32 < logits.classes; group++)
        for (unsigned left = candidates[group]; left; left &= left - 1) {
            int c = group * 32 + __ffs(left) - 1;
            Ends line = ends<T>(logits, row, segment, c);
            for (int i = 0; i < 4; i++) {
                float value = blended(line.left, line.right, weights[i < count ? i : 0]);
                if (value > best[i]) {
                    best[i] = value;
                    labels = (labels & ~(0xffu << 8 * i)) | static_cast<unsigned>(c) << 8 * i;
                }
            }
        }
    return labels;
}

// One thread for each segment of each row.
template <typename T>
__device__ void label_segment(const Logits &logits, const byte *cells, const Row *rows, const Segment *segments,
                              const float *column_weights, int segment_count, int height, byte *labels, int pitch)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= segment_count || y >= height)
        return;
    const Row row = rows[y];
    const Segment segment = segments[x];
    byte *line = labels + static_cast<unsigned long long>(y) * pitch;
    if (row.top < 0 || segment.left < 0)
        return fill(line, segment, OUTSIDE);
    int cell_columns = logits.width > 1 ? logits.width - 1 : 1;
    byte winner = cells[row.top * cell_columns + segment.left];
    if (winner != MIXED)
        return fill(line, segment, winner);

    float best_left = LOWEST, best_right = LOWEST;
    int first = 0, last = 0;
    for (int c = 0; c < logits.classes; c++) {
        Ends line_ends = ends<T>(logits, row, segment, c);
        if (line_ends.left > best_left) {
            best_left = line_ends.left;
            first = c;
        }
        if (line_ends.right > best_right) {
            best_right = line_ends.right;
            last = c;
        }
    }
    if (first == last)
        return fill(line, segment, first);
    unsigned candidates[GROUPS];
    find_candidates<T>(logits, row, segment, first, last, candidates);
    int count;
    for (int at = segment.start; at < segment.stop; at += count) {
        count = bytes_at_once(line + at, segment.stop - at);
        store(line + at, interpolated<T>(logits, row, segment, candidates, column_weights + at, count), count);
    }
}

extern "C" {

__global__ void cell_winners_float16(Logits logits, byte *cells, int rows, int columns)
{
    find_winners<half_bits>(logits, cells, rows, columns);
}

__global__ void cell_winners_float32(Logits logits, byte *cells, int rows, int columns)
{
    find_winners<float>(logits, cells, rows, columns);
}

__global__ void labels_float16(Logits logits, const byte *cells, const Row *rows, const Segment *segments,
                               const float *column_weights, int segment_count, int height, byte *labels, int pitch)
{
    label_segment<half_bits>(logits, cells, rows, segments, column_weights, segment_count, height, labels, pitch);
}

__global__ void labels_float32(Logits logits, const byte *cells, const Row *rows, const Segment *segments,
                               const float *column_weights, int segment_count, int height, byte *labels, int pitch)
{
    label_segment<float>(logits, cells, rows, segments, column_weights, segment_count, height, labels, pitch);
}

}
