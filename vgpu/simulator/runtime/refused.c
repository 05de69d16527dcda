/* Functions that the simulated runtime has no counterpart of. Their arguments are not looked at. */
#include "runtime.h"

#define REFUSED(name)                                                     \
    EXPORTED cudaError_t name##_refusal(void) __asm__(#name);             \
    cudaError_t name##_refusal(void)                                      \
    {                                                                     \
        return answer(ready() ?: CUDA_ERROR_NOT_SUPPORTED);               \
    }
#include "refused_symbols.h"
