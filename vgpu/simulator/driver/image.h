/* Reading what a program loads as a module: which kernels it has, and how long their blocks take. */
#ifndef SIMULATOR_IMAGE_H
#define SIMULATOR_IMAGE_H

#include "driver.h"

struct global {
    struct global *next;
    char name[256];
    size_t bytes;
    struct region *region;
};

/* Fills functions and globals of the module; false if the image is nothing that is known. */
bool image_read(struct CUmod_st *module, const void *image);

/* Adds a kernel, with what the file in GPU_SIMULATOR_KERNELS says of its name. */
struct CUfunc_st *image_kernel(struct CUmod_st *module, const char *name);

#endif
