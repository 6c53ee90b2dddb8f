/* The lock, the checks that every call starts with, and what a test may ask of the double (double_*). */
#include "driver.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t tables = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static CUresult sticky = CUDA_SUCCESS;
static bool deferred_mode = false;

static char injected_call[64];
static CUresult injected_code;
static long injected_after;

void lock_tables(void) {
    pthread_mutex_lock(&tables);
}

void unlock_tables(void) {
    pthread_mutex_unlock(&tables);
}

void announce_change(void) {
    pthread_cond_broadcast(&changed);
}

void wait_for_change(void) {
    pthread_cond_wait(&changed, &tables);
}

CUresult sticky_error(void) {
    return sticky;
}

/* The first error stays: it is the cause of those after it. */
void set_sticky_error(CUresult error) {
    if (sticky == CUDA_SUCCESS)
        sticky = error;
}

bool deferred(void) {
    return deferred_mode;
}

CUresult injected_error(const char *call) {
    if (strcmp(call, injected_call) != 0 || injected_after-- > 0)
        return CUDA_SUCCESS;
    injected_call[0] = '\0';
    return injected_code;
}

static CUresult checked(const char *call, unsigned checks) {
    if (inside_host_function())
        return CUDA_ERROR_NOT_PERMITTED;
    if ((checks & NEEDS_INIT) && !initialised())
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult injected = injected_error(call);
    if (injected != CUDA_SUCCESS)
        return injected;
    if ((checks & NEEDS_CONTEXT) == NEEDS_CONTEXT) {
        struct context *context = current_context();
        if (context == NULL)
            return CUDA_ERROR_INVALID_CONTEXT;
        if (live_object(context, CONTEXT) == NULL)
            return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        if (sticky != CUDA_SUCCESS)
            return sticky;
    }
    if ((checks & UNSAFE_IN_CAPTURE) && unsafe_while_capturing())
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return CUDA_SUCCESS;
}

CUresult enter(const char *call, unsigned checks) {
    lock_tables();
    CUresult result = checked(call, checks);
    if (result != CUDA_SUCCESS)
        unlock_tables();
    return result;
}

CUresult leave(CUresult result) {
    unlock_tables();
    return result;
}

/* From now on every call that needs a context answers `error`, as after an illegal address on a GPU. */
API void double_break(CUresult error) {
    lock_tables();
    set_sticky_error(error);
    unlock_tables();
}

/* The call of this name ("cuMemAlloc_v2") answers `error` once, after `after` calls that work. */
API void double_fail_call(const char *call, CUresult error, long after) {
    lock_tables();
    strncpy(injected_call, call, sizeof injected_call - 1);
    injected_code = error;
    injected_after = after;
    unlock_tables();
}

/* Work on streams waits until something waits for it (1), or is done within the call that submits it (0). */
API void double_set_deferred(int on) {
    lock_tables();
    finish_context(NULL);
    deferred_mode = on != 0;
    unlock_tables();
}

/* The size of the device's memory; 0 gives the default back. */
API void double_set_memory_bytes(uint64_t bytes) {
    lock_tables();
    set_device_memory_bytes(bytes);
    unlock_tables();
}

/* How many there are: "allocations", "pinned", "registered", "bytes", "contexts", "streams", "events", "graphs",
 * "graph_execs", "modules"; -1 for another word.  Contexts count every retain of the primary one. */
API long double_live(const char *what) {
    static const char *const kinds[] = {"contexts", "streams", "events", "graphs", "graph_execs", "modules"};
    static const char *const places[] = {"allocations", "pinned", "registered"};
    long count = -1;
    lock_tables();
    for (int kind = 0; kind < (int)(sizeof kinds / sizeof *kinds); kind++)
        if (strcmp(what, kinds[kind]) == 0)
            count = object_count((enum kind)kind);
    for (int place = 0; place < (int)(sizeof places / sizeof *places); place++)
        if (strcmp(what, places[place]) == 0)
            count = allocation_count((enum place)(place + DEVICE));
    if (strcmp(what, "bytes") == 0)
        count = (long)used_bytes();
    unlock_tables();
    return count;
}

/* A new device: no context, no memory, no error.  What still points to old objects gets INVALID_VALUE or _HANDLE. */
API void double_reset(void) {
    lock_tables();
    forget_contexts();
    sticky = CUDA_SUCCESS;
    injected_call[0] = '\0';
    deferred_mode = false;
    set_device_memory_bytes(0);
    unlock_tables();
}
