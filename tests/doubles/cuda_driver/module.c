/* Modules, functions and launches: kernels are functions of a shared library (kernel_abi.h). */
#define _GNU_SOURCE
#include "driver.h"
#include "kernel_abi.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_THREADS_IN_BLOCK = 1024, LONGEST_NAME = 512, DEFAULT_SHARED_BYTES = 49152 };
/* CUjit_option */
enum { INFO_LOG_BUFFER = 3, INFO_LOG_BUFFER_SIZE_BYTES, ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES };

struct module {
    struct object object;
    void *library;
};

struct function {
    struct object object;
    struct module *module;
    const struct double_kernel *kernel;
};

struct launch {
    const struct double_kernel *kernel;
    uint32_t grid[3], block[3], shared_bytes;
    void **arguments;
};

void free_module(struct object *object) {
    struct module *module = (struct module *)object;
    struct object *function = next_object(FUNCTION, NULL, NULL);
    while (function != NULL) {
        struct object *next = next_object(FUNCTION, NULL, function);
        if (((struct function *)function)->module == module)
            forget_object(function);
        function = next;
    }
    dlclose(module->library);
    forget_object(module);
}

static CUresult load(struct module **module, const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return CUDA_ERROR_INVALID_IMAGE;
    *module = new_object(MODULE, sizeof **module, current_context());
    (*module)->library = library;
    return CUDA_SUCCESS;
}

/* Of an ELF file whose section headers come last, as every linker writes it; 0 where it is for another machine. */
static size_t library_bytes(const void *image) {
    const Elf64_Ehdr *header = image;
#if defined(__x86_64__)
    const uint16_t machine = EM_X86_64;
#else
    const uint16_t machine = EM_AARCH64;
#endif
    if (header->e_machine != machine || header->e_type != ET_DYN || header->e_ident[EI_CLASS] != ELFCLASS64)
        return 0;
    return header->e_shoff + (size_t)header->e_shentsize * header->e_shnum;
}

static CUresult load_bytes(struct module **module, const void *image) {
    if (image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (memcmp(image, ELFMAG, SELFMAG) != 0)
        return CUDA_ERROR_INVALID_IMAGE;
    size_t bytes = library_bytes(image);
    if (bytes == 0)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const char *folder = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/kernels-XXXXXX", folder != NULL ? folder : P_tmpdir);
    int file = mkstemp(path);
    if (file < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    CUresult result = write(file, image, bytes) == (ssize_t)bytes ? load(module, path) : CUDA_ERROR_OPERATING_SYSTEM;
    close(file);
    unlink(path); /* the loaded library keeps it alive */
    return result;
}

API CUresult cuModuleLoad(struct module **module, const char *path) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (access(path, R_OK) != 0)
        return leave(CUDA_ERROR_FILE_NOT_FOUND);
    return leave(load(module, path));
}

API CUresult cuModuleLoadData(struct module **module, const void *image) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(load_bytes(module, image));
}

/* The options are settings of the compiler in the driver, and where it writes its log: there is none. */
static void write_empty_logs(unsigned count, const int *options, void **values) {
    for (unsigned i = 0; i < count; i++) {
        if (options[i] == INFO_LOG_BUFFER || options[i] == ERROR_LOG_BUFFER)
            *(char *)values[i] = '\0';
        if (options[i] == INFO_LOG_BUFFER_SIZE_BYTES || options[i] == ERROR_LOG_BUFFER_SIZE_BYTES)
            values[i] = NULL; /* what it wrote, 0 bytes */
    }
}

API CUresult cuModuleLoadDataEx(struct module **module, const void *image, unsigned count, const int *options,
                                void **values) {
    write_empty_logs(count, options, values);
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(load_bytes(module, image));
}

API CUresult cuModuleUnload(struct module *handle) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    struct object *module = live_object(handle, MODULE);
    if (module == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    settle(module->context);
    free_module(module);
    return leave(CUDA_SUCCESS);
}

API CUresult cuModuleGetFunction(struct function **function, struct module *handle, const char *name) {
    ENTER(NEEDS_CONTEXT);
    struct module *module = live_object(handle, MODULE);
    if (module == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    char symbol[LONGEST_NAME];
    snprintf(symbol, sizeof symbol, "%s__kernel", name);
    const struct double_kernel *kernel = dlsym(module->library, symbol);
    if (kernel == NULL)
        return leave(CUDA_ERROR_NOT_FOUND);
    if (kernel->abi != DOUBLE_KERNEL_ABI)
        return leave(CUDA_ERROR_NO_BINARY_FOR_GPU);
    *function = new_object(FUNCTION, sizeof **function, module->object.context);
    (*function)->module = module;
    (*function)->kernel = kernel;
    return leave(CUDA_SUCCESS);
}

/* 0 MAX_THREADS_PER_BLOCK, 5 PTX_VERSION and 6 BINARY_VERSION; sizes and registers, which a CPU has not, are 0. */
API CUresult cuFuncGetAttribute(int *value, int attribute, struct function *function) {
    ENTER(NEEDS_CONTEXT);
    if (live_object(function, FUNCTION) == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (attribute < 0 || attribute > 15)
        return leave(CUDA_ERROR_INVALID_VALUE);
    *value = attribute == 0 ? MOST_THREADS_IN_BLOCK : attribute == 5 || attribute == 6 ? 87 : 0;
    return leave(CUDA_SUCCESS);
}

/* A value that lies behind another one starts at a multiple of 16 bytes, enough for every type of CUDA. */
static size_t stored_bytes(uint32_t bytes) {
    return (bytes + 15) / 16 * 16;
}

struct launch *copied_launch(const struct launch *launch) {
    uint32_t count = launch->kernel->parameter_count;
    size_t bytes = 0, start = stored_bytes(sizeof *launch) + stored_bytes((uint32_t)(count * sizeof(void *)));
    for (uint32_t i = 0; i < count; i++)
        bytes += stored_bytes(launch->kernel->parameters[i].bytes);
    struct launch *copied = malloc(start + bytes); /* malloc aligns to 16 bytes */
    if (copied == NULL)
        abort();
    *copied = *launch;
    copied->arguments = (void **)((uint8_t *)copied + stored_bytes(sizeof *launch));
    uint8_t *at = (uint8_t *)copied + start;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = launch->kernel->parameters[i].bytes;
        copied->arguments[i] = memcpy(at, launch->arguments[i], size);
        at += stored_bytes(size);
    }
    return copied;
}

void free_launch(struct launch *launch) {
    free(launch);
}

void run_launch(const struct launch *launch) {
    struct double_block block = {.shared_bytes = launch->shared_bytes};
    memcpy(block.grid, launch->grid, sizeof block.grid);
    memcpy(block.block, launch->block, sizeof block.block);
    block.shared = aligned_alloc(256, (launch->shared_bytes / 256 + 1) * 256);
    for (block.index[2] = 0; block.index[2] < launch->grid[2]; block.index[2]++)
        for (block.index[1] = 0; block.index[1] < launch->grid[1]; block.index[1]++)
            for (block.index[0] = 0; block.index[0] < launch->grid[0]; block.index[0]++)
                launch->kernel->run_block(&block, launch->arguments);
    free(block.shared);
}

static bool good_shape(const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes) {
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    return threads > 0 && threads <= MOST_THREADS_IN_BLOCK && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 &&
           grid[0] > 0 && grid[1] > 0 && grid[2] > 0 && grid[0] <= INT32_MAX && grid[1] <= 65535 &&
           grid[2] <= 65535 && shared_bytes <= DEFAULT_SHARED_BYTES;
}

/* The packed form of the arguments (PyCUDA's): {1, buffer, 2, address of its length, 0}. */
static CUresult unpack(const struct double_kernel *kernel, void **extra, void **arguments) {
    uint8_t *buffer = NULL;
    size_t bytes = 0;
    for (; *extra != NULL; extra += 2) {
        if (extra[0] == (void *)1)
            buffer = extra[1];
        else if (extra[0] == (void *)2)
            bytes = *(size_t *)extra[1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    for (uint32_t i = 0; i < kernel->parameter_count; i++) {
        const struct double_parameter *parameter = &kernel->parameters[i];
        if (buffer == NULL || (size_t)parameter->offset + parameter->bytes > bytes)
            return CUDA_ERROR_INVALID_VALUE;
        arguments[i] = buffer + parameter->offset;
    }
    return CUDA_SUCCESS;
}

/* PyCUDA still calls it before every launch; the shape that counts is cuLaunchKernel's. */
API CUresult cuFuncSetBlockShape(struct function *handle, int x, int y, int z) {
    ENTER(NEEDS_CONTEXT);
    const uint32_t grid[] = {1, 1, 1}, block[] = {(uint32_t)x, (uint32_t)y, (uint32_t)z};
    if (live_object(handle, FUNCTION) == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    return leave(good_shape(grid, block, 0) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

API CUresult cuLaunchKernel(struct function *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                            void *stream_handle, void **arguments, void **extra) {
    ENTER(NEEDS_CONTEXT);
    const struct function *function = live_object(handle, FUNCTION);
    struct stream *stream = stream_of_handle(stream_handle);
    if (function == NULL || stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    const struct double_kernel *kernel = function->kernel;
    struct launch launch = {kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, arguments};
    void *unpacked[kernel->parameter_count + 1];
    if (!good_shape(launch.grid, launch.block, shared_bytes) || (arguments != NULL && extra != NULL))
        return leave(CUDA_ERROR_INVALID_VALUE);
    if (extra != NULL) {
        launch.arguments = unpacked;
        CUresult result = unpack(kernel, extra, unpacked);
        if (result != CUDA_SUCCESS)
            return leave(result);
    } else if (arguments == NULL && kernel->parameter_count > 0)
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(submit(stream, &(struct operation){.kind = KERNEL, .launch = &launch}));
}
