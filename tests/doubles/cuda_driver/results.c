/* Names and texts of result codes. */
#include "driver.h"

API CUresult cuGetErrorName(CUresult error, const char **name) {
    switch ((int)error) {
#define RESULT(code, number, text) \
    case number:                   \
        *name = #code;             \
        return CUDA_SUCCESS;
#include "results.h"
#undef RESULT
    }
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult error, const char **text) {
    switch ((int)error) {
#define RESULT(code, number, words) \
    case number:                    \
        *text = words;              \
        return CUDA_SUCCESS;
#include "results.h"
#undef RESULT
    }
    *text = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}
