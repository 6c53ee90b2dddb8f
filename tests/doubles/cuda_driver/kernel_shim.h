/* CUDA C++ for g++: include this first, write the kernels, then DOUBLE_KERNEL(name) for each of them.
 *
 * Threads of a block run one after the other, x fastest, so a kernel that needs __syncthreads does not compile.
 */
#ifndef CUDA_DRIVER_DOUBLE_KERNEL_SHIM_H
#define CUDA_DRIVER_DOUBLE_KERNEL_SHIM_H

#include "kernel_abi.h"

#include <cstddef>
#include <type_traits>
#include <utility>

#define __global__ static
#define __device__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
using dim3 = uint3;

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;
inline thread_local void *dynamic_shared_memory; /* of `extern __shared__` */

namespace double_kernels {

template <typename... P, std::size_t... I>
void run_block(void (*kernel)(P...), const double_block *at, void *const *arguments, std::index_sequence<I...>) {
    gridDim = {at->grid[0], at->grid[1], at->grid[2]};
    blockDim = {at->block[0], at->block[1], at->block[2]};
    blockIdx = {at->index[0], at->index[1], at->index[2]};
    dynamic_shared_memory = at->shared;
    for (unsigned z = 0; z < blockDim.z; z++)
        for (unsigned y = 0; y < blockDim.y; y++)
            for (unsigned x = 0; x < blockDim.x; x++) {
                threadIdx = {x, y, z};
                kernel(*static_cast<std::remove_cv_t<P> *>(arguments[I])...);
            }
}

/* Offsets of the parameters as CUDA packs them: each at a multiple of its alignment. */
template <typename... P> struct parameters {
    static constexpr std::size_t count = sizeof...(P);
    double_parameter of[count + 1] = {};
    constexpr parameters() {
        const std::size_t bytes[] = {sizeof(P)..., 0}, alignments[] = {alignof(P)..., 1};
        std::size_t offset = 0;
        for (std::size_t i = 0; i < count; i++) {
            offset = (offset + alignments[i] - 1) / alignments[i] * alignments[i];
            of[i] = {static_cast<uint32_t>(offset), static_cast<uint32_t>(bytes[i])};
            offset += bytes[i];
        }
    }
};

template <typename... P> constexpr parameters<std::remove_cv_t<P>...> parameters_of(void (*)(P...)) {
    return {};
}

template <typename... P> constexpr auto indices_of(void (*)(P...)) {
    return std::index_sequence_for<P...>{};
}

} // namespace double_kernels

#define DOUBLE_KERNEL(name)                                                                    \
    static constexpr auto name##__parameters = double_kernels::parameters_of(name);            \
    static void name##__run_block(const double_block *block, void *const *arguments) {         \
        double_kernels::run_block(name, block, arguments, double_kernels::indices_of(name));   \
    }                                                                                          \
    extern "C" __attribute__((visibility("default"))) const double_kernel name##__kernel;      \
    const double_kernel name##__kernel = {DOUBLE_KERNEL_ABI, name##__parameters.count,         \
                                          name##__parameters.of, name##__run_block};

#endif
