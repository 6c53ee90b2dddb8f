/* Streams and events. */
#include "driver.h"

enum { NON_BLOCKING = 1, LEGACY_HANDLE = 1, EVENT_FLAGS = 7, DISABLE_TIMING = 2 };

struct stream *new_stream(struct context *context, unsigned flags, int priority) {
    struct stream *stream = new_object(STREAM, sizeof *stream, context);
    stream->flags = flags;
    stream->priority = priority;
    return stream;
}

struct stream *stream_of_handle(void *handle) {
    if (handle == NULL || handle == (void *)LEGACY_HANDLE)
        return current_context()->legacy;
    return live_object(handle, STREAM);
}

/* One that another thread is using just now is only forgotten: that thread still looks at it. */
void free_stream(struct stream *stream) {
    if (stream->queue.running) {
        unlink_object(stream);
        return;
    }
    finish_stream(stream);
    forget_object(stream);
}

API CUresult cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    ENTER(NEEDS_CONTEXT);
    if (stream == NULL || flags > NON_BLOCKING)
        return leave(CUDA_ERROR_INVALID_VALUE);
    *stream = new_stream(current_context(), flags, priority);
    return leave(CUDA_SUCCESS);
}

API CUresult cuStreamCreate(void **stream, unsigned flags) {
    return cuStreamCreateWithPriority(stream, flags, 0);
}

API CUresult cuStreamDestroy_v2(void *handle) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = live_object(handle, STREAM);
    if (stream == NULL || stream == stream->object.context->legacy)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (stream->capture != NULL)
        spoil_capture(stream->capture);
    free_stream(stream);
    return leave(CUDA_SUCCESS);
}

/* Waiting is forbidden on a stream that is being captured. */
static CUresult checked_for_waiting(const struct stream *stream) {
    if (stream == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture == NULL)
        return CUDA_SUCCESS;
    spoil_capture(stream->capture);
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

API CUresult cuStreamSynchronize(void *handle) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    CUresult result = checked_for_waiting(stream);
    return leave(result == CUDA_SUCCESS ? finish_stream(stream) : result);
}

API CUresult cuStreamQuery(void *handle) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    CUresult result = checked_for_waiting(stream);
    return leave(result == CUDA_SUCCESS ? finish_one(stream) : result);
}

API CUresult cuStreamGetFlags(void *handle, unsigned *flags) {
    ENTER(NEEDS_CONTEXT);
    const struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    *flags = stream->flags;
    return leave(CUDA_SUCCESS);
}

API CUresult cuStreamGetPriority(void *handle, int *priority) {
    ENTER(NEEDS_CONTEXT);
    const struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    *priority = stream->priority;
    return leave(CUDA_SUCCESS);
}

API CUresult cuStreamGetCtx(void *handle, struct context **context) {
    ENTER(NEEDS_CONTEXT);
    const struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    *context = stream->object.context;
    return leave(CUDA_SUCCESS);
}

API CUresult cuLaunchHostFunc(void *handle, CUhostFn function, void *data) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (function == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(submit(stream, &(struct operation){.kind = HOST_FUNCTION, .function = function, .data = data}));
}

API CUresult cuEventCreate(void **event, unsigned flags) {
    ENTER(NEEDS_CONTEXT);
    if (event == NULL || flags > EVENT_FLAGS)
        return leave(CUDA_ERROR_INVALID_VALUE);
    struct event *created = new_object(EVENT, sizeof *created, current_context());
    created->flags = flags;
    *event = created;
    return leave(CUDA_SUCCESS);
}

API CUresult cuEventDestroy_v2(void *handle) {
    ENTER(NEEDS_CONTEXT);
    struct event *event = live_object(handle, EVENT);
    if (event != NULL)
        forget_object(event);
    return leave(event != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

API CUresult cuEventRecord(void *handle, void *stream_handle) {
    ENTER(NEEDS_CONTEXT);
    struct event *event = live_object(handle, EVENT);
    struct stream *stream = stream_of_handle(stream_handle);
    if (event == NULL || stream == NULL || event->object.context != stream->object.context)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    event->recorded = true;
    event->stream = stream;
    event->capture = stream->capture;
    event->position = stream->queue.submitted + 1;
    if (stream->capture != NULL) /* orders the graph, does nothing when it runs */
        return leave(CUDA_SUCCESS);
    return leave(submit(stream, &(struct operation){.kind = EVENT_RECORD, .event = event}));
}

/* EXTERNAL, in a capture only: the graph notes the moment anew each time that it runs. */
API CUresult cuEventRecordWithFlags(void *handle, void *stream_handle, unsigned flags) {
    if (flags == 0)
        return cuEventRecord(handle, stream_handle);
    ENTER(NEEDS_CONTEXT);
    struct event *event = live_object(handle, EVENT);
    struct stream *stream = stream_of_handle(stream_handle);
    if (event == NULL || stream == NULL || event->object.context != stream->object.context)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags != 1 || stream->capture == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    event->stream = NULL;
    event->capture = NULL;
    return leave(submit(stream, &(struct operation){.kind = EVENT_RECORD, .event = event}));
}

/* Whether the work before the event may be waited for, and where it is; NULL stream: nothing to wait for. */
static CUresult stream_to_wait_for(const struct event *event, struct stream **stream) {
    *stream = NULL;
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture != NULL)
        return CUDA_ERROR_CAPTURED_EVENT;
    if (event->recorded)
        *stream = live_object(event->stream, STREAM);
    return CUDA_SUCCESS;
}

API CUresult cuEventSynchronize(void *handle) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    struct event *event = live_object(handle, EVENT);
    struct stream *stream;
    CUresult result = stream_to_wait_for(event, &stream);
    return leave(stream != NULL ? finish_up_to(stream, event->position) : result);
}

API CUresult cuEventQuery(void *handle) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    struct event *event = live_object(handle, EVENT);
    struct stream *stream;
    CUresult result = stream_to_wait_for(event, &stream);
    if (stream == NULL)
        return leave(result);
    finish_one(stream);
    return leave(stream->queue.done < event->position ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

API CUresult cuStreamWaitEvent(void *stream_handle, void *event_handle, unsigned flags) {
    ENTER(NEEDS_CONTEXT);
    struct event *event = live_object(event_handle, EVENT);
    struct stream *stream = stream_of_handle(stream_handle), *other;
    if (event == NULL || stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags > 1)
        return leave(CUDA_ERROR_INVALID_VALUE);
    if (event->capture != NULL || stream->capture != NULL)
        return leave(join_capture(stream, event));
    stream_to_wait_for(event, &other);
    if (other == NULL || other == stream)
        return leave(CUDA_SUCCESS);
    struct operation wait = {.kind = EVENT_WAIT, .stream = other, .position = event->position};
    return leave(submit(stream, &wait));
}

/* Between two events that are both reached, with a resolution better than a GPU's half microsecond. */
API CUresult cuEventElapsedTime(float *elapsed_ms, void *start_handle, void *end_handle) {
    ENTER(NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    const struct event *events[] = {live_object(start_handle, EVENT), live_object(end_handle, EVENT)};
    for (int i = 0; i < 2; i++) {
        struct stream *stream;
        CUresult result = stream_to_wait_for(events[i], &stream);
        if (result != CUDA_SUCCESS)
            return leave(result);
        if (!events[i]->recorded || (events[i]->flags & DISABLE_TIMING))
            return leave(CUDA_ERROR_INVALID_HANDLE);
        if (stream != NULL && stream->queue.done < events[i]->position)
            return leave(CUDA_ERROR_NOT_READY);
    }
    *elapsed_ms = (float)((double)(events[1]->time_ns - events[0]->time_ns) / 1e6);
    return leave(CUDA_SUCCESS);
}

API CUresult cuEventElapsedTime_v2(float *elapsed_ms, void *start, void *end) {
    return cuEventElapsedTime(elapsed_ms, start, end);
}
