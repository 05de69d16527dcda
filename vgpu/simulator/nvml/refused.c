/* Functions of NVML that the simulator has no counterpart of. Their arguments are not looked at. */
#include "management.h"

#define REFUSED(name)                                        \
    EXPORTED nvmlReturn_t name##_refusal(void) __asm__(#name); \
    nvmlReturn_t name##_refusal(void)                        \
    {                                                        \
        return refuse(#name);                                \
    }
#include "refused_symbols.h"
