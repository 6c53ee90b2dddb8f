/* The table of live objects: a handle is good only while it is in it. */
#include "driver.h"

#include <stdlib.h>

static struct object *objects = NULL;

void *new_object(enum kind kind, size_t bytes, struct context *context) {
    struct object *object = calloc(1, bytes);
    if (object == NULL)
        abort();
    object->kind = kind;
    object->context = context;
    object->next = objects;
    objects = object;
    return object;
}

void *live_object(const void *handle, enum kind kind) {
    for (struct object *object = objects; object != NULL; object = object->next)
        if (object == handle && object->kind == kind)
            return object;
    return NULL;
}

void unlink_object(const void *object) {
    for (struct object **link = &objects; *link != NULL; link = &(*link)->next)
        if (*link == object) {
            *link = (*link)->next;
            return;
        }
}

void forget_object(void *object) {
    unlink_object(object);
    free(object);
}

/* The first object of a kind after another one (NULL: of all), of one context or of any (NULL). */
struct object *next_object(enum kind kind, const struct context *context, const struct object *after) {
    struct object *object = after == NULL ? objects : after->next;
    while (object != NULL && (object->kind != kind || (context != NULL && object->context != context)))
        object = object->next;
    return object;
}

long object_count(enum kind kind) {
    long count = 0;
    for (struct object *object = objects; object != NULL; object = object->next) {
        if (object->kind != kind || (kind == STREAM && (struct stream *)object == object->context->legacy))
            continue;
        count += kind == CONTEXT ? ((struct context *)object)->users : 1;
    }
    return count;
}
