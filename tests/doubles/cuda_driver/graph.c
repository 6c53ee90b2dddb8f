/* Capture of streams into graphs, and graphs that run. */
#include "driver.h"

#include <pthread.h>
#include <stdlib.h>

enum capture_mode { CAPTURE_GLOBAL, CAPTURE_THREAD_LOCAL, CAPTURE_RELAXED };
enum capture_status { CAPTURE_NONE, CAPTURE_ACTIVE, CAPTURE_INVALIDATED };

/* A captured graph, or with kind GRAPH_EXEC one that was instantiated.  Operations run in the order in which they were
 * captured, which keeps every order that the streams and events asked for. */
struct graph {
    struct object object;
    struct operation *first, *last;
    struct stream *origin; /* the stream that began the capture; NULL once it has ended */
    enum capture_mode mode;
    pthread_t thread;
    bool spoiled;
};

static void append(struct graph *graph, const struct operation *operation) {
    struct operation *last = copied_operation(operation);
    if (graph->first == NULL)
        graph->first = last;
    else
        graph->last->next = last;
    graph->last = last;
}

void drop_graph(struct graph *graph) {
    while (graph->first != NULL) {
        struct operation *next = graph->first->next;
        drop_operation(graph->first);
        graph->first = next;
    }
    forget_object(graph);
}

CUresult run_graph(const struct graph *graph) {
    CUresult result = CUDA_SUCCESS;
    for (const struct operation *o = graph->first; o != NULL && result == CUDA_SUCCESS; o = o->next)
        result = run_operation(o);
    return result;
}

void spoil_capture(struct graph *graph) {
    graph->spoiled = true;
}

CUresult add_to_capture(struct stream *stream, const struct operation *operation) {
    if (stream->capture->spoiled)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->unjoined = true;
    append(stream->capture, operation);
    return CUDA_SUCCESS;
}

/* A wait for a captured event takes a stream into the capture; the first stream's wait for it lets it out again. */
CUresult join_capture(struct stream *stream, struct event *event) {
    if (event->capture == NULL) {
        if (event->recorded)
            spoil_capture(stream->capture);
        return event->recorded ? CUDA_ERROR_STREAM_CAPTURE_ISOLATION : CUDA_SUCCESS;
    }
    struct graph *graph = live_object(event->capture, GRAPH);
    if (graph == NULL || graph->origin == NULL)
        return CUDA_ERROR_CAPTURED_EVENT;
    if (stream->capture != NULL && stream->capture != graph) {
        spoil_capture(stream->capture);
        spoil_capture(graph);
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    struct stream *recorded = live_object(event->stream, STREAM);
    if (recorded != NULL && recorded != stream)
        recorded->unjoined = false;
    if (stream->capture == NULL)
        stream->unjoined = true;
    stream->capture = graph;
    return CUDA_SUCCESS;
}

bool unsafe_while_capturing(void) {
    bool unsafe = false;
    struct object *object = NULL;
    while ((object = next_object(GRAPH, NULL, object)) != NULL) {
        struct graph *graph = (struct graph *)object;
        bool here = graph->mode == CAPTURE_GLOBAL ||
                    (graph->mode == CAPTURE_THREAD_LOCAL && pthread_equal(graph->thread, pthread_self()));
        if (graph->origin != NULL && here)
            graph->spoiled = unsafe = true;
    }
    return unsafe;
}

API CUresult cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED)
        return leave(CUDA_ERROR_INVALID_VALUE);
    if (stream == stream->object.context->legacy)
        return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (stream->capture != NULL)
        return leave(CUDA_ERROR_ILLEGAL_STATE);
    struct graph *graph = new_object(GRAPH, sizeof *graph, NULL);
    graph->origin = stream;
    graph->mode = (enum capture_mode)mode;
    graph->thread = pthread_self();
    stream->capture = graph;
    return leave(CUDA_SUCCESS);
}

/* Lets every stream of the capture go; whether one of them still had work that the first did not wait for. */
static bool release_streams(struct graph *graph) {
    bool unjoined = false;
    struct object *object = NULL;
    while ((object = next_object(STREAM, NULL, object)) != NULL) {
        struct stream *stream = (struct stream *)object;
        if (stream->capture != graph)
            continue;
        unjoined = unjoined || (stream != graph->origin && stream->unjoined);
        stream->capture = NULL;
        stream->unjoined = false;
    }
    graph->origin = NULL;
    return unjoined;
}

API CUresult cuStreamEndCapture(void *handle, struct graph **captured) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    struct graph *graph = stream->capture;
    if (graph == NULL)
        return leave(CUDA_ERROR_ILLEGAL_STATE);
    if (graph->origin != stream)
        return leave(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    if (graph->mode != CAPTURE_RELAXED && !pthread_equal(graph->thread, pthread_self()))
        return leave(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    bool unjoined = release_streams(graph);
    CUresult result = graph->spoiled ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                      : unjoined     ? CUDA_ERROR_STREAM_CAPTURE_UNJOINED
                                     : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS)
        drop_graph(graph);
    if (captured != NULL)
        *captured = result == CUDA_SUCCESS ? graph : NULL;
    return leave(result);
}

API CUresult cuStreamIsCapturing(void *handle, int *status) {
    ENTER(NEEDS_CONTEXT);
    const struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    const struct graph *graph = stream->capture;
    *status = graph == NULL ? CAPTURE_NONE : graph->spoiled ? CAPTURE_INVALIDATED : CAPTURE_ACTIVE;
    return leave(CUDA_SUCCESS);
}

API CUresult cuGraphInstantiateWithFlags(struct graph **executable, struct graph *handle, unsigned long long flags) {
    (void)flags; /* they say how, not whether */
    ENTER(NEEDS_CONTEXT);
    const struct graph *graph = live_object(handle, GRAPH);
    if (graph == NULL || graph->origin != NULL || executable == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    struct graph *made = new_object(GRAPH_EXEC, sizeof *made, current_context());
    for (const struct operation *o = graph->first; o != NULL; o = o->next)
        append(made, o);
    *executable = made;
    return leave(CUDA_SUCCESS);
}

API CUresult cuGraphLaunch(struct graph *executable, void *handle) {
    ENTER(NEEDS_CONTEXT);
    struct stream *stream = stream_of_handle(handle);
    if (stream == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    if (live_object(executable, GRAPH_EXEC) == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    return leave(submit(stream, &(struct operation){.kind = GRAPH_LAUNCH, .graph = executable}));
}

API CUresult cuGraphUpload(struct graph *executable, void *handle) {
    ENTER(NEEDS_CONTEXT);
    if (stream_of_handle(handle) == NULL)
        return leave(CUDA_ERROR_INVALID_HANDLE);
    return leave(live_object(executable, GRAPH_EXEC) != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* Without `nodes`, only their number. */
API CUresult cuGraphGetNodes(struct graph *handle, struct operation **nodes, size_t *count) {
    ENTER(NEEDS_INIT);
    const struct graph *graph = live_object(handle, GRAPH);
    if (graph == NULL || count == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    size_t found = 0;
    for (struct operation *o = graph->first; o != NULL; o = o->next, found++)
        if (nodes != NULL && found < *count)
            nodes[found] = o;
    *count = found;
    return leave(CUDA_SUCCESS);
}

API CUresult cuGraphDestroy(struct graph *handle) {
    ENTER(NEEDS_INIT);
    struct graph *graph = live_object(handle, GRAPH);
    if (graph == NULL || graph->origin != NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    drop_graph(graph);
    return leave(CUDA_SUCCESS);
}

/* Launches that are under way end first. */
API CUresult cuGraphExecDestroy(struct graph *handle) {
    ENTER(NEEDS_INIT);
    struct graph *executable = live_object(handle, GRAPH_EXEC);
    if (executable == NULL)
        return leave(CUDA_ERROR_INVALID_VALUE);
    settle(executable->object.context);
    drop_graph(executable);
    return leave(CUDA_SUCCESS);
}
