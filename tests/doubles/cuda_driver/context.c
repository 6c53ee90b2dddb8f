/* Contexts: one primary context a device, contexts of one's own, and a stack of them for each thread. */
#include "driver.h"

#include <stdlib.h>

enum { MOST_DEVICES = 8, DEEPEST = 64 };

static struct context *primary[MOST_DEVICES];
static __thread struct context *stack[DEEPEST];
static __thread int depth = 0;

struct context *current_context(void) {
    return depth > 0 ? stack[depth - 1] : NULL;
}

static struct context *new_context(CUdevice device, unsigned flags) {
    struct context *context = new_object(CONTEXT, sizeof *context, NULL);
    context->device = device;
    context->flags = flags;
    context->users = 1;
    context->legacy = new_stream(context, 0, 0);
    return context;
}

/* With everything in it, as the driver does when the last user of a primary context goes. */
static void destroy_context(struct context *context) {
    struct object *object;
    settle(context);
    while ((object = next_object(GRAPH_EXEC, context, NULL)) != NULL)
        drop_graph((struct graph *)object);
    while ((object = next_object(MODULE, context, NULL)) != NULL)
        free_module(object);
    while ((object = next_object(EVENT, context, NULL)) != NULL)
        forget_object(object);
    while ((object = next_object(STREAM, context, NULL)) != NULL)
        free_stream((struct stream *)object);
    free_memory_of(context);
    for (int device = 0; device < MOST_DEVICES; device++)
        if (primary[device] == context)
            primary[device] = NULL;
    forget_object(context);
}

void forget_contexts(void) {
    struct object *object;
    while ((object = next_object(CONTEXT, NULL, NULL)) != NULL)
        destroy_context((struct context *)object);
    while ((object = next_object(GRAPH, NULL, NULL)) != NULL)
        drop_graph((struct graph *)object);
    depth = 0;
}

static CUresult checked_device(CUdevice device) {
    return device >= 0 && device < device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

API CUresult cuDevicePrimaryCtxRetain(struct context **context, CUdevice device) {
    ENTER(NEEDS_INIT);
    if (checked_device(device) != CUDA_SUCCESS)
        return leave(CUDA_ERROR_INVALID_DEVICE);
    if (sticky_error() != CUDA_SUCCESS)
        return leave(sticky_error());
    if (primary[device] == NULL)
        primary[device] = new_context(device, 0);
    else
        primary[device]->users++;
    *context = primary[device];
    return leave(CUDA_SUCCESS);
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    ENTER(NEEDS_INIT);
    if (checked_device(device) != CUDA_SUCCESS)
        return leave(CUDA_ERROR_INVALID_DEVICE);
    if (primary[device] == NULL)
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (--primary[device]->users == 0)
        destroy_context(primary[device]);
    return leave(CUDA_SUCCESS);
}

API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    ENTER(NEEDS_INIT);
    if (checked_device(device) != CUDA_SUCCESS)
        return leave(CUDA_ERROR_INVALID_DEVICE);
    *active = primary[device] != NULL;
    *flags = primary[device] != NULL ? primary[device]->flags : 0;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxCreate_v2(struct context **context, unsigned flags, CUdevice device) {
    ENTER(NEEDS_INIT);
    if (checked_device(device) != CUDA_SUCCESS)
        return leave(CUDA_ERROR_INVALID_DEVICE);
    if (sticky_error() != CUDA_SUCCESS)
        return leave(sticky_error());
    if (depth == DEEPEST)
        return leave(CUDA_ERROR_OUT_OF_MEMORY);
    *context = new_context(device, flags);
    stack[depth++] = *context;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxCreate_v4(struct context **context, void *parameters, unsigned flags, CUdevice device) {
    return parameters == NULL ? cuCtxCreate_v2(context, flags, device) : CUDA_ERROR_NOT_SUPPORTED;
}

API CUresult cuCtxDestroy_v2(struct context *context) {
    ENTER(NEEDS_INIT);
    if (live_object(context, CONTEXT) == NULL)
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    for (int device = 0; device < MOST_DEVICES; device++)
        if (primary[device] == context)
            return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (current_context() == context)
        depth--;
    destroy_context(context);
    return leave(CUDA_SUCCESS);
}

/* Attach and Detach, which PyCUDA uses, count the users of a context that cuCtxCreate made. */
API CUresult cuCtxAttach(struct context **context, unsigned flags) {
    ENTER(NEEDS_CONTEXT);
    if (flags != 0)
        return leave(CUDA_ERROR_INVALID_VALUE);
    *context = current_context();
    (*context)->users++;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxDetach(struct context *context) {
    ENTER(NEEDS_INIT);
    if (live_object(context, CONTEXT) == NULL || context != current_context())
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    if (--context->users == 0) {
        depth--;
        destroy_context(context);
    }
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxPushCurrent_v2(struct context *context) {
    ENTER(NEEDS_INIT);
    if (live_object(context, CONTEXT) == NULL)
        return leave(context == NULL ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (depth == DEEPEST)
        return leave(CUDA_ERROR_OUT_OF_MEMORY);
    stack[depth++] = context;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxPopCurrent_v2(struct context **context) {
    ENTER(NEEDS_INIT);
    if (depth == 0)
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    depth--;
    if (context != NULL)
        *context = stack[depth];
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxGetCurrent(struct context **context) {
    ENTER(NEEDS_INIT);
    *context = current_context();
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxSetCurrent(struct context *context) {
    ENTER(NEEDS_INIT);
    if (context != NULL && live_object(context, CONTEXT) == NULL)
        return leave(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if (depth > 0)
        depth--;
    if (context != NULL)
        stack[depth++] = context;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxGetDevice(CUdevice *device) {
    ENTER(NEEDS_CONTEXT);
    *device = current_context()->device;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxGetFlags(unsigned *flags) {
    ENTER(NEEDS_CONTEXT);
    *flags = current_context()->flags;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxGetApiVersion(struct context *context, unsigned *version) {
    ENTER(NEEDS_INIT);
    if (context == NULL ? current_context() == NULL : live_object(context, CONTEXT) == NULL)
        return leave(CUDA_ERROR_INVALID_CONTEXT);
    *version = 3020;
    return leave(CUDA_SUCCESS);
}

API CUresult cuCtxSynchronize(void) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return leave(finish_context(current_context()));
}

API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER(NEEDS_CONTEXT);
    if (least != NULL)
        *least = 0;
    if (greatest != NULL)
        *greatest = -5;
    return leave(CUDA_SUCCESS);
}
