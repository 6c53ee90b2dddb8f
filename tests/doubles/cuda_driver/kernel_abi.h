/* What a kernel library for the CUDA driver double exports, C and C++.
 *
 * A "cubin" for the double is a shared library of this machine.  For each kernel NAME it exports one constant of type
 * `struct double_kernel` called NAME__kernel.  cuModuleLoad takes the library's path, cuModuleLoadData its bytes, and
 * cuModuleGetFunction NAME.  A launch calls `run_block` once for each block, x fastest, from one host thread; the
 * library loops over the block's threads.  kernel_shim.h makes all of this from CUDA C++.
 */
#ifndef CUDA_DRIVER_DOUBLE_KERNEL_ABI_H
#define CUDA_DRIVER_DOUBLE_KERNEL_ABI_H

#include <stdint.h>

enum { DOUBLE_KERNEL_ABI = 1 };

struct double_parameter {
    uint32_t offset; /* in the packed parameter buffer (CU_LAUNCH_PARAM_BUFFER_POINTER) */
    uint32_t bytes;
};

struct double_block {
    uint32_t grid[3];  /* gridDim */
    uint32_t block[3]; /* blockDim */
    uint32_t index[3]; /* blockIdx */
    uint32_t shared_bytes;
    void *shared; /* dynamic shared memory: shared_bytes, the same for all threads of the block, undefined at first */
};

struct double_kernel {
    uint32_t abi; /* DOUBLE_KERNEL_ABI */
    uint32_t parameter_count;
    const struct double_parameter *parameters;
    void (*run_block)(const struct double_block *block, void *const *arguments); /* arguments[i] -> the i-th value */
};

#endif
