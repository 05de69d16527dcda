/* NVML, as far as it tells of memory and of processes. */
#ifndef TESSERA_MANAGEMENT_H
#define TESSERA_MANAGEMENT_H

void *management_named(const char *name); /* the library's own function of that name, NULL if it has none */

#endif
