/* Functions that the simulated driver has no counterpart of. Their arguments are not looked at. */
#include "driver.h"

#define REFUSED(name)                                                                  \
    __attribute__((visibility("default"))) CUresult name##_refusal(void) __asm__(#name); \
    CUresult name##_refusal(void)                                                      \
    {                                                                                  \
        CUresult entered = enter(#name);                                               \
        return entered ? entered : CUDA_ERROR_NOT_SUPPORTED;                           \
    }
#include "refused_symbols.h"
