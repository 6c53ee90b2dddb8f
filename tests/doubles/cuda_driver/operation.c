/* Work on a stream: done within the call that submits it, recorded by a capture, or, in deferred mode, kept until
 * something waits for it.  Deferred mode shows host code that reads a result or reuses a buffer too early.
 */
#define _POSIX_C_SOURCE 200809L
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static __thread bool in_host_function = false;

bool inside_host_function(void) {
    return in_host_function;
}

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void fill(const struct operation *operation) {
    if (operation->width == 1) {
        memset(operation->destination, (int)operation->value, operation->bytes);
        return;
    }
    uint8_t *at = operation->destination, *end = at + operation->bytes;
    for (; at < end; at += operation->width)
        memcpy(at, &operation->value, operation->width); /* little endian: the low bytes come first */
}

/* A host function may not call CUDA: `enter` refuses it while the flag is set. */
static void call_host_function(const struct operation *operation) {
    unlock_tables();
    in_host_function = true;
    operation->function(operation->data);
    in_host_function = false;
    lock_tables();
}

CUresult run_operation(const struct operation *operation) {
    struct event *event;
    switch (operation->kind) {
    case COPY:
        memmove(operation->destination, operation->source, operation->bytes);
        return CUDA_SUCCESS;
    case FILL:
        fill(operation);
        return CUDA_SUCCESS;
    case KERNEL:
        unlock_tables();
        run_launch(operation->launch);
        lock_tables();
        return CUDA_SUCCESS;
    case HOST_FUNCTION:
        call_host_function(operation);
        return CUDA_SUCCESS;
    case EVENT_RECORD:
        event = live_object(operation->event, EVENT);
        if (event != NULL) {
            event->recorded = true;
            event->time_ns = now_ns();
        }
        return CUDA_SUCCESS;
    case EVENT_WAIT:
        return live_object(operation->stream, STREAM) ? finish_up_to(operation->stream, operation->position)
                                                      : CUDA_SUCCESS;
    case GRAPH_LAUNCH:
        return live_object(operation->graph, GRAPH_EXEC) ? run_graph(operation->graph) : CUDA_SUCCESS;
    }
    return CUDA_ERROR_UNKNOWN;
}

/* With arguments and pageable source memory of its own, since the caller's may be gone when it runs. */
struct operation *copied_operation(const struct operation *operation) {
    struct operation *copied = malloc(sizeof *copied);
    if (copied == NULL)
        abort();
    *copied = *operation;
    copied->next = NULL;
    if (operation->kind == KERNEL)
        copied->launch = copied_launch(operation->launch);
    if (operation->kind == COPY && allocation_at((uint64_t)operation->source) == NULL) {
        copied->source = memcpy(malloc(operation->bytes), operation->source, operation->bytes);
        copied->owns_source = true;
    }
    return copied;
}

void drop_operation(struct operation *operation) {
    if (operation->kind == KERNEL)
        free_launch(operation->launch);
    if (operation->owns_source)
        free((void *)operation->source);
    free(operation);
}

/* The legacy stream and blocking streams wait for each other; flag 1 (NON_BLOCKING) keeps a stream out of that. */
static CUresult wait_for_legacy_order(struct stream *stream) {
    struct context *context = stream->object.context;
    bool legacy = stream == context->legacy;
    if (stream->flags & 1)
        return CUDA_SUCCESS;
    if (!legacy)
        return finish_stream(context->legacy);
    struct object *other = NULL;
    while ((other = next_object(STREAM, context, other)) != NULL) {
        struct stream *blocking = (struct stream *)other;
        if (blocking == stream || (blocking->flags & 1))
            continue;
        if (blocking->capture != NULL) {
            spoil_capture(blocking->capture);
            return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        }
        finish_stream(blocking);
    }
    return CUDA_SUCCESS;
}

static CUresult run_now(struct stream *stream, const struct operation *operation) {
    struct queue *queue = &stream->queue;
    finish_stream(stream); /* another thread may be at it */
    queue->submitted++;
    queue->running = true;
    CUresult result = run_operation(operation);
    queue->running = false;
    queue->done++;
    announce_change();
    return result;
}

CUresult submit(struct stream *stream, const struct operation *operation) {
    if (stream->capture != NULL)
        return add_to_capture(stream, operation);
    CUresult result = wait_for_legacy_order(stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (!deferred())
        return run_now(stream, operation);
    struct queue *queue = &stream->queue;
    struct operation *last = copied_operation(operation);
    if (queue->first == NULL)
        queue->first = last;
    else
        queue->last->next = last;
    queue->last = last;
    queue->submitted++;
    return CUDA_SUCCESS;
}

CUresult finish_up_to(struct stream *stream, uint64_t position) {
    struct queue *queue = &stream->queue;
    CUresult result = CUDA_SUCCESS;
    while (queue->done < position) {
        if (queue->running) { /* another thread is at it */
            wait_for_change();
            continue;
        }
        struct operation *next = queue->first;
        queue->first = next->next;
        queue->running = true;
        CUresult error = run_operation(next);
        queue->running = false;
        queue->done++;
        announce_change();
        drop_operation(next);
        result = result == CUDA_SUCCESS ? error : result;
    }
    return result;
}

CUresult finish_stream(struct stream *stream) {
    return finish_up_to(stream, stream->queue.submitted);
}

/* A program that polls gets on by one operation each time. */
CUresult finish_one(struct stream *stream) {
    struct queue *queue = &stream->queue;
    if (queue->done < queue->submitted && !queue->running)
        finish_up_to(stream, queue->done + 1);
    return queue->done < queue->submitted ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

/* Of one context, or of all (NULL). */
CUresult finish_context(const struct context *context) {
    CUresult result = CUDA_SUCCESS;
    struct object *object = NULL;
    while ((object = next_object(STREAM, context, object)) != NULL) {
        CUresult error = finish_stream((struct stream *)object);
        result = result == CUDA_SUCCESS ? error : result;
    }
    return result;
}

/* Before something is freed.  What another thread is doing just now is not waited for: it may need Python's lock, which
 * this thread may hold. */
void settle(const struct context *context) {
    struct object *object = NULL;
    while ((object = next_object(STREAM, context, object)) != NULL)
        if (!((struct stream *)object)->queue.running)
            finish_stream((struct stream *)object);
}
