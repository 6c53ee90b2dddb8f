/* Device memory, page-locked memory, and which addresses belong to it. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, DEVICE_MAP = 2, POISON = 0xff }; /* NaN as a float, 255 as a byte: nobody may rely on zeros */

static struct allocation *allocations = NULL;

struct allocation *allocation_at(uint64_t address) {
    for (struct allocation *a = allocations; a != NULL; a = a->next)
        if (address >= (uint64_t)a->start && address < (uint64_t)a->start + a->bytes)
            return a;
    return NULL;
}

static bool fits(const struct allocation *allocation, uint64_t address, uint64_t bytes) {
    return address - (uint64_t)allocation->start + bytes <= allocation->bytes;
}

bool device_range(uint64_t address, uint64_t bytes) {
    const struct allocation *allocation = allocation_at(address);
    return allocation != NULL && fits(allocation, address, bytes) &&
           (allocation->place == DEVICE || (allocation->flags & DEVICE_MAP));
}

/* Device memory is no host memory, though the CPU could read this double's; other memory the driver does not know. */
bool host_range(const void *address, uint64_t bytes) {
    const struct allocation *allocation = allocation_at((uint64_t)address);
    return address != NULL &&
           (allocation == NULL || (allocation->place != DEVICE && fits(allocation, (uint64_t)address, bytes)));
}

/* On a board whose GPU shares the memory, page-locked memory comes out of the same pool. */
uint64_t used_bytes(void) {
    uint64_t bytes = 0;
    for (const struct allocation *a = allocations; a != NULL; a = a->next)
        if (a->place == DEVICE || (a->place == PINNED && device_integrated()))
            bytes += a->bytes;
    return bytes;
}

long allocation_count(enum place place) {
    long count = 0;
    for (const struct allocation *a = allocations; a != NULL; a = a->next)
        count += a->place == place;
    return count;
}

static void add_allocation(enum place place, void *start, uint64_t bytes, unsigned flags) {
    struct allocation *added = malloc(sizeof *added);
    if (added == NULL)
        abort();
    *added = (struct allocation){place, start, bytes, flags, current_context(), allocations};
    allocations = added;
}

static void forget_allocation(struct allocation *forgotten) {
    for (struct allocation **link = &allocations; *link != NULL; link = &(*link)->next)
        if (*link == forgotten) {
            *link = forgotten->next;
            if (forgotten->place != REGISTERED)
                free(forgotten->start);
            free(forgotten);
            return;
        }
}

void free_memory_of(const struct context *context) {
    for (struct allocation *next, *a = allocations; a != NULL; a = next) {
        next = a->next;
        if (a->context == context)
            forget_allocation(a);
    }
}

static CUresult allocate(enum place place, void **start, uint64_t bytes, unsigned flags) {
    if (start == NULL || bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    bool counts = place == DEVICE || device_integrated();
    uint64_t total = device_memory_bytes(), used = used_bytes();
    if (counts && (used > total || bytes > total - used))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (posix_memalign(start, ALIGNMENT, bytes) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*start, POISON, bytes);
    add_allocation(place, *start, bytes, flags);
    return CUDA_SUCCESS;
}

static CUresult release(enum place place, uint64_t start) {
    struct allocation *allocation = allocation_at(start);
    if (allocation == NULL || allocation->place != place || (uint64_t)allocation->start != start)
        return place == REGISTERED ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : CUDA_ERROR_INVALID_VALUE;
    settle(allocation->context);
    forget_allocation(allocation);
    return CUDA_SUCCESS;
}

API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    ENTER(NEEDS_CONTEXT);
    uint64_t total = device_memory_bytes(), used = used_bytes();
    *free_bytes = used > total ? 0 : total - used;
    *total_bytes = total;
    return leave(CUDA_SUCCESS);
}

API CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(allocate(DEVICE, (void **)address, bytes, 0));
}

API CUresult cuMemFree_v2(CUdeviceptr address) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(address == 0 ? CUDA_SUCCESS : release(DEVICE, address));
}

API CUresult cuMemAllocHost_v2(void **address, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(allocate(PINNED, address, bytes, 0));
}

API CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (flags > 7)
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(allocate(PINNED, address, bytes, flags));
}

API CUresult cuMemFreeHost(void *address) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(release(PINNED, (uint64_t)address));
}

API CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (address == NULL || bytes == 0 || flags > 15)
        return leave(CUDA_ERROR_INVALID_VALUE);
    uint64_t start = (uint64_t)address;
    for (const struct allocation *a = allocations; a != NULL; a = a->next)
        if (start < (uint64_t)a->start + a->bytes && (uint64_t)a->start < start + bytes)
            return leave(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    add_allocation(REGISTERED, address, bytes, flags);
    return leave(CUDA_SUCCESS);
}

API CUresult cuMemHostUnregister(void *address) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(release(REGISTERED, (uint64_t)address));
}

/* As documented: only for memory that was allocated or registered with DEVICEMAP. */
API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device_address, void *address, unsigned flags) {
    ENTER(NEEDS_CONTEXT);
    const struct allocation *allocation = allocation_at((uint64_t)address);
    if (flags != 0 || allocation == NULL || allocation->place == DEVICE || !(allocation->flags & DEVICE_MAP))
        return leave(CUDA_ERROR_INVALID_VALUE);
    *device_address = (uint64_t)address;
    return leave(CUDA_SUCCESS);
}

API CUresult cuMemHostGetFlags(unsigned *flags, void *address) {
    ENTER(NEEDS_CONTEXT);
    const struct allocation *allocation = allocation_at((uint64_t)address);
    if (allocation == NULL || allocation->place != PINNED)
        return leave(CUDA_ERROR_INVALID_VALUE);
    *flags = allocation->flags;
    return leave(CUDA_SUCCESS);
}

API CUresult cuMemGetAddressRange_v2(CUdeviceptr *start, size_t *bytes, CUdeviceptr address) {
    ENTER(NEEDS_CONTEXT);
    const struct allocation *allocation = allocation_at(address);
    if (allocation == NULL || allocation->place != DEVICE)
        return leave(CUDA_ERROR_NOT_FOUND);
    if (start != NULL)
        *start = (uint64_t)allocation->start;
    if (bytes != NULL)
        *bytes = allocation->bytes;
    return leave(CUDA_SUCCESS);
}
