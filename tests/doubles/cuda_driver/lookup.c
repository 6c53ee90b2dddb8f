/* How cuda-bindings and the CUDA runtime find functions, and the functions that are not supported. */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define NOT_SUPPORTED(name)                \
    API CUresult name(void) {              \
        return CUDA_ERROR_NOT_SUPPORTED;   \
    }
#include "not_supported.h"
#undef NOT_SUPPORTED

/* Functions whose arguments changed, newest first: the symbol from a CUDA version on.  NULL: not in the double. */
static const struct {
    const char *name, *symbol;
    int since;
} versions[] = {
    {"cuCtxCreate", "cuCtxCreate_v4", 12050},
    {"cuCtxCreate", NULL, 11040},
    {"cuCtxGetDevice", NULL, 13000},
    {"cuCtxSynchronize", NULL, 13000},
    {"cuEventElapsedTime", "cuEventElapsedTime_v2", 12080},
    {"cuGetProcAddress", "cuGetProcAddress_v2", 12000},
    {"cuGraphInstantiate", "cuGraphInstantiateWithFlags", 12000},
    {"cuLaunchHostFunc", NULL, 13020},
    {"cuStreamGetCtx", NULL, 12050},
};

enum { FOUND, NO_SUCH_SYMBOL }; /* CUdriverProcAddressQueryResult */

static void *own_symbol(const char *symbol) {
    static void *library = NULL;
    Dl_info own;
    if (library == NULL && dladdr((void *)own_symbol, &own) != 0)
        library = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    return library == NULL ? NULL : dlsym(library, symbol);
}

/* "cuMemAlloc" as it was in CUDA `version`: cuMemAlloc_v2. */
static void *function_of_version(const char *name, int version) {
    char newer[256];
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (strcmp(name, versions[i].name) == 0 && version >= versions[i].since)
            return versions[i].symbol == NULL ? NULL : own_symbol(versions[i].symbol);
    for (int variant = 4; variant > 1; variant--) {
        snprintf(newer, sizeof newer, "%s_v%d", name, variant);
        bool listed = false;
        for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
            listed = listed || (versions[i].symbol != NULL && strcmp(newer, versions[i].symbol) == 0);
        void *function = listed ? NULL : own_symbol(newer);
        if (function != NULL)
            return function;
    }
    return strncmp(name, "cu", 2) == 0 ? own_symbol(name) : NULL;
}

API CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)flags; /* which default stream: the double has one */
    if (name == NULL || function == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *function = function_of_version(name, version);
    if (status != NULL)
        *status = *function != NULL ? FOUND : NO_SUCH_SYMBOL;
    return *function != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

API CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* Private interfaces, which the CUDA runtime library asks for when it starts.  This answer makes it say that there is
 * no GPU, so that PyTorch in the same process stays on the CPU, without a warning. */
API CUresult cuGetExportTable(const void **table, const void *identity) {
    (void)identity;
    *table = NULL;
    return CUDA_ERROR_NO_DEVICE;
}
