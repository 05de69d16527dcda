/* What the families of allocating functions share. */
#ifndef TESSERA_ALLOCATING_H
#define TESSERA_ALLOCATING_H

#include "book.h"
#include "driver.h"
#include "slice.h"

#define PIECE (2 * MIB)
#define SMALL MIB

CUresult placing_init(unsigned int flags); /* placing.c: cuInit of the driver */

/* contexts.c */
int card_of_device(CUdevice device);
CUresult current_card(int *card, void **context); /* an error of the driver's, or CUDA_ERROR_INVALID_DEVICE for a card that is not of the slice */

static inline uint64_t rounded(uint64_t bytes, uint64_t to)
{
    return bytes > UINT64_MAX - to ? UINT64_MAX / to * to : (bytes + to - 1) / to * to;
}

#endif
