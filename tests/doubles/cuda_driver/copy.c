/* Copies and fills, waiting and on a stream. */
#include "driver.h"

static bool pageable(const void *address) {
    return allocation_at((uint64_t)address) == NULL;
}

/* To pageable memory the driver waits, from it it takes a copy of its own at once (`submit` does); neither of them can
 * be captured. */
static CUresult copy_on(struct stream *stream, void *destination, const void *source, uint64_t bytes) {
    struct operation copy = {.kind = COPY, .destination = destination, .source = source, .bytes = bytes};
    if (stream == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0)
        return CUDA_SUCCESS;
    if (stream->capture != NULL && (pageable(destination) || pageable(source))) {
        spoil_capture(stream->capture);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    CUresult result = submit(stream, &copy);
    return result == CUDA_SUCCESS && pageable(destination) ? finish_stream(stream) : result;
}

static CUresult copy_and_wait(void *destination, const void *source, uint64_t bytes) {
    struct stream *legacy = current_context()->legacy;
    CUresult result = copy_on(legacy, destination, source, bytes);
    return result == CUDA_SUCCESS ? finish_stream(legacy) : result;
}

API CUresult cuMemcpyHtoD_v2(CUdeviceptr destination, const void *source, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (!device_range(destination, bytes) || !host_range(source, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_and_wait((void *)destination, source, bytes));
}

API CUresult cuMemcpyDtoH_v2(void *destination, CUdeviceptr source, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (!device_range(source, bytes) || !host_range(destination, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_and_wait(destination, (void *)source, bytes));
}

API CUresult cuMemcpyDtoD_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (!device_range(source, bytes) || !device_range(destination, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_and_wait((void *)destination, (void *)source, bytes));
}

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr destination, const void *source, size_t bytes, void *stream) {
    ENTER(NEEDS_CONTEXT);
    if (!device_range(destination, bytes) || !host_range(source, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_on(stream_of_handle(stream), (void *)destination, source, bytes));
}

API CUresult cuMemcpyDtoHAsync_v2(void *destination, CUdeviceptr source, size_t bytes, void *stream) {
    ENTER(NEEDS_CONTEXT);
    if (!device_range(source, bytes) || !host_range(destination, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_on(stream_of_handle(stream), destination, (void *)source, bytes));
}

API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes, void *stream) {
    ENTER(NEEDS_CONTEXT);
    if (!device_range(source, bytes) || !device_range(destination, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_on(stream_of_handle(stream), (void *)destination, (void *)source, bytes));
}

/* With unified addressing the driver finds out which side is which. */
static bool known_range(uint64_t address, uint64_t bytes) {
    return device_range(address, bytes) || host_range((void *)address, bytes);
}

API CUresult cuMemcpy(CUdeviceptr destination, CUdeviceptr source, size_t bytes) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (!known_range(destination, bytes) || !known_range(source, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_and_wait((void *)destination, (void *)source, bytes));
}

API CUresult cuMemcpyAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes, void *stream) {
    ENTER(NEEDS_CONTEXT);
    if (!known_range(destination, bytes) || !known_range(source, bytes))
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(copy_on(stream_of_handle(stream), (void *)destination, (void *)source, bytes));
}

static CUresult fill_on(struct stream *stream, CUdeviceptr address, uint32_t value, uint32_t width, size_t count) {
    struct operation fill = {.kind = FILL, .destination = (void *)address, .value = value, .width = width};
    fill.bytes = (uint64_t)width * count;
    if (stream == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (address % width != 0 || !device_range(address, fill.bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, &fill);
}

#define FILLS(name, type)                                                                     \
    API CUresult name##_v2(CUdeviceptr address, type value, size_t count) {                   \
        ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);                                             \
        return leave(fill_on(current_context()->legacy, address, value, sizeof value, count)); \
    }                                                                                         \
    API CUresult name##Async(CUdeviceptr address, type value, size_t count, void *stream) {   \
        ENTER(NEEDS_CONTEXT);                                                                 \
        return leave(fill_on(stream_of_handle(stream), address, value, sizeof value, count)); \
    }

FILLS(cuMemsetD8, uint8_t)
FILLS(cuMemsetD16, uint16_t)
FILLS(cuMemsetD32, uint32_t)
