/* Control of profilers: there is none. */
#include "driver.h"

EXPORTED CUresult cuProfilerStart(void);
EXPORTED CUresult cuProfilerStop(void);

CUresult cuProfilerStart(void)
{
    return enter(__func__);
}

CUresult cuProfilerStop(void)
{
    return enter(__func__);
}
