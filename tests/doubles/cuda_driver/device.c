/* One device, or as many as CUDA_DOUBLE_DEVICES says; what it claims to be comes from the environment, too. */
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_DRIVER_VERSION = 13000, MOST_DEVICES = 8 };
static const uint64_t DEFAULT_MEMORY_BYTES = 8ull << 30;

static bool init_done = false;
static uint64_t memory_bytes = 0; /* 0: CUDA_DOUBLE_MEMORY_BYTES or the default */

static long long number_from_environment(const char *name, long long fallback) {
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? atoll(text) : fallback;
}

/* "8.7" -> 8 and 7, those of Jetson Orin */
static void compute_capability(int *major, int *minor) {
    const char *text = getenv("CUDA_DOUBLE_COMPUTE_CAPABILITY");
    *major = 8, *minor = 7;
    if (text != NULL)
        sscanf(text, "%d.%d", major, minor);
}

bool initialised(void) {
    return init_done;
}

int device_count(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible != NULL && (*visible == '\0' || *visible == '-'))
        return 0;
    long long count = number_from_environment("CUDA_DOUBLE_DEVICES", 1);
    return count > MOST_DEVICES ? MOST_DEVICES : (int)count;
}

bool device_integrated(void) {
    return number_from_environment("CUDA_DOUBLE_INTEGRATED", 1) != 0;
}

uint64_t device_memory_bytes(void) {
    if (memory_bytes != 0)
        return memory_bytes;
    return (uint64_t)number_from_environment("CUDA_DOUBLE_MEMORY_BYTES", (long long)DEFAULT_MEMORY_BYTES);
}

void set_device_memory_bytes(uint64_t bytes) {
    memory_bytes = bytes;
}

API CUresult cuInit(unsigned flags) {
    ENTER(NO_CHECK);
    if (flags != 0)
        return leave(CUDA_ERROR_INVALID_VALUE);
    if (device_count() == 0)
        return leave(CUDA_ERROR_NO_DEVICE);
    init_done = true;
    return leave(CUDA_SUCCESS);
}

API CUresult cuDriverGetVersion(int *version) {
    if (version == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *version = (int)number_from_environment("CUDA_DOUBLE_DRIVER_VERSION", DEFAULT_DRIVER_VERSION);
    return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int *count) {
    ENTER(NEEDS_INIT);
    *count = device_count();
    return leave(CUDA_SUCCESS);
}

static CUresult checked_device(CUdevice device) {
    return device >= 0 && device < device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER(NEEDS_INIT);
    *device = ordinal;
    return leave(checked_device(ordinal));
}

API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    ENTER(NEEDS_INIT);
    const char *given = getenv("CUDA_DOUBLE_NAME");
    if (length > 0)
        snprintf(name, (size_t)length, "%s", given != NULL && *given != '\0' ? given : "CPU double");
    return leave(checked_device(device));
}

API CUresult cuDeviceGetUuid_v2(unsigned char uuid[16], CUdevice device) {
    ENTER(NEEDS_INIT);
    memset(uuid, 0, 16);
    uuid[15] = (unsigned char)device;
    return leave(checked_device(device));
}

API CUresult cuDeviceGetUuid(unsigned char uuid[16], CUdevice device) {
    return cuDeviceGetUuid_v2(uuid, device);
}

API CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
    ENTER(NEEDS_INIT);
    if (length > 0)
        snprintf(text, (size_t)length, "0000:%02x:00.0", (unsigned)device & 0xff);
    return leave(checked_device(device));
}

API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    ENTER(NEEDS_INIT);
    compute_capability(major, minor);
    return leave(checked_device(device));
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    ENTER(NEEDS_INIT);
    *bytes = device_memory_bytes();
    return leave(checked_device(device));
}

/* {number in CUdevice_attribute, value}; those of Jetson Orin NX where a host program may look at them.  Others are 0:
 * features that the double does not have. */
static const int attributes[][2] = {
    {1, 1024},        /* MAX_THREADS_PER_BLOCK */
    {2, 1024},        /* MAX_BLOCK_DIM_X */
    {3, 1024},        /* MAX_BLOCK_DIM_Y */
    {4, 64},          /* MAX_BLOCK_DIM_Z */
    {5, 2147483647},  /* MAX_GRID_DIM_X */
    {6, 65535},       /* MAX_GRID_DIM_Y */
    {7, 65535},       /* MAX_GRID_DIM_Z */
    {8, 49152},       /* MAX_SHARED_MEMORY_PER_BLOCK */
    {9, 65536},       /* TOTAL_CONSTANT_MEMORY */
    {10, 32},         /* WARP_SIZE */
    {11, 2147483647}, /* MAX_PITCH */
    {12, 65536},      /* MAX_REGISTERS_PER_BLOCK */
    {13, 918000},     /* CLOCK_RATE, kHz */
    {14, 512},        /* TEXTURE_ALIGNMENT */
    {15, 1},          /* GPU_OVERLAP */
    {16, 8},          /* MULTIPROCESSOR_COUNT */
    {19, 1},          /* CAN_MAP_HOST_MEMORY */
    {31, 1},          /* CONCURRENT_KERNELS */
    {36, 3199000},    /* MEMORY_CLOCK_RATE, kHz */
    {37, 128},        /* GLOBAL_MEMORY_BUS_WIDTH, bits */
    {38, 4194304},    /* L2_CACHE_SIZE */
    {39, 1536},       /* MAX_THREADS_PER_MULTIPROCESSOR */
    {40, 2},          /* ASYNC_ENGINE_COUNT */
    {41, 1},          /* UNIFIED_ADDRESSING */
    {78, 1},          /* STREAM_PRIORITIES_SUPPORTED */
    {91, 1},          /* CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM */
    {99, 1},          /* HOST_REGISTER_SUPPORTED */
};
enum { INTEGRATED = 18, PCI_BUS_ID = 33, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, LAST_ATTRIBUTE = 160 };

API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    ENTER(NEEDS_INIT);
    if (value == NULL || attribute < 1 || attribute > LAST_ATTRIBUTE)
        return leave(CUDA_ERROR_INVALID_VALUE);
    int major, minor;
    compute_capability(&major, &minor);
    *value = 0;
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
        if (attributes[i][0] == attribute)
            *value = attributes[i][1];
    if (attribute == INTEGRATED)
        *value = device_integrated();
    if (attribute == PCI_BUS_ID)
        *value = device;
    if (attribute == CAPABILITY_MAJOR)
        *value = major;
    if (attribute == CAPABILITY_MINOR)
        *value = minor;
    return leave(checked_device(device));
}
