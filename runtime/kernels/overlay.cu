// The class colours over a camera's picture, as runtime/overlay.py blends them, into BGR.
#include "picture.cuh"

constexpr unsigned KNOWN = 1u << 24; // in a colour: this label has a class

__device__ inline byte mixed(unsigned picture, unsigned colour, float alpha)
{
    float value = static_cast<float>(picture) * (1 - alpha) + static_cast<float>(colour) * alpha;
    return static_cast<byte>(value + 0.5f);
}

// One thread for each pixel. colours: of the 256 labels, blue, green and red from bit 0 on, and KNOWN.
template <typename Format>
__device__ void blend(const Picture &picture, const byte *labels, int labels_pitch, const unsigned *colours,
                      float alpha, byte *bgr, int height, int width)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    const Pixels pixel = pair(Format(), picture, y, x, 0);
    unsigned colour = colours[labels[static_cast<unsigned long long>(y) * labels_pitch + x]];
    float share = colour & KNOWN ? alpha : 0.0f;
    byte *target = bgr + (static_cast<unsigned long long>(y) * width + x) * 3;
    target[0] = mixed(pixel.blue & 255, colour & 255, share);
    target[1] = mixed(pixel.green & 255, colour >> 8 & 255, share);
    target[2] = mixed(pixel.red & 255, colour >> 16 & 255, share);
}

#define OVERLAY(name, Format)                                                                                        \
    __global__ void name(Picture picture, const byte *labels, int labels_pitch, const unsigned *colours,             \
                         float alpha, byte *bgr, int height, int width)                                              \
    {                                                                                                                \
        blend<Format>(picture, labels, labels_pitch, colours, alpha, bgr, height, width);                            \
    }

extern "C" {
OVERLAY(overlay_bgr, Bgr)
OVERLAY(overlay_rgb, RgbOrder)
OVERLAY(overlay_grey, Grey)
OVERLAY(overlay_nv12, Nv12)
OVERLAY(overlay_yuyv, Yuyv)
OVERLAY(overlay_uyvy, Uyvy)
}
