/* What the files of the CUDA driver double share.
 *
 * The double is a libcuda.so.1 on the CPU: device memory is malloc'ed, copies are memcpy, and a kernel is a function
 * of a shared library.  It checks what the real driver checks (contexts, handles, addresses, capture rules) and
 * answers with the real driver's codes, so that host code which is wrong on a GPU is wrong here, too.
 *
 * Locking: `enter` takes one lock for the tables of objects and `leave` gives it back.  Kernels and host functions
 * run outside it (see operation.c).
 */
#ifndef CUDA_DRIVER_DOUBLE_H
#define CUDA_DRIVER_DOUBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
#define RESULT(name, number, text) name = number,
#include "results.h"
#undef RESULT
} CUresult;

typedef int CUdevice;
typedef uint64_t CUdeviceptr; /* a host address */
typedef void (*CUhostFn)(void *data);

#define API __attribute__((visibility("default")))

enum kind { CONTEXT, STREAM, EVENT, GRAPH, GRAPH_EXEC, MODULE, FUNCTION, KIND_COUNT };

/* The head of everything that a handle points to. */
struct object {
    enum kind kind;
    struct context *context; /* destroyed with it; NULL for contexts and graphs */
    struct object *next;
};

struct context {
    struct object object;
    CUdevice device;
    unsigned flags;
    int users; /* of a primary context: retains not yet released */
    struct stream *legacy; /* the NULL stream */
};

/* Work that waits, in order; empty between calls unless a test asked for deferred mode. */
struct queue {
    struct operation *first, *last;
    uint64_t submitted, done; /* operations since the stream was made */
    bool running;
};

struct stream {
    struct object object;
    unsigned flags;
    int priority;
    struct graph *capture; /* the graph that is being recorded, or NULL */
    bool unjoined;         /* recorded work that the stream which began the capture does not wait for yet */
    struct queue queue;
};

struct event {
    struct object object;
    unsigned flags;
    bool recorded;
    int64_t time_ns;       /* when the work before it was done */
    struct stream *stream; /* where it was recorded last */
    uint64_t position;     /* operations submitted there before it, its own among them */
    struct graph *capture; /* the graph that was being captured then, or NULL */
};

enum { NO_CHECK = 0, NEEDS_INIT = 1, NEEDS_CONTEXT = 3, UNSAFE_IN_CAPTURE = 4 };

/* Checks that come before a call's own, in the driver's order; on CUDA_SUCCESS the lock is held. */
CUresult enter(const char *call, unsigned checks);
CUresult leave(CUresult result);

/* As the first line of an exported function: returns from it when a check fails. */
#define ENTER(checks)                                 \
    do {                                              \
        CUresult entered = enter(__func__, (checks)); \
        if (entered != CUDA_SUCCESS)                  \
            return entered;                           \
    } while (0)

/* The lock is given back while a kernel or a host function runs. */
void unlock_tables(void);
void lock_tables(void);
void announce_change(void);
void wait_for_change(void);

/* control.c: errors that a test asks for */
CUresult sticky_error(void);
void set_sticky_error(CUresult error);
CUresult injected_error(const char *call);
bool deferred(void);

/* device.c */
bool initialised(void);
int device_count(void);
bool device_integrated(void);
uint64_t device_memory_bytes(void);
void set_device_memory_bytes(uint64_t bytes);

/* object.c */
void *new_object(enum kind kind, size_t bytes, struct context *context);
void *live_object(const void *handle, enum kind kind); /* NULL where the handle is none of that kind */
void unlink_object(const void *object);
void forget_object(void *object);                      /* unlinks and frees */
struct object *next_object(enum kind kind, const struct context *context, const struct object *after);
long object_count(enum kind kind);

/* context.c */
struct context *current_context(void);
void forget_contexts(void);

/* memory.c */
enum place { PAGEABLE, DEVICE, PINNED, REGISTERED };
struct allocation {
    enum place place;
    uint8_t *start;
    uint64_t bytes;
    unsigned flags;
    struct context *context;
    struct allocation *next;
};
struct allocation *allocation_at(uint64_t address);
bool device_range(uint64_t address, uint64_t bytes); /* whether the device may touch all of it */
bool host_range(const void *address, uint64_t bytes);
void free_memory_of(const struct context *context);
long allocation_count(enum place place);
uint64_t used_bytes(void);

/* operation.c: work on a stream */
struct launch;
enum operation_kind { COPY, FILL, KERNEL, HOST_FUNCTION, EVENT_RECORD, EVENT_WAIT, GRAPH_LAUNCH };
struct operation {
    enum operation_kind kind;
    void *destination;
    const void *source;
    uint64_t bytes;   /* of COPY; of FILL: elements times width */
    uint32_t value;   /* of FILL */
    uint32_t width;   /* of FILL: 1, 2 or 4 bytes an element */
    bool owns_source; /* a copy of pageable memory, freed with the operation */
    struct launch *launch;
    CUhostFn function;
    void *data;
    struct event *event;
    struct stream *stream; /* of EVENT_WAIT: where the event was recorded */
    uint64_t position;
    struct graph *graph;
    struct operation *next;
};

CUresult submit(struct stream *stream, const struct operation *operation);
CUresult run_operation(const struct operation *operation);
void drop_operation(struct operation *operation);
CUresult finish_stream(struct stream *stream);
CUresult finish_context(const struct context *context);
void settle(const struct context *context);
CUresult finish_up_to(struct stream *stream, uint64_t position);
CUresult finish_one(struct stream *stream); /* CUDA_ERROR_NOT_READY while more is left after it */
struct operation *copied_operation(const struct operation *operation);
bool inside_host_function(void);
int64_t now_ns(void);

/* stream.c, module.c, graph.c */
struct stream *new_stream(struct context *context, unsigned flags, int priority);
struct stream *stream_of_handle(void *handle); /* NULL where it is none; 0 and 1 are the context's legacy stream */
void free_stream(struct stream *stream);
void free_module(struct object *module);
struct launch *copied_launch(const struct launch *launch);
void free_launch(struct launch *launch);
void run_launch(const struct launch *launch);
bool unsafe_while_capturing(void); /* spoils the capture where it is */
CUresult add_to_capture(struct stream *stream, const struct operation *operation);
CUresult join_capture(struct stream *stream, struct event *event);
void spoil_capture(struct graph *graph);
CUresult run_graph(const struct graph *graph);
void drop_graph(struct graph *graph);

#endif
